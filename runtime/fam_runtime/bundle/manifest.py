"""The manifest of a bundle: its one reader and its one writer (docs/bundle_format.md)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fam_runtime.bundle._cross_checks import check_references
from fam_runtime.bundle._export_command import export_command
from fam_runtime.bundle._json_cursor import JsonCursor
from fam_runtime.bundle._manifest_parsing import manifest_fields
from fam_runtime.bundle._noise_schedule import (
    NOISE_SCHEDULE_DEFAULTS,
    noise_schedule_from_config,
)
from fam_runtime.bundle._strict_json import canonical_bytes, parse_object
from fam_runtime.bundle.manifest_parts import (
    TENSOR_DTYPE_BYTES,
    Defaults,
    FileRecord,
    FrequencyModulationInfo,
    GeneratorInfo,
    GraphSpec,
    LoraInfo,
    ModelDtype,
    ModelInfo,
    PixelSize,
    SizeConditions,
    TapLayer,
    Taps,
    Target,
    TensorSpec,
    TextEncoderInfo,
    UpsampleInfo,
    VaeInfo,
)
from fam_runtime.contract import FORMAT_VERSION
from fam_runtime.errors import (
    BundleError,
    BundleVersionUnsupported,
    ExportError,
    TargetNotBuilt,
)

__all__ = [
    "MANIFEST_NAME",
    "NATIVE_GRAPH",
    "NOISE_SCHEDULE_DEFAULTS",
    "TENSOR_DTYPE_BYTES",
    "Defaults",
    "FileRecord",
    "FrequencyModulationInfo",
    "GeneratorInfo",
    "GraphSpec",
    "LoraInfo",
    "Manifest",
    "ModelInfo",
    "PixelSize",
    "TapLayer",
    "Taps",
    "Target",
    "TensorSpec",
    "TextEncoderInfo",
    "UpsampleInfo",
    "VaeInfo",
    "noise_schedule_from_config",
]

MANIFEST_NAME = "manifest.json"
NATIVE_GRAPH = "unet/native.onnx"
"""The step graph of the native stage; the layout fixes its name."""

SCALE_TOLERANCE = 1e-6
"""A scale asked for as a float names a target when it is this close to the quotient of sizes."""


@dataclass(frozen=True)
class Manifest:
    """Everything a runtime knows about a bundle before it opens a graph.

    Fields are the keys of manifest.json; change one with `dataclasses.replace`.
    """

    generator: GeneratorInfo
    model: ModelInfo
    native: PixelSize
    targets: tuple[Target, ...]
    taps: Taps
    noise_schedule: Mapping[str, Any]
    text_encoders: tuple[TextEncoderInfo, ...]
    graphs: Mapping[str, GraphSpec]
    files: Mapping[str, FileRecord]
    vae: VaeInfo = field(default_factory=VaeInfo)
    frequency_modulation: FrequencyModulationInfo = field(default_factory=FrequencyModulationInfo)
    upsample: UpsampleInfo = field(default_factory=UpsampleInfo)
    size_conditions: SizeConditions | None = None
    defaults: Defaults = field(default_factory=Defaults)
    format_version: int = FORMAT_VERSION

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """The manifest in `data`, the bytes of manifest.json.

        Raises:
            BundleVersionUnsupported: if it was written in a newer format.
            BundleDamaged, BundlePathRefused: if it breaks the format.
        """
        document = parse_object(data, what=MANIFEST_NAME)
        _check_version(document)
        manifest = cls(**manifest_fields(JsonCursor(document)))
        check_references(manifest)
        return manifest

    def to_bytes(self) -> bytes:
        """The canonical bytes of manifest.json: equal manifests give equal bytes.

        The output is read back, so what this method returns is what a reader accepts.

        Raises:
            ExportError: if this manifest breaks the format.
        """
        try:
            data = canonical_bytes(_plain(self))
            parsed = Manifest.from_bytes(data)
        except BundleError as error:
            raise ExportError(
                f"a manifest that breaks the format: {error.what}",
                got=error.got,
                expected=error.expected,
                fix="this is a mistake of the program that writes the bundle",
            ) from error
        except (TypeError, ValueError) as error:
            raise ExportError(
                "a manifest that is not JSON", got=str(error), expected="finite numbers and text"
            ) from error
        return canonical_bytes(_plain(parsed))

    @property
    def hash(self) -> str:
        """SHA-256 of `to_bytes()`: the bundle hash of a bundle with this manifest."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def scale_of(self, target: Target) -> tuple[float, float]:
        """The factors (height, width) by which `target` is larger than the native size."""
        return (target.height / self.native.height, target.width / self.native.width)

    def dtype_of(self, graph: str) -> ModelDtype:
        """What `graph` computes in: the VAE, and so the step between the stages, in float32."""
        vae = (self.vae.encoder, self.vae.decoder, *(target.upsample for target in self.targets))
        return "fp32" if graph in vae else self.model.dtype

    def latent_size(self, size: PixelSize | Target) -> tuple[int, int]:
        """Height and width of the latent of a picture of `size`."""
        factor = self.model.vae_scale_factor
        return (size.height // factor, size.width // factor)

    def target_for(self, height: int, width: int) -> Target:
        """The target of height x width pixels.

        Raises:
            TargetNotBuilt: if the bundle has none; the text lists what it has.
        """
        for target in self.targets:
            if (target.height, target.width) == (height, width):
                return target
        raise self._not_built(f"{height}x{width} pixels", f"--size {height}x{width}")

    def target_for_scale(self, scale: float | tuple[float, float]) -> Target:
        """The target at `scale` times the native size; a pair gives (height, width) factors.

        Raises:
            TargetNotBuilt: if the bundle has none; the text lists what it has.
        """
        wanted = scale if isinstance(scale, tuple) else (scale, scale)
        for target in self.targets:
            have = self.scale_of(target)
            if all(abs(a - b) <= SCALE_TOLERANCE for a, b in zip(have, wanted, strict=True)):
                return target
        if wanted[0] == wanted[1]:
            raise self._not_built(f"scale {wanted[0]:g}", f"--scale {wanted[0]:g}")
        height, width = (round(w * n) for w, n in zip(wanted, self._native_pair, strict=True))
        raise self._not_built(f"scale {wanted[0]:g}x{wanted[1]:g}", f"--size {height}x{width}")

    @property
    def _native_pair(self) -> tuple[int, int]:
        return (self.native.height, self.native.width)

    def _not_built(self, wanted: str, option: str) -> TargetNotBuilt:
        sizes = ", ".join(f"{t.size} (scale {scale_text(self.scale_of(t))})" for t in self.targets)
        return TargetNotBuilt(
            f"the bundle has no target for {wanted}",
            expected=f"one of {sizes}" if sizes else "a bundle with targets (this one has none)",
            fix=f"add it with {export_command(self, option)}",
        )


def scale_text(scale: tuple[float, float]) -> str:
    """`2` for (2, 2) and `2x4` for (2, 4), height first."""
    return f"{scale[0]:g}" if scale[0] == scale[1] else f"{scale[0]:g}x{scale[1]:g}"


def _check_version(document: Mapping[str, Any]) -> None:
    version = JsonCursor(document).member("format_version").integer(1, 2**31)
    if version <= FORMAT_VERSION:
        return
    generator = document.get("generator")
    names = [
        str(generator.get(key, "")) for key in ("name", "version") if isinstance(generator, dict)
    ]
    writer = " ".join(name for name in names if name) or "a newer fam-export"
    raise BundleVersionUnsupported(
        "the bundle is in a newer format than this package reads",
        got=f"format version {version}, written by {writer}",
        expected=f"format version {FORMAT_VERSION} or older",
        fix=f"upgrade this package to the version that wrote it ({writer}) or a newer one, "
        "or export the checkpoint again with the fam-export of this version",
    )


def _plain(value: Any) -> Any:
    """`value` as JSON types: dataclasses and mappings as dicts, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
