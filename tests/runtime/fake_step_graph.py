"""The "UNet" of the hand-made bundle: a denoising step of element-wise operations.

It has the interface of real step graphs, and everything that the runtime decides is visible in its
result: noise, coefficients, guidance, kernels, taps, conditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from fam_runtime import contract
from fam_runtime.bundle.manifest import GraphSpec, PixelSize, TensorSpec
from fam_runtime.bundle.manifest_parts import TENSOR_DTYPE_OF_MODEL, ModelDtype

NATIVE = PixelSize(64, 64)
LAYER = "up_blocks.0.attentions.0.transformer_blocks.0.attn1"
PROMPT_WIDTH = 6
POOLED_WIDTH = 2
F32: Final = "float32"
_ONNX_TYPES = {"float32": 1, "int64": 7, "float16": 10, "bfloat16": 16}


@dataclass(frozen=True)
class StepOptions:
    """What decides the interface of the step graphs."""

    family: str
    guidance: bool
    guidance_embedding: bool
    dtype: ModelDtype

    @property
    def text_batch(self) -> str:
        return "2B" if self.guidance else "B"

    @property
    def taps(self) -> list[TensorSpec]:
        """Query and key of the one tap layer: outputs of the native step, inputs of a target's."""
        tokens = NATIVE.height * NATIVE.width // 64
        dtype, shape = TENSOR_DTYPE_OF_MODEL[self.dtype], (self.text_batch, tokens, 4)
        return [TensorSpec(name, dtype, shape) for name in contract.tap_names(LAYER, "qk")]


@dataclass(frozen=True)
class _Piece:
    """Some lines of the graph in ONNX's textual syntax, and the constants that only they read."""

    body: str
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)


_SHARED_CONSTANTS: Mapping[str, np.ndarray] = {
    **{f"i{k}": np.array([k], np.int64) for k in range(9)},
    "axes": np.array([1, 2], np.int64),
    "column": np.array([-1, 1, 1, 1], np.int64),
    "tokens": np.array([0, 4, -1], np.int64),
    "thousand": np.array(1e-3, np.float32),
    "scalar": np.zeros(0, np.int64),
}


def step_graph(
    size: PixelSize, options: StepOptions, *, target: bool, broken: str = ""
) -> tuple[onnx.ModelProto, GraphSpec]:
    """The native or a target's step at `size`; `broken` = "nan" makes it overflow."""
    latent = "z" if target else "latent"
    pieces = [
        _coefficients(),
        *([_frequency_modulation(size)] if target else []),
        _unet_input(latent, options),
        _conditions(options),
        _attention_modulation(options) if target else _attention_taps(options),
        _guidance(options),
        _sampler(latent, broken),
    ]
    constants = dict(_SHARED_CONSTANTS)
    for piece in pieces:
        constants |= piece.constants
    inputs, outputs = _inputs(size, options, target=target), _outputs(size, options, target=target)
    return onnx_graph("step", inputs, outputs, "".join(p.body for p in pieces), constants)


def onnx_graph(
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    body: str,
    constants: Mapping[str, np.ndarray] | None = None,
) -> tuple[onnx.ModelProto, GraphSpec]:
    """An ONNX model and its GraphSpec from a body in ONNX's textual syntax."""

    def declare(specs: Sequence[TensorSpec]) -> str:
        return ", ".join(f"float {_identifier(s.name)}" for s in specs)

    def described(spec: TensorSpec) -> onnx.ValueInfoProto:
        elements = _ONNX_TYPES[spec.dtype]
        return onnx.helper.make_tensor_value_info(spec.name, elements, list(spec.shape))

    text = (
        '<ir_version: 10, opset_import: ["" : 20]>\n'
        f"{name} ({declare(inputs)}) => ({declare(outputs)})\n{{\n{body}\n}}"
    )
    model = onnx.parser.parse_model(text)
    for key, value in (constants or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(value, key))
    names = {_identifier(s.name): s.name for s in (*inputs, *outputs)}
    for node in model.graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.extend(map(described, inputs))
    model.graph.output.extend(map(described, outputs))
    onnx.checker.check_model(model)
    return model, GraphSpec(tuple(inputs), tuple(outputs))


def _identifier(name: str) -> str:
    """The textual syntax has no dots in names."""
    return name.replace(".", "_")


def _inputs(size: PixelSize, options: StepOptions, *, target: bool) -> list[TensorSpec]:
    h, w = size.height // 8, size.width // 8
    latent, text_batch = ("B", 4, h, w), options.text_batch
    inputs = [
        TensorSpec(contract.LATENT, F32, latent),
        TensorSpec(contract.TIMESTEP, F32, ()),
        TensorSpec(contract.STEP_COEFFICIENTS, F32, (9,)),
        TensorSpec(contract.PREVIOUS_PREDICTION, F32, latent),
        TensorSpec(contract.STEP_NOISE, F32, latent),
    ]
    if options.guidance or options.guidance_embedding:
        inputs.append(TensorSpec(contract.GUIDANCE_SCALE, F32, ()))
    inputs.append(TensorSpec(contract.PROMPT_EMBEDS, F32, (text_batch, 77, PROMPT_WIDTH)))
    if options.family == "sdxl":
        inputs.append(TensorSpec(contract.POOLED_PROMPT_EMBEDS, F32, (text_batch, POOLED_WIDTH)))
        inputs.append(TensorSpec(contract.TIME_IDS, F32, (text_batch, 6)))
    if target:
        inputs += [
            TensorSpec(contract.REFERENCE_LATENT, F32, latent),
            TensorSpec(contract.REFERENCE_NOISE, F32, latent),
            TensorSpec(contract.FM_KERNEL_ROWS, F32, (h,)),
            TensorSpec(contract.FM_KERNEL_COLUMNS, F32, (w,)),
            TensorSpec(contract.FM_WEIGHT, F32, ()),
            TensorSpec(contract.AM_STRENGTH, F32, ()),
            *options.taps,
        ]
    return inputs


def _outputs(size: PixelSize, options: StepOptions, *, target: bool) -> list[TensorSpec]:
    latent = ("B", 4, size.height // 8, size.width // 8)
    names = (contract.NEXT_LATENT, contract.PREDICTION)
    outputs = [TensorSpec(name, F32, latent) for name in names]
    return outputs if target else outputs + options.taps


def _coefficients() -> _Piece:
    """``c0`` to ``c8``, in the order of the contract."""
    return _Piece(
        "".join(
            f"g{k} = Gather(step_coefficients, i{k})\nc{k} = Reshape(g{k}, scalar)\n"
            for k in range(9)
        )
    )


def _frequency_modulation(size: PixelSize) -> _Piece:
    """``z``: the latent, moved towards the noised reference in low frequencies."""

    def circulant(length: int) -> np.ndarray:
        return (np.arange(length)[:, None] - np.arange(length)[None]) % length

    return _Piece(
        """
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
        """,
        {"rows_index": circulant(size.height // 8), "columns_index": circulant(size.width // 8)},
    )


def _unet_input(latent: str, options: StepOptions) -> _Piece:
    """``x2``: the scaled latent, once for each half of the guidance batch."""
    batch = "Concat<axis = 0>(x, x)" if options.guidance else "Identity(x)"
    return _Piece(f"x = Mul(c2, {latent})\nx2 = {batch}\n")


def _conditions(options: StepOptions) -> _Piece:
    """``own``: what the UNet makes of its input, the timestep, the text and SDXL's conditions."""
    text = """
        mean = ReduceMean(prompt_embeds, axes)
        text = Reshape(mean, column)
        t = Mul(timestep, thousand)
        xt = Add(x2, t)
    """
    meet = "xc = Add(xt, conditioned)\nown = Sin(xc)\n"
    if options.family != "sdxl":
        return _Piece(f"{text}conditioned = Identity(text)\n{meet}")
    added = """
        pm = ReduceMean(pooled_prompt_embeds, ax)
        im = ReduceMean(time_ids, ax)
        is = Mul(im, small)
        ps = Add(pm, is)
        pr = Reshape(ps, column)
        conditioned = Add(text, pr)
    """
    return _Piece(
        text + added + meet,
        {"ax": np.array([1], np.int64), "small": np.array(1e-4, np.float32)},
    )


def _attention_modulation(options: StepOptions) -> _Piece:
    """``m2`` of a target: ``own``, moved towards a number made from the native taps."""
    query, key = (_identifier(tap.name) for tap in options.taps)
    return _Piece(f"""
        query = Cast<to = 1>({query})
        key = Cast<to = 1>({key})
        product = Mul(query, key)
        attended = ReduceMean(product, axes)
        native = Reshape(attended, column)
        change = Sub(native, own)
        modulation = Mul(am_strength, change)
        m2 = Add(own, modulation)
    """)


def _attention_taps(options: StepOptions) -> _Piece:
    """``m2`` of the native step: ``own``; beside it the taps, which change with every step."""
    query, key = (_identifier(tap.name) for tap in options.taps)
    elements = _ONNX_TYPES[TENSOR_DTYPE_OF_MODEL[options.dtype]]
    return _Piece(f"""
        flat = Reshape(x2, tokens)
        query = Transpose<perm = [0, 2, 1]>(flat)
        warm = Add(query, t)
        key = Tanh(warm)
        {query} = Cast<to = {elements}>(query)
        {key} = Cast<to = {elements}>(key)
        m2 = Identity(own)
    """)


def _guidance(options: StepOptions) -> _Piece:
    """``m0``: the halves of the batch joined, or the scale as an embedding would act."""
    if options.guidance:
        return _Piece("""
            mu, mc = Split<axis = 0, num_outputs = 2>(m2)
            gap = Sub(mc, mu)
            step_up = Mul(guidance_scale, gap)
            m0 = Add(mu, step_up)
        """)
    factor = "guidance_scale" if options.guidance_embedding else "one"
    return _Piece(f"m0 = Mul(m2, {factor})\n", {"one": np.array(1, np.float32)})


def _sampler(latent: str, broken: str) -> _Piece:
    """The prediction and the next latent, linear in what the coefficients weigh."""
    return _Piece(
        f"""
        m = Mul(m0, inf)
        pa = Mul(c3, {latent})
        pb = Mul(c4, m)
        prediction = Add(pa, pb)
        na = Mul(c5, {latent})
        nb = Mul(c6, m)
        nc = Mul(c7, previous_prediction)
        nd = Mul(c8, step_noise)
        nab = Add(na, nb)
        nabc = Add(nab, nc)
        next_latent = Add(nabc, nd)
        """,
        {"inf": np.array(np.inf if broken == "nan" else 1.0, np.float32)},
    )
