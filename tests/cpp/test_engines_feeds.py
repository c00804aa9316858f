"""What is bound to a graph is checked as in Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from fam_runtime.backends.checks import check_feeds, check_output_names, shape_from_symbols
from fam_runtime.bundle import TensorSpec
from fam_runtime.bundle.manifest_parts import TensorDtype
from fam_runtime.errors import FamError
from tests.cpp.engine_runs import cpp_text, text_of
from tests.cpp.probe import Probe

NAMES = ("latent", "timestep", "map", "é'")
DTYPES: tuple[TensorDtype, ...] = ("float32", "float16", "bfloat16", "int64")
SYMBOLS = ("B", "2B", "h", "8h", "3w", "99999999999999999999B", "0B", "2", "", "2B ", "ß")


def random_dimension(rng: random.Random, symbols: Sequence[str]) -> int | str:
    return rng.choice(symbols) if rng.random() < 0.5 else rng.randint(0, 4)


def random_case(rng: random.Random) -> tuple[list[TensorSpec], dict[str, SimpleNamespace]]:
    """Inputs of a graph, and values of which most fit."""
    sizes = {"B": rng.randint(1, 3), "h": rng.randint(1, 4), "w": rng.randint(1, 4)}
    known = [s for s in SYMBOLS[:5] for _ in range(12)] + list(SYMBOLS)
    specs: list[TensorSpec] = []
    values: dict[str, SimpleNamespace] = {}
    for name in rng.sample(NAMES, rng.randint(1, 4)):
        shape = tuple(random_dimension(rng, known) for _ in range(rng.randint(0, 3)))
        dtype = rng.choice(DTYPES)
        specs.append(TensorSpec(name, dtype, shape))
        fits = [
            d if isinstance(d, int) else (int(d[:-1] or 1) * sizes[d[-1]] if d in known[:60] else 4)
            for d in shape
        ]
        if fits and rng.random() < 0.15:
            fits[rng.randrange(len(fits))] += rng.choice([-1, 1])
        if rng.random() < 0.05:
            fits = [*fits, 1]
        values[name] = SimpleNamespace(
            dtype=rng.choice(DTYPES) if rng.random() < 0.05 else dtype, shape=tuple(fits)
        )
    if rng.random() < 0.1:
        del values[rng.choice(list(values))]
    if rng.random() < 0.1:
        values["\n"] = SimpleNamespace(dtype="float32", shape=())
    return specs, dict(sorted(values.items()))


def described(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in specs]


def test_feeds_are_checked_as_in_python(probe: Probe) -> None:
    rng, outcomes = random.Random(0), set()
    for _ in range(600):
        specs, values = random_case(rng)
        asked: dict[str, Any] = {
            "graph": "unet/g.onnx",
            "inputs": described(specs),
            "values": [
                {"name": n, "dtype": v.dtype, "shape": list(v.shape)} for n, v in values.items()
            ],
        }
        try:
            check_feeds("unet/g.onnx", specs, values)
        except FamError as error:
            outcomes.add(error.what.split(" ")[-1])
            for question in (asked, {**asked, "outputs": []}):
                got = cpp_text(partial(probe.ask, "engines.check", **question))
                assert got == f"{type(error).__name__}: {error}"
        else:
            outcomes.add("fits")
            sizes = probe.ask("engines.check", **asked)
            for spec in specs:
                assert shape_from_symbols(spec.shape, sizes) == values[spec.name].shape
    assert outcomes == {"fits", "inputs", "dtype", "shape", "read"}


def test_bound_outputs_are_checked_too(probe: Probe) -> None:
    inputs = [TensorSpec("x", "float32", ("B", 4))]
    outputs = [TensorSpec("y", "float16", ("2B", "h")), TensorSpec("z", "int64", ())]
    x = {"name": "x", "dtype": "float32", "shape": [3, 4]}

    def check(*more: dict[str, Any]) -> Any:
        return probe.ask(
            "engines.check",
            graph="g",
            inputs=described(inputs),
            outputs=described(outputs),
            values=[x, *more],
        )

    assert check() == {"B": 3}
    assert check({"name": "y", "dtype": "float16", "shape": [6, 5]}) == {"B": 3, "h": 5}
    text = cpp_text(lambda: check({"name": "y", "dtype": "float16", "shape": [5, 5]}))
    assert text == (
        "BackendError: g: output y has the wrong shape | got (5, 5) | "
        "expected [2B, h] with B = 3 | feed values of the size that the graph was exported for"
    )
    text = cpp_text(lambda: check({"name": "z", "dtype": "int32", "shape": []}))
    assert text == (
        "BackendError: g: output z has the wrong dtype | got 'int32' | expected int64 | "
        "convert the value"
    )


def test_names_of_outputs_are_checked_as_in_python(probe: Probe) -> None:
    outputs = [TensorSpec(name, "float32", ()) for name in ("a", "b")]
    ask = {"graph": "g", "outputs": described(outputs)}
    assert probe.ask("engines.output_names", wanted=["b", "a"], **ask) is None
    for wanted in (["c"], ["a", "c", "d'"], ["é"]):
        got = cpp_text(partial(probe.ask, "engines.output_names", wanted=wanted, **ask))
        assert got == text_of(partial(check_output_names, "g", wanted, ("a", "b")))
