"""The half of a GPU backend that knows no inference library."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fam_runtime.backends.base import Backend
from fam_runtime.device.captured import CAPTURE_AT_USE
from fam_runtime.device.place import DevicePlace

if TYPE_CHECKING:
    from fam_runtime.device.api import DeviceApi


class DeviceBackend(Backend):
    """Values and stages on a device; a subclass loads graphs and describes itself.

    Args:
        api: the device.
        capture_at_use: a stage is captured when it comes for the so-manieth time; 0: never.
    """

    place: DevicePlace

    every_output_bound: ClassVar[bool] = True
    """Whether its graphs write every output, wanted or not."""

    def __init__(self, api: DeviceApi, *, capture_at_use: int = CAPTURE_AT_USE) -> None:
        self.api = api
        self.place = DevicePlace(
            lambda: api,
            capture_at_use=capture_at_use,
            every_output_bound=self.every_output_bound,
        )
