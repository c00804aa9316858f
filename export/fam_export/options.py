"""What a user can choose about an export, checked against what the checkpoint can do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from fam_graph.frequency_modulation import CutoffReference
from fam_graph.interpolation import InterpolationMode
from fam_runtime.bundle import ModelDtype, PixelSize
from fam_runtime.contract import TapForm
from fam_runtime.errors import InvalidRequest
from fam_runtime.target_choice import MAX_SCALE


@dataclass(frozen=True)
class ExportOptions:
    """Options that shape every graph of a bundle; adding a target needs the same ones.

    Attributes:
        dtype: precision of the UNet and the text encoders (:mod:`fam_export.precision`).
        tap_form: hand queries and keys (`qk`) or attention maps (`maps`) to the target stage.
        tap_layers: layer names or prefixes; None is the paper's choice.
        guidance: export the classifier-free-guidance batch.
        cutoff_reference: which size sets FM's cut-off (METHOD: `target`).
        upsample_space, upsample_mode: the step between the stages.
        size_conditions: SDXL's size conditions of the target stage: its own size or the native.
    """

    dtype: ModelDtype = "fp32"
    tap_form: TapForm = "qk"
    tap_layers: tuple[str, ...] | None = None
    guidance: bool = True
    cutoff_reference: CutoffReference = "target"
    upsample_space: Literal["latent", "pixel"] = "latent"
    upsample_mode: InterpolationMode = "bicubic"
    size_conditions: Literal["stage", "native"] = "stage"


@dataclass(frozen=True)
class SizeLimits:
    """The sizes a checkpoint can do: multiples of `multiple`, not below the native size."""

    native: PixelSize
    multiple: int

    def target_from_scale(self, text: str) -> PixelSize:
        """``"2"``, ``"1.5"`` or ``"2x4"`` (height x width) → pixels.

        Raises:
            InvalidRequest: not a scale, or the size is not possible.
        """
        parts = text.lower().split("x")
        try:
            factors = [Fraction(part) for part in parts]
        except (ValueError, ZeroDivisionError):
            factors = []
        if len(factors) not in (1, 2):
            raise InvalidRequest(
                "--scale is not a number",
                got=text,
                expected="a factor such as 2, 1.5 or 2x4 (height x width)",
            )
        rows, columns = factors[0], factors[-1]
        if not (0 < rows <= MAX_SCALE and 0 < columns <= MAX_SCALE):
            raise InvalidRequest(
                "--scale is out of range", got=text, expected=f"more than 0, at most {MAX_SCALE}"
            )
        height, width = self.native.height * rows, self.native.width * columns
        if height.denominator != 1 or width.denominator != 1:
            raise self._impossible(f"scale {text}")
        return self.checked(PixelSize(int(height), int(width)), f"scale {text}")

    def target_from_size(self, text: str) -> PixelSize:
        """``"1536x1024"`` (height x width in pixels) → the size.

        Raises:
            InvalidRequest: not a size, or the size is not possible.
        """
        match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text.lower())
        if match is None:
            raise InvalidRequest(
                "--size is not a size",
                got=text,
                expected="HEIGHTxWIDTH in pixels, such as 1536x1024",
            )
        return self.checked(PixelSize(int(match[1]), int(match[2])), f"size {text}")

    def checked(self, size: PixelSize, asked: str) -> PixelSize:
        """`size`, if the checkpoint can do it as a target.

        Raises:
            InvalidRequest: it cannot; the text says which sizes it can do.
        """
        whole = size.height % self.multiple == 0 and size.width % self.multiple == 0
        inside = (
            self.native.height <= size.height <= MAX_SCALE * self.native.height
            and self.native.width <= size.width <= MAX_SCALE * self.native.width
        )
        if not whole or not inside or size == self.native:
            raise self._impossible(asked)
        return size

    def _impossible(self, asked: str) -> InvalidRequest:
        largest = MAX_SCALE * self.native.height, MAX_SCALE * self.native.width
        return InvalidRequest(
            f"the checkpoint cannot do {asked} as a target",
            expected=(
                f"height and width that are multiples of {self.multiple} pixels, from the native "
                f"{self.native} up to {largest[0]}x{largest[1]}, larger than native on one side"
            ),
            fix="choose such a size, for instance --scale 2",
        )


def targets_from(
    scales: Sequence[str], sizes: Sequence[str], limits: SizeLimits
) -> tuple[PixelSize, ...]:
    """All targets asked for, without duplicates, in order of size.

    Raises:
        InvalidRequest: one of them is not possible.
    """
    chosen = {limits.target_from_scale(text) for text in scales}
    chosen |= {limits.target_from_size(text) for text in sizes}
    return tuple(sorted(chosen))
