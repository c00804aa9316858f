"""What a call of the pipeline returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fam_runtime.errors import InvalidRequest

if TYPE_CHECKING:
    import os

    from PIL.Image import Image

Float32Array = npt.NDArray[np.float32]
OutputType = Literal["pil", "np", "latent"]
OUTPUT_TYPES: tuple[OutputType, ...] = ("pil", "np", "latent")

Images = "list[Image] | Float32Array"


@dataclass(frozen=True, eq=False)
class FamPipelineOutput:
    """Pictures, and how they came about.

    Attributes:
        images: by `output_type`: PIL pictures; float32 ``[N, height, width, 3]`` in [0, 1]; or the
            latents.
        latents: ``z_0`` at the target size, float32 ``[N, C, H, W]``.
        settings: per picture, as JSON types, everything that makes it again.
        report: timings in seconds per stage, how native attention was kept.
        native_images: pictures of the native stage, when they were asked for.
        native_latents: ``z_0^n``, float32 ``[N, C, h, w]``, where the native stage ran.
    """

    images: list[Image] | Float32Array
    latents: Float32Array
    settings: list[dict[str, Any]]
    report: dict[str, Any]
    native_images: list[Image] | Float32Array | None = None
    native_latents: Float32Array | None = field(default=None, repr=False)

    def save(self, path: str | os.PathLike[str], index: int = 0) -> Path:
        """Write picture `index` as a PNG with its settings.

        Raises:
            InvalidRequest: the pictures are arrays.
            StorageError: the file cannot be written.
        """
        from fam_runtime.picture import save_png

        if not isinstance(self.images, list):
            raise InvalidRequest(
                "only PIL pictures can be saved",
                got="arrays",
                expected="a result with output_type='pil'",
                fix="leave output_type out",
            )
        return save_png(self.images[index], path, self.settings[index])
