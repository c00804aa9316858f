"""From a cursor over manifest.json to the parts: types and ranges; unknown keys are ignored."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from fam_runtime.bundle._json_cursor import Choice, JsonCursor
from fam_runtime.bundle._noise_schedule import checked_noise_schedule
from fam_runtime.bundle.manifest_parts import (
    CutoffReference,
    Defaults,
    Family,
    FileRecord,
    FrequencyModulationInfo,
    GeneratorInfo,
    GraphSpec,
    InsideBox,
    LoraInfo,
    ModelDtype,
    ModelInfo,
    PixelSize,
    SchedulerName,
    SizeConditions,
    TapLayer,
    Taps,
    Target,
    TensorDtype,
    TensorSpec,
    TextEncoderInfo,
    UpsampleInfo,
    UpsampleMode,
    UpsampleSpace,
    VaeInfo,
)
from fam_runtime.bundle.paths import check_name
from fam_runtime.contract import TapForm

_FAMILIES: tuple[Family, ...] = ("sd", "sdxl")
_MODEL_DTYPES: tuple[ModelDtype, ...] = ("fp32", "fp16", "bf16")
_TENSOR_DTYPES: tuple[TensorDtype, ...] = (
    "float32", "float16", "bfloat16", "int64", "int32", "bool",
)  # fmt: skip
_TAP_FORMS: tuple[TapForm, ...] = ("qk", "maps")
_CUTOFF_REFERENCES: tuple[CutoffReference, ...] = ("target", "native")
_INSIDE_BOXES: tuple[InsideBox, ...] = ("rho", "one_minus_rho")
_UPSAMPLE_SPACES: tuple[UpsampleSpace, ...] = ("latent", "pixel")
_UPSAMPLE_MODES: tuple[UpsampleMode, ...] = ("bicubic", "bilinear", "nearest")
_SIZE_CONDITIONS: tuple[SizeConditions, ...] = ("stage", "native")
_SCHEDULERS: tuple[SchedulerName, ...] = ("ddim", "dpm++2m", "euler", "euler-a", "lcm")

_MAX_PIXELS = 65_536
_MAX_COUNT = 1_000_000
_MAX_TOKEN_ID = 2**31 - 1
_MAX_FILE_BYTES = 2**50
_MAX_LORA_STRENGTH = 1000.0
_MAX_DIMENSION = 2**40
_MAX_RANK = 8
_SYMBOLIC_DIMENSION = re.compile(r"([1-9][0-9]{0,3})?[Bhw]\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")

Part = TypeVar("Part")


def manifest_fields(at: JsonCursor) -> dict[str, Any]:
    """The fields of `Manifest`, each of the right type and in range.

    Raises:
        BundleDamaged: naming the first place that breaks the format.
    """
    return {
        "format_version": at.member("format_version").integer(1, _MAX_COUNT),
        "generator": _generator(at.member("generator")),
        "model": _model(at.member("model")),
        "native": _pixel_size(at.member("native")),
        "targets": tuple(_target(item) for item in at.member("targets").items()),
        "taps": _taps(at.member("taps")),
        "frequency_modulation": _frequency_modulation(at.member("frequency_modulation")),
        "upsample": _upsample(at.member("upsample")),
        "size_conditions": _optional(at.member("size_conditions"), _SIZE_CONDITIONS),
        "noise_schedule": checked_noise_schedule(at.member("noise_schedule")),
        "text_encoders": tuple(_text_encoder(i) for i in at.member("text_encoders").items()),
        "vae": _vae(at.member("vae")),
        "defaults": _defaults(at.member("defaults")),
        "graphs": {_name(key, v): _graph(v) for key, v in at.member("graphs").members()},
        "files": {_name(key, v): _file_record(v) for key, v in at.member("files").members()},
    }


def _optional(at: JsonCursor, allowed: tuple[Choice, ...]) -> Choice | None:
    return None if at.value is None else at.choice(allowed)


def _name(key: str, at: JsonCursor) -> str:
    JsonCursor(key, at.where).text()
    return check_name(key)


def _path(at: JsonCursor) -> str:
    return check_name(at.text())


def _generator(at: JsonCursor) -> GeneratorInfo:
    return GeneratorInfo(name=at.member("name").text(), version=at.member("version").text())


def _model(at: JsonCursor) -> ModelInfo:
    return ModelInfo(
        name=at.member("name").text(),
        family=at.member("family").choice(_FAMILIES),
        dtype=at.member("dtype").choice(_MODEL_DTYPES),
        guidance=at.member("guidance").flag(),
        guidance_embedding=at.member("guidance_embedding").flag(),
        loras=tuple(_lora(item) for item in at.member("loras").items()),
        latent_channels=at.member("latent_channels").integer(1, 64),
        vae_scale_factor=at.member("vae_scale_factor").integer(1, 64),
        vae_scaling_factor=at.member("vae_scaling_factor").number(1e-6, 1e6),
        size_multiple=at.member("size_multiple").integer(1, 4096),
        force_zeros_for_empty_prompt=at.member("force_zeros_for_empty_prompt").flag(),
        checkpoint_sha256=_sha256(at.member("checkpoint_sha256")),
    )


def _lora(at: JsonCursor) -> LoraInfo:
    return LoraInfo(
        name=at.member("name").text(),
        sha256=_sha256(at.member("sha256")),
        strength=at.member("strength").number(-_MAX_LORA_STRENGTH, _MAX_LORA_STRENGTH),
    )


def _pixel_size(at: JsonCursor) -> PixelSize:
    return PixelSize(
        height=at.member("height").integer(1, _MAX_PIXELS),
        width=at.member("width").integer(1, _MAX_PIXELS),
    )


def _target(at: JsonCursor) -> Target:
    size = _pixel_size(at)
    return Target(
        height=size.height,
        width=size.width,
        step=_path(at.member("step")),
        upsample=_path(at.member("upsample")),
        kernels=_path(at.member("kernels")),
    )


def _taps(at: JsonCursor) -> Taps:
    return Taps(
        form=at.member("form").choice(_TAP_FORMS),
        layers=tuple(_tap_layer(item) for item in at.member("layers").items()),
    )


def _tap_layer(at: JsonCursor) -> TapLayer:
    tokens = at.member("tokens").items()
    if len(tokens) != 2:
        raise at.member("tokens").wrong("two integers, the native token grid's height and width")
    return TapLayer(
        name=at.member("name").text(),
        heads=at.member("heads").integer(1, 1024),
        channels=at.member("channels").integer(1, _MAX_COUNT),
        tokens=(tokens[0].integer(1, _MAX_PIXELS), tokens[1].integer(1, _MAX_PIXELS)),
    )


def _frequency_modulation(at: JsonCursor) -> FrequencyModulationInfo:
    return FrequencyModulationInfo(
        cutoff_reference=at.member("cutoff_reference").choice(_CUTOFF_REFERENCES),
        cutoff_constant=at.member("cutoff_constant").number(0, 2),
        inside_box=at.member("inside_box").choice(_INSIDE_BOXES),
    )


def _upsample(at: JsonCursor) -> UpsampleInfo:
    return UpsampleInfo(
        space=at.member("space").choice(_UPSAMPLE_SPACES),
        mode=at.member("mode").choice(_UPSAMPLE_MODES),
    )


def _text_encoder(at: JsonCursor) -> TextEncoderInfo:
    return TextEncoderInfo(
        graph=_path(at.member("graph")),
        tokenizer=_path(at.member("tokenizer")),
        max_length=at.member("max_length").integer(2, 65_536),
        pad_token_id=at.member("pad_token_id").integer(0, _MAX_TOKEN_ID),
        bos_token_id=at.member("bos_token_id").integer(0, _MAX_TOKEN_ID),
        eos_token_id=at.member("eos_token_id").integer(0, _MAX_TOKEN_ID),
    )


def _vae(at: JsonCursor) -> VaeInfo:
    return VaeInfo(encoder=_path(at.member("encoder")), decoder=_path(at.member("decoder")))


def _defaults(at: JsonCursor) -> Defaults:
    return Defaults(
        scheduler=at.member("scheduler").choice(_SCHEDULERS),
        num_inference_steps=at.member("num_inference_steps").integer(1, _MAX_COUNT),
        guidance_scale=at.member("guidance_scale").number(0, 1000),
        am_strength=at.member("am_strength").number(0, 1),
    )


def _graph(at: JsonCursor) -> GraphSpec:
    check = at.member("check")
    if not isinstance(check.value, dict):
        raise check.wrong("an object")
    return GraphSpec(
        inputs=_tensors(at.member("inputs")),
        outputs=_tensors(at.member("outputs")),
        check=dict(check.value),
        activation_bytes=at.member("activation_bytes").integer(0, _MAX_FILE_BYTES),
    )


def _tensors(at: JsonCursor) -> tuple[TensorSpec, ...]:
    tensors = tuple(_tensor(item) for item in at.items())
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names):
        raise at.wrong("every name once")
    return tensors


def _tensor(at: JsonCursor) -> TensorSpec:
    dimensions = at.member("shape").items()
    if len(dimensions) > _MAX_RANK:
        raise at.member("shape").wrong(f"at most {_MAX_RANK} dimensions")
    return TensorSpec(
        name=at.member("name").text(),
        dtype=at.member("dtype").choice(_TENSOR_DTYPES),
        shape=tuple(_dimension(item) for item in dimensions),
    )


def _dimension(at: JsonCursor) -> int | str:
    if isinstance(at.value, str):
        if not _SYMBOLIC_DIMENSION.match(at.value):
            raise at.wrong("an integer, or a symbol such as 'B', '2B', 'h', 'w', '8h' or '8w'")
        return at.value
    return at.integer(1, _MAX_DIMENSION)


def _file_record(at: JsonCursor) -> FileRecord:
    return FileRecord(
        bytes=at.member("bytes").integer(0, _MAX_FILE_BYTES), sha256=_sha256(at.member("sha256"))
    )


def _sha256(at: JsonCursor) -> str:
    """A SHA-256 as text."""
    digest = at.value
    if not isinstance(digest, str) or not _SHA256.match(digest):
        raise at.wrong("64 lower-case hexadecimal digits")
    return digest
