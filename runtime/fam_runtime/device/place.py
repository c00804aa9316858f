"""A device as the place where a backend computes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from fam_runtime.backends.place import Place
from fam_runtime.device.captured import CAPTURE_AT_USE
from fam_runtime.device.stage_loop import DeviceStageLoop
from fam_runtime.device.tensor import DeviceTensor
from fam_runtime.errors import BackendError

if TYPE_CHECKING:
    from fam_runtime.backends.base import Array, Value
    from fam_runtime.device.api import DeviceApi


class DevicePlace(Place):
    """Values are :class:`DeviceTensor`.

    Args:
        open_api: gives the device when it is first needed, and after each :meth:`close`.
        capture_at_use: a stage is captured when it comes for the so-manieth time; 0: never.
        every_output_bound: graphs write every output, wanted or not.
    """

    holds_graphs = True

    def __init__(
        self,
        open_api: Callable[[], DeviceApi],
        *,
        capture_at_use: int = CAPTURE_AT_USE,
        every_output_bound: bool = True,
    ) -> None:
        self._open_api = open_api
        self._capture_at_use, self._every_output_bound = capture_at_use, every_output_bound
        self._api: DeviceApi | None = None
        self._loop: DeviceStageLoop | None = None

    @property
    def api(self) -> DeviceApi:
        """The device.

        Raises:
            BackendError: there is none.
        """
        if self._api is None:
            self._api = self._open_api()
        self._api.activate()
        return self._api

    def upload(self, array: Array) -> Value:
        """A copy on the device."""
        return self.api.memory.upload(array)

    def download(self, value: Value) -> Array:
        """A copy on the host, once the stream has come so far; an array is given back itself.

        Raises:
            BackendError: NumPy has no such type.
        """
        if not isinstance(value, DeviceTensor):
            return np.asarray(value)
        if value.dtype == "bfloat16":
            raise BackendError(
                "a tensor cannot be brought to the host",
                got=value.dtype,
                expected="a type that NumPy has",
                fix="leave it on the device",
            )
        array = np.empty(value.shape, np.dtype(value.dtype))
        self.api.copy_to_host(array, value.address)
        return array

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Value:
        """Zeros on the device; `dtype` may be bfloat16."""
        value = self.api.memory.tensor(shape, dtype)
        self.api.fill_zero(value.address, value.nbytes)
        return value

    def free_memory_bytes(self) -> int | None:
        """What the device has left, and what is held for calls like the next one."""
        held = 0 if self._loop is None else self._loop.buffer_bytes
        return self.api.memory_bytes()[0] + self.api.memory.cached_bytes + held

    def stage_loop(self) -> DeviceStageLoop:
        """The one loop of this place, with its buffers."""
        if self._loop is None:
            self._loop = DeviceStageLoop(
                self.api,
                capture_at_use=self._capture_at_use,
                every_output_bound=self._every_output_bound,
            )
        return self._loop

    def make_room(self) -> bool:
        """Give up the buffers, captured graphs and blocks that are held for later calls."""
        if self._loop is not None:
            self._loop.close()
        if self._api is not None:
            self._api.memory.trim()
        return True

    def close(self) -> None:
        """Free graphs, buffers, and the stream, whatever fails."""
        loop, self._loop = self._loop, None
        api, self._api = self._api, None
        with ExitStack() as closing:
            if api is not None:
                api.activate()
                closing.callback(api.close)
            if loop is not None:
                closing.callback(loop.close)
