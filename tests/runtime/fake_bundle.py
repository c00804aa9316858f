"""A bundle of hand-made graphs with the contract's interface, small enough for a test to make.

Its step graphs are those of :mod:`tests.runtime.fake_step_graph`. No torch is involved.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import save_file

from fam_runtime import contract
from fam_runtime.bundle.manifest import (
    NATIVE_GRAPH,
    Defaults,
    FileRecord,
    GeneratorInfo,
    Manifest,
    ModelInfo,
    PixelSize,
    TapLayer,
    Taps,
    Target,
    TensorSpec,
    TextEncoderInfo,
    noise_schedule_from_config,
)
from tests.runtime.fake_step_graph import (
    LAYER,
    NATIVE,
    POOLED_WIDTH,
    PROMPT_WIDTH,
    StepOptions,
    onnx_graph,
    step_graph,
)

TARGETS = (PixelSize(128, 128), PixelSize(128, 256))
TRAIN_TIMESTEPS = 100
_TEXT_WIDTHS = {"sd": (PROMPT_WIDTH,), "sdxl": (PROMPT_WIDTH - POOLED_WIDTH, POOLED_WIDTH)}


def write_bundle(
    root: Path,
    *,
    family: str = "sd",
    guidance: bool = True,
    guidance_embedding: bool = False,
    dtype: str = "fp32",
    broken: str = "",
) -> Path:
    """Write a bundle under `root`; `broken` = "nan" makes the native step overflow.

    With `guidance_embedding` the output of the step depends on the guidance scale; the taps have
    the type of `dtype`.
    """
    options = StepOptions(family, guidance, guidance_embedding, dtype)
    root.mkdir(parents=True)
    graphs = {
        NATIVE_GRAPH: step_graph(NATIVE, options, target=False, broken=broken),
        "vae_decoder/model.onnx": _decoder(),
        "vae_encoder/model.onnx": _encoder(),
    }
    for size in TARGETS:
        target = Target.for_size(size.height, size.width)
        graphs[target.step] = step_graph(size, options, target=True)
        graphs[target.upsample] = _upsample(size)
        _kernels(root / target.kernels, size)
    encoders = []
    for index, width in enumerate(_TEXT_WIDTHS[family]):
        suffix = "" if index == 0 else f"_{index + 1}"
        graph, tokenizer = f"text_encoder{suffix}/model.onnx", f"tokenizer{suffix}/tokenizer.json"
        pooled = index == 1
        graphs[graph] = _text_encoder(width, pooled=pooled)
        size = write_tokenizer(root / tokenizer)
        encoders.append(TextEncoderInfo(graph, tokenizer, 77, size - 1, size - 2, size - 1))
    for name, (model, _) in graphs.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, root / name)
    _write_manifest(root, options, {k: s for k, (_, s) in graphs.items()}, encoders)
    return root


def refresh_manifest(root: Path) -> None:
    """Record the files of `root` as they are now."""
    manifest = Manifest.from_bytes((root / "manifest.json").read_bytes())
    import dataclasses

    changed = dataclasses.replace(manifest, files=_file_records(root))
    (root / "manifest.json").write_bytes(changed.to_bytes())


def _write_manifest(root, options, specs, encoders) -> None:
    family = options.family
    latent = NATIVE.height // 8, NATIVE.width // 8
    manifest = Manifest(
        generator=GeneratorInfo("tests", "0"),
        model=ModelInfo(
            "fake",
            family,
            options.dtype,
            guidance=options.guidance,
            guidance_embedding=options.guidance_embedding,
            size_multiple=64,
            force_zeros_for_empty_prompt=family == "sdxl",
        ),
        native=NATIVE,
        targets=tuple(Target.for_size(size.height, size.width) for size in TARGETS),
        taps=Taps("qk", (TapLayer(LAYER, 2, 4, latent),)),
        noise_schedule=noise_schedule_from_config(
            {
                "num_train_timesteps": TRAIN_TIMESTEPS,
                "beta_start": 0.001,
                "beta_end": 0.05,
                "beta_schedule": "linear",
                "prediction_type": "epsilon",
            }
        ),
        text_encoders=tuple(encoders),
        graphs=specs,
        files=_file_records(root),
        size_conditions="stage" if family == "sdxl" else None,
        defaults=Defaults(num_inference_steps=4),
    )
    (root / "manifest.json").write_bytes(manifest.to_bytes())


def _file_records(root: Path) -> dict[str, FileRecord]:
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name != "manifest.json")
    return {
        path.relative_to(root).as_posix(): FileRecord(
            path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
        )
        for path in files
    }


def _upsample(size: PixelSize):
    h, w = NATIVE.height // 8, NATIVE.width // 8
    big = size.height // 8, size.width // 8
    scales = np.array([1, 1, big[0] / h, big[1] / w], np.float32)
    return onnx_graph(
        "upsample",
        [TensorSpec(contract.LATENT, "float32", ("B", 4, h, w))],
        [TensorSpec(contract.REFERENCE_LATENT, "float32", ("B", 4, *big))],
        'reference_latent = Resize<mode = "nearest">(latent, , scales)',
        {"scales": scales},
    )


def _text_encoder(width: int, *, pooled: bool):
    rng = np.random.default_rng(width)
    outputs = [TensorSpec(contract.PROMPT_EMBEDS, "float32", ("B", 77, width))]
    body = "prompt_embeds = Gather(table, input_ids)\n"
    constants = {"table": rng.standard_normal((600, width)).astype(np.float32)}
    if pooled:
        outputs.append(TensorSpec(contract.POOLED_PROMPT_EMBEDS, "float32", ("B", width)))
        constants["axes"] = np.array([1], np.int64)
        body += "pooled_prompt_embeds = ReduceMean<keepdims = 0>(prompt_embeds, axes)\n"
    inputs = [TensorSpec(contract.INPUT_IDS, "int64", ("B", 77))]
    return onnx_graph("text", inputs, outputs, body, constants)


def _decoder():
    """A 3×3 convolution and eightfold bilinear growth: local, so tiles can be checked."""
    rng = np.random.default_rng(0)
    constants = {
        "scales": np.array([1, 1, 8, 8], np.float32),
        "kernel": (rng.standard_normal((3, 4, 3, 3)) * 0.1).astype(np.float32),
    }
    body = """
        mixed = Conv<pads = [1, 1, 1, 1]>(latent, kernel)
        bounded = Tanh(mixed)
        image = Resize<mode = "linear">(bounded, , scales)
    """
    return onnx_graph(
        "decoder",
        [TensorSpec(contract.LATENT, "float32", ("B", 4, "h", "w"))],
        [TensorSpec(contract.IMAGE, "float32", ("B", 3, "8h", "8w"))],
        body,
        constants,
    )


def _encoder():
    constants = {"kernel": np.full((4, 3, 8, 8), 0.01, np.float32)}
    return onnx_graph(
        "encoder",
        [TensorSpec(contract.IMAGE, "float32", ("B", 3, "8h", "8w"))],
        [TensorSpec(contract.LATENT, "float32", ("B", 4, "h", "w"))],
        "latent = Conv<strides = [8, 8]>(image, kernel)",
        constants,
    )


def _kernels(path: Path, size: PixelSize) -> None:
    """Tables whose rows differ: a box of three frequencies at the end, none at the start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    progress = 1 - np.arange(TRAIN_TIMESTEPS) / TRAIN_TIMESTEPS

    def table(length: int) -> np.ndarray:
        distance = np.abs(np.fft.fftfreq(length, 1 / length))
        box = distance[None] < (length / 4 * progress)[:, None]
        return np.fft.ifft(box, axis=1).real.astype(np.float32)

    tables = {
        contract.FM_TABLE_ROWS: table(size.height // 8),
        contract.FM_TABLE_COLUMNS: table(size.width // 8),
        contract.FM_TABLE_WEIGHT: progress.astype(np.float32),
    }
    save_file(tables, path)


def write_tokenizer(path: Path) -> int:
    """A byte-level BPE tokenizer in CLIP's shape; returns the size of its vocabulary."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{c}</w>" for c in alphabet), "ca", "cat</w>"]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            [("c", "a"), ("ca", "t</w>")],
            end_of_word_suffix="</w>",
            continuing_subword_prefix="",
            unk_token="<|endoftext|>",
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tokenizer.to_str(), "utf-8")
    assert len(json.loads(path.read_text("utf-8"))["model"]["vocab"]) == len(tokens)
    return len(tokens)
