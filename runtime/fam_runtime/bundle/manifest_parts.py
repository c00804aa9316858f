"""The parts of a manifest as frozen dataclasses; docs/bundle_format.md describes every field.

Field names are the JSON keys. Nothing is checked here: the rules live with the parser, and
`Manifest.to_bytes` reads its own output back, so that a writer meets the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fam_runtime.contract import TapForm

Family = Literal["sd", "sdxl"]
ModelDtype = Literal["fp32", "fp16", "bf16"]
TensorDtype = Literal["float32", "float16", "bfloat16", "int64", "int32", "bool"]
CutoffReference = Literal["target", "native"]
InsideBox = Literal["rho", "one_minus_rho"]
UpsampleSpace = Literal["latent", "pixel"]
UpsampleMode = Literal["bicubic", "bilinear", "nearest"]
SizeConditions = Literal["stage", "native"]
SchedulerName = Literal["ddim", "dpm++2m", "euler", "euler-a", "lcm"]

TENSOR_DTYPE_BYTES: Mapping[TensorDtype, int] = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "bool": 1,
}
"""Bytes per element of a tensor."""

TENSOR_DTYPE_OF_MODEL: Mapping[ModelDtype, TensorDtype] = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
}
"""The dtype of the taps of a model."""


@dataclass(frozen=True, order=True)
class PixelSize:
    """A picture's size in pixels; `str()` is `HEIGHTxWIDTH`, as in file names."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


@dataclass(frozen=True)
class GeneratorInfo:
    """The program that wrote the bundle."""

    name: str
    version: str


@dataclass(frozen=True)
class LoraInfo:
    """An adapter that the export merged into the weights, `strength` times."""

    name: str
    sha256: str
    strength: float


@dataclass(frozen=True)
class ModelInfo:
    """The checkpoint: what it is and in which units its sizes come.

    `guidance`: the step graphs compute both halves of classifier-free guidance.
    `guidance_embedding`: the UNet was distilled with the guidance scale as a condition instead.
    """

    name: str
    family: Family
    dtype: ModelDtype
    guidance: bool = True
    guidance_embedding: bool = False
    loras: tuple[LoraInfo, ...] = ()
    latent_channels: int = 4
    vae_scale_factor: int = 8
    vae_scaling_factor: float = 0.18215
    size_multiple: int = 64
    force_zeros_for_empty_prompt: bool = False
    checkpoint_sha256: str = "0" * 64

    @property
    def tap_dtype(self) -> TensorDtype:
        """dtype of the taps as a tensor dtype."""
        return TENSOR_DTYPE_OF_MODEL[self.dtype]

    @property
    def takes_guidance_scale(self) -> bool:
        """Whether the step graphs have the input `guidance_scale`."""
        return self.guidance or self.guidance_embedding


@dataclass(frozen=True)
class Target:
    """A size the bundle can generate at, with the three files it takes."""

    height: int
    width: int
    step: str
    upsample: str
    kernels: str

    @property
    def size(self) -> PixelSize:
        """Height and width in pixels."""
        return PixelSize(self.height, self.width)

    @classmethod
    def for_size(cls, height: int, width: int) -> Target:
        """A target whose files have the names that the layout gives them."""
        size = PixelSize(height, width)
        return cls(
            height=height,
            width=width,
            step=f"unet/target-{size}.onnx",
            upsample=f"unet/upsample-{size}.onnx",
            kernels=f"fm/kernels-{size}.safetensors",
        )


@dataclass(frozen=True)
class TapLayer:
    """A self-attention layer whose native attention steers the target; `tokens` is (h, w)."""

    name: str
    heads: int
    channels: int
    tokens: tuple[int, int]

    @property
    def token_count(self) -> int:
        """Tokens of the native map, `h * w`."""
        return self.tokens[0] * self.tokens[1]


@dataclass(frozen=True)
class Taps:
    """Which attention travels from the native to the target graph, and in which form."""

    form: TapForm
    layers: tuple[TapLayer, ...]


@dataclass(frozen=True)
class FrequencyModulationInfo:
    """The readings of FM that the kernels were computed with (METHOD.md)."""

    cutoff_reference: CutoffReference = "target"
    cutoff_constant: float = 0.5
    inside_box: InsideBox = "rho"


@dataclass(frozen=True)
class UpsampleInfo:
    """How z0 of the native stage becomes the reference of the target stage."""

    space: UpsampleSpace = "latent"
    mode: UpsampleMode = "bicubic"


@dataclass(frozen=True)
class TextEncoderInfo:
    """A text encoder: its graph, its tokenizer file and its special tokens."""

    graph: str
    tokenizer: str
    max_length: int
    pad_token_id: int
    bos_token_id: int
    eos_token_id: int


@dataclass(frozen=True)
class VaeInfo:
    """The two graphs of the VAE."""

    encoder: str = "vae_encoder/model.onnx"
    decoder: str = "vae_decoder/model.onnx"


@dataclass(frozen=True)
class Defaults:
    """Settings that are used where the user gives none."""

    scheduler: SchedulerName = "ddim"
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    am_strength: float = 0.7


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph; a dimension is an integer or a symbol such as `2B`."""

    name: str
    dtype: TensorDtype
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphSpec:
    """The interface of a graph and the figures of its comparison with PyTorch.

    `activation_bytes`: peak of its live tensors for one picture (the VAE's graphs: for a latent of
    64 x 64), inputs and outputs among them, without weights; 0 when it is not known.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    check: Mapping[str, Any] = field(default_factory=dict)
    activation_bytes: int = 0


@dataclass(frozen=True)
class FileRecord:
    """Size and SHA-256 (64 lower-case hexadecimal digits) of a file."""

    bytes: int
    sha256: str
