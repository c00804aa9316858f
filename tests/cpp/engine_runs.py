"""Running a graph in both runtimes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fam_runtime.backends import open_backend
from fam_runtime.backends.checks import shape_from_symbols
from fam_runtime.bundle import Bundle, GraphSpec
from fam_runtime.errors import FamError
from tests.cpp.probe import CppError, Probe

Arrays = Mapping[str, npt.NDArray[Any]]

DECODER = "vae_decoder/model.onnx"


def feeds_of(spec: GraphSpec, sizes: Mapping[str, int]) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(len(spec.inputs) + sizes["B"])
    return {
        item.name: rng.standard_normal(shape_from_symbols(item.shape, sizes)).astype(item.dtype)
        if item.dtype.startswith("float")
        else rng.integers(0, 5, shape_from_symbols(item.shape, sizes), item.dtype)
        for item in spec.inputs
    }


def written(arrays: Arrays, folder: Path) -> list[dict[str, Any]]:
    feeds = []
    for name, array in arrays.items():
        array.tofile(folder / f"feed.{name}")
        feeds.append(
            {
                "name": name,
                "dtype": array.dtype.name,
                "shape": list(array.shape),
                "path": str(folder / f"feed.{name}"),
            }
        )
    return feeds


def cpp_run(
    probe: Probe,
    bundle: Bundle,
    graph: str,
    feeds: Arrays,
    folder: Path,
    *,
    wanted: Sequence[str] | None = None,
    sizes: Mapping[str, int] | None = None,
    bound: bool = False,
    **options: object,
) -> dict[str, npt.NDArray[Any]]:
    """The outputs `wanted` (None: all); `bound`: in memory of the device, as in a stage."""
    answer = probe.ask(
        "engines.run",
        bundle=str(bundle.root),
        graph=graph,
        feeds=written(feeds, folder),
        wanted=[o.name for o in bundle.manifest.graphs[graph].outputs]
        if wanted is None
        else list(wanted),
        sizes=dict(sizes or {"B": 1}),
        bound=bound,
        options=options,
        out=str(folder),
    )
    return {
        name: np.fromfile(value["path"], value["dtype"]).reshape(value["shape"])
        for name, value in answer.items()
    }


def python_run(
    bundle: Bundle, graph: str, feeds: Arrays, outputs: Sequence[str] | None = None, **options: Any
) -> dict[str, npt.NDArray[Any]]:
    backend = open_backend("onnxruntime", **options)
    with backend.load(bundle, graph) as runner:
        return {name: backend.download(value) for name, value in runner.run(feeds, outputs).items()}


def text_of(action: Callable[[], object], kind: type[FamError] = FamError) -> str:
    with pytest.raises(kind) as caught:
        action()
    return f"{type(caught.value).__name__}: {caught.value}"


def cpp_text(action: Callable[[], object]) -> str:
    with pytest.raises(CppError) as caught:
        action()
    return f"{caught.value.kind}: {caught.value.text}"
