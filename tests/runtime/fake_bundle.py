"""A bundle of hand-made graphs with the contract's interface, small enough for a test to make.

The "UNet" is a few element-wise operations, but everything that the runtime decides is visible in
its result: noise, coefficients, guidance, kernels, taps, conditions. No torch is involved.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

from fam_runtime import contract
from fam_runtime.bundle.manifest import (
    NATIVE_GRAPH,
    Defaults,
    FileRecord,
    GeneratorInfo,
    GraphSpec,
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
from fam_runtime.bundle.manifest_parts import TENSOR_DTYPE_OF_MODEL

NATIVE = PixelSize(64, 64)
TARGETS = (PixelSize(128, 128), PixelSize(128, 256))
WIDTH = 6
TRAIN_TIMESTEPS = 100
LAYER = "up_blocks.0.attentions.0.transformer_blocks.0.attn1"
_TEXT_WIDTHS = {"sd": (WIDTH,), "sdxl": (WIDTH - 2, 2)}
_POOLED = 2
ONNX_TYPES = {"float32": 1, "int64": 7, "float16": 10, "bfloat16": 16}


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
        NATIVE_GRAPH: _step(NATIVE, options, target=False, broken=broken),
        "vae_decoder/model.onnx": _decoder(),
        "vae_encoder/model.onnx": _encoder(),
    }
    for size in TARGETS:
        target = Target.for_size(size.height, size.width)
        graphs[target.step] = _step(size, options, target=True)
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


def _model(name, inputs, outputs, body, constants=None):
    """An ONNX model and its GraphSpec from a body in ONNX's textual syntax."""

    def declare(specs):
        return ", ".join(f"float {s.name.replace('.', '_')}" for s in specs)

    def described(spec):
        elements = ONNX_TYPES[spec.dtype]
        return onnx.helper.make_tensor_value_info(spec.name, elements, list(spec.shape))

    text = (
        '<ir_version: 10, opset_import: ["" : 20]>\n'
        f"{name} ({declare(inputs)}) => ({declare(outputs)})\n{{\n{body}\n}}"
    )
    model = onnx.parser.parse_model(text)
    for key, value in (constants or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(value, key))
    names = {s.name.replace(".", "_"): s.name for s in (*inputs, *outputs)}
    for node in model.graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.extend(map(described, inputs))
    model.graph.output.extend(map(described, outputs))
    onnx.checker.check_model(model)
    return model, GraphSpec(tuple(inputs), tuple(outputs))


@dataclass(frozen=True)
class StepOptions:
    """What decides the interface of the step graphs."""

    family: str
    guidance: bool
    guidance_embedding: bool
    dtype: str


def _step(size: PixelSize, options: StepOptions, *, target: bool, broken: str = ""):
    family, guidance = options.family, options.guidance
    text_batch = "2B" if guidance else "B"
    h, w = size.height // 8, size.width // 8
    n = NATIVE.height * NATIVE.width // 64
    latent = ("B", 4, h, w)
    f32 = "float32"
    inputs = [
        TensorSpec(contract.LATENT, f32, latent),
        TensorSpec(contract.TIMESTEP, f32, ()),
        TensorSpec(contract.STEP_COEFFICIENTS, f32, (9,)),
        TensorSpec(contract.PREVIOUS_PREDICTION, f32, latent),
        TensorSpec(contract.STEP_NOISE, f32, latent),
    ]
    if guidance or options.guidance_embedding:
        inputs.append(TensorSpec(contract.GUIDANCE_SCALE, f32, ()))
    inputs.append(TensorSpec(contract.PROMPT_EMBEDS, f32, (text_batch, 77, WIDTH)))
    if family == "sdxl":
        inputs.append(TensorSpec(contract.POOLED_PROMPT_EMBEDS, f32, (text_batch, _POOLED)))
        inputs.append(TensorSpec(contract.TIME_IDS, f32, (text_batch, 6)))
    tap_dtype = TENSOR_DTYPE_OF_MODEL[options.dtype]
    taps = [
        TensorSpec(name, tap_dtype, (text_batch, n, 4)) for name in contract.tap_names(LAYER, "qk")
    ]
    outputs = [
        TensorSpec(contract.NEXT_LATENT, f32, latent),
        TensorSpec(contract.PREDICTION, f32, latent),
    ]
    query, key = (tap.name.replace(".", "_") for tap in taps)
    constants = {f"i{k}": np.array([k], np.int64) for k in range(9)}
    constants |= {
        "axes": np.array([1, 2], np.int64),
        "column": np.array([-1, 1, 1, 1], np.int64),
        "tokens": np.array([0, 4, -1], np.int64),
        "thousand": np.array(1e-3, np.float32),
        "scalar": np.zeros(0, np.int64),
    }
    body = ""
    for k in range(9):
        body += f"g{k} = Gather(step_coefficients, i{k})\nc{k} = Reshape(g{k}, scalar)\n"
    z = "latent"
    if target:
        inputs += [
            TensorSpec(contract.REFERENCE_LATENT, f32, latent),
            TensorSpec(contract.REFERENCE_NOISE, f32, latent),
            TensorSpec(contract.FM_KERNEL_ROWS, f32, (h,)),
            TensorSpec(contract.FM_KERNEL_COLUMNS, f32, (w,)),
            TensorSpec(contract.FM_WEIGHT, f32, ()),
            TensorSpec(contract.AM_STRENGTH, f32, ()),
            *taps,
        ]
        index = lambda size: (np.arange(size)[:, None] - np.arange(size)[None]) % size  # noqa: E731
        constants |= {"rows_index": index(h), "columns_index": index(w)}
        body += """
            ra = Mul(c0, reference_latent)
            rb = Mul(c1, reference_noise)
            reference = Add(ra, rb)
            difference = Sub(reference, latent)
            rows = Gather(fm_kernel_rows, rows_index)
            columns = Gather(fm_kernel_columns, columns_index)
            left = MatMul(rows, difference)
            low = MatMul(left, columns)
            weighted = Mul(fm_weight, low)
            z = Add(latent, weighted)
        """
        z = "z"
    body += f"x = Mul(c2, {z})\n"
    body += "x2 = Concat<axis = 0>(x, x)\n" if guidance else "x2 = Identity(x)\n"
    body += """
        mean = ReduceMean(prompt_embeds, axes)
        text = Reshape(mean, column)
        t = Mul(timestep, thousand)
        xt = Add(x2, t)
    """
    if family == "sdxl":
        constants |= {"ax": np.array([1], np.int64), "small": np.array(1e-4, np.float32)}
        body += """
            pm = ReduceMean(pooled_prompt_embeds, ax)
            im = ReduceMean(time_ids, ax)
            is = Mul(im, small)
            ps = Add(pm, is)
            pr = Reshape(ps, column)
            conditioned = Add(text, pr)
        """
    else:
        body += "conditioned = Identity(text)\n"
    body += "xc = Add(xt, conditioned)\nown = Sin(xc)\n"
    if target:
        body += f"""
            query = Cast<to = 1>({query})
            key = Cast<to = 1>({key})
            product = Mul(query, key)
            attended = ReduceMean(product, axes)
            native = Reshape(attended, column)
            change = Sub(native, own)
            modulation = Mul(am_strength, change)
            m2 = Add(own, modulation)
        """
    else:
        outputs += taps
        body += f"""
            flat = Reshape(x2, tokens)
            query = Transpose<perm = [0, 2, 1]>(flat)
            warm = Add(query, t)
            key = Tanh(warm)
            {query} = Cast<to = {ONNX_TYPES[tap_dtype]}>(query)
            {key} = Cast<to = {ONNX_TYPES[tap_dtype]}>(key)
            m2 = Identity(own)
        """
    if guidance:
        body += """
            mu, mc = Split<axis = 0, num_outputs = 2>(m2)
            gap = Sub(mc, mu)
            step_up = Mul(guidance_scale, gap)
            m0 = Add(mu, step_up)
        """
    else:
        factor = "guidance_scale" if options.guidance_embedding else "one"
        body += f"m0 = Mul(m2, {factor})\n"
        constants["one"] = np.array(1, np.float32)
    constants["inf"] = np.array(np.inf if broken == "nan" else 1.0, np.float32)
    body += f"""
        m = Mul(m0, inf)
        pa = Mul(c3, {z})
        pb = Mul(c4, m)
        prediction = Add(pa, pb)
        na = Mul(c5, {z})
        nb = Mul(c6, m)
        nc = Mul(c7, previous_prediction)
        nd = Mul(c8, step_noise)
        nab = Add(na, nb)
        nabc = Add(nab, nc)
        next_latent = Add(nabc, nd)
    """
    return _model("step", inputs, outputs, body, constants)


def _upsample(size: PixelSize):
    h, w = NATIVE.height // 8, NATIVE.width // 8
    big = size.height // 8, size.width // 8
    scales = np.array([1, 1, big[0] / h, big[1] / w], np.float32)
    return _model(
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
    return _model("text", inputs, outputs, body, constants)


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
    return _model(
        "decoder",
        [TensorSpec(contract.LATENT, "float32", ("B", 4, "h", "w"))],
        [TensorSpec(contract.IMAGE, "float32", ("B", 3, "8h", "8w"))],
        body,
        constants,
    )


def _encoder():
    constants = {"kernel": np.full((4, 3, 8, 8), 0.01, np.float32)}
    return _model(
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
