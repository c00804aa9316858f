"""A step graph in NumPy that the C++ tests have, too, and arrays that both runtimes see.

Its arithmetic is element-wise float32, as in runtime/cpp/tests/unit/stages_fakes.h: results are
equal to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fam_runtime import contract
from fam_runtime.bundle import GraphSpec, TensorSpec
from fam_runtime.contract import StepCoefficient

Floats = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[Any]]

TAP_TOKENS = 5
NATIVE_LATENT, TARGET_LATENT = (2, 2, 3), (2, 4, 6)
TAPS = contract.tap_names("a", "qk")


class FakeNoise:
    """The stream of tests/unit/stages_fakes.h."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def normal(self, shape: tuple[int, ...]) -> Floats:
        """The next piece."""
        values = []
        for _ in range(math.prod(shape)):
            self._state = (self._state * 1664525 + 1013904223) % 2**32
            values.append((self._state >> 8) / 2**23 - 1)
        return np.asarray(values, np.float32).reshape(shape)


@dataclass
class FakeStep:
    """A step graph of element-wise operations."""

    graph: str
    spec: GraphSpec

    def run(self, feeds: Arrays, outputs: Sequence[str]) -> dict[str, Floats]:
        """One denoising step; taps are made where the graph has no reference."""
        c, z = feeds[contract.STEP_COEFFICIENTS], feeds[contract.LATENT]
        batch, size = len(z), z[0].size
        t = feeds[contract.TIMESTEP] * np.float32(0.001)
        latent = self._modulated(feeds) if contract.REFERENCE_LATENT in feeds else z
        text = feeds[contract.PROMPT_EMBEDS][batch:, 0, 0].reshape(-1, 1, 1, 1)
        m = c[StepCoefficient.MODEL_INPUT_SCALE] * latent + t
        m = m + feeds[contract.GUIDANCE_SCALE] * text
        if contract.REFERENCE_LATENT in feeds:
            product = (feeds[TAPS[0]] * feeds[TAPS[1]])[:batch].reshape(batch, -1)
            native = product[:, np.arange(size) % product.shape[1]].reshape(z.shape)
            m = m + feeds[contract.AM_STRENGTH] * (native - m)
        flat = np.concatenate([z, z]).reshape(2 * batch, -1)[:, :TAP_TOKENS, None]
        values = {
            contract.PREDICTION: c[StepCoefficient.PREDICTION_FROM_LATENT] * latent
            + c[StepCoefficient.PREDICTION_FROM_OUTPUT] * m,
            contract.NEXT_LATENT: c[StepCoefficient.NEXT_FROM_LATENT] * latent
            + c[StepCoefficient.NEXT_FROM_OUTPUT] * m
            + c[StepCoefficient.NEXT_FROM_PREVIOUS] * feeds[contract.PREVIOUS_PREDICTION]
            + c[StepCoefficient.NEXT_FROM_NOISE] * feeds[contract.STEP_NOISE],
            TAPS[0]: flat * np.float32(0.1),
            TAPS[1]: flat + t,
        }
        return {name: values[name] for name in outputs}

    @staticmethod
    def _modulated(feeds: Arrays) -> Floats:
        c, z = feeds[contract.STEP_COEFFICIENTS], feeds[contract.LATENT]
        kernel = feeds[contract.FM_KERNEL_ROWS][:, None] * feeds[contract.FM_KERNEL_COLUMNS]
        reference = c[StepCoefficient.REFERENCE_SIGNAL] * feeds[contract.REFERENCE_LATENT]
        noised = reference + c[StepCoefficient.REFERENCE_NOISE] * feeds[contract.REFERENCE_NOISE]
        modulated: Floats = z + feeds[contract.FM_WEIGHT] * kernel * (noised - z)
        return modulated


def step_spec(*, target: bool) -> GraphSpec:
    """The interface of both step graphs."""
    latent = ("B", *(TARGET_LATENT if target else NATIVE_LATENT))
    shapes: dict[str, tuple[int | str, ...]] = {
        contract.LATENT: latent,
        contract.TIMESTEP: (),
        contract.STEP_COEFFICIENTS: (9,),
        contract.PREVIOUS_PREDICTION: latent,
        contract.STEP_NOISE: latent,
        contract.GUIDANCE_SCALE: (),
        contract.PROMPT_EMBEDS: ("2B", 3, 2),
    }
    taps = [TensorSpec(name, "float32", ("2B", TAP_TOKENS, 1)) for name in TAPS]
    outputs = [TensorSpec(n, "float32", latent) for n in (contract.NEXT_LATENT, "prediction")]
    if target:
        shapes |= {
            contract.REFERENCE_LATENT: latent,
            contract.REFERENCE_NOISE: latent,
            contract.FM_KERNEL_ROWS: (TARGET_LATENT[1],),
            contract.FM_KERNEL_COLUMNS: (TARGET_LATENT[2],),
            contract.FM_WEIGHT: (),
            contract.AM_STRENGTH: (),
        }
    inputs = [TensorSpec(name, "float32", shape) for name, shape in shapes.items()]
    if target:
        return GraphSpec((*inputs, *taps), tuple(outputs))
    return GraphSpec(tuple(inputs), (*outputs, *taps))


class Folder:
    """Arrays that both runtimes see.

    Args:
        path: where they lie.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._count = 0

    def put(self, array: npt.NDArray[Any]) -> dict[str, Any]:
        """Write `array`; returns what the probe is told of it."""
        self._count += 1
        path = self.path / f"in{self._count}"
        path.write_bytes(np.ascontiguousarray(array).tobytes())
        return {"path": str(path), "shape": array.shape, "dtype": array.dtype.name}

    @staticmethod
    def get(told: Mapping[str, Any]) -> npt.NDArray[Any]:
        """What the probe wrote."""
        flat = np.frombuffer(Path(told["path"]).read_bytes(), told["dtype"])
        return flat.reshape(told["shape"])


def same(told: Mapping[str, Any], array: npt.NDArray[Any]) -> bool:
    """Whether shape, dtype and every bit are the same."""
    got = Folder.get(told)
    return (got.shape, got.dtype, got.tobytes()) == (array.shape, array.dtype, array.tobytes())


def spec_rows(specs: Sequence[TensorSpec]) -> list[list[Any]]:
    return [[spec.name, spec.dtype, list(spec.shape)] for spec in specs]


def graph_rows(spec: GraphSpec) -> dict[str, Any]:
    return {"inputs": spec_rows(spec.inputs), "outputs": spec_rows(spec.outputs)}
