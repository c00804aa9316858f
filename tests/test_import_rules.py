"""Who may import whom (README, "How it is built"): the data flows one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

OURS = {"fam_graph", "fam_export", "fam_runtime", "fam_bench"}
HEAVY = {"torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx_ir"}

FORBIDDEN = {
    "fam_graph": OURS - {"fam_graph", "fam_runtime"},
    "export/fam_export": {"fam_bench"},
    "runtime/fam_runtime": (OURS - {"fam_runtime"}) | HEAVY,
}


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_import_only_what_they_may(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        for name in imports_of(file):
            assert name.split(".")[0] not in FORBIDDEN[package], f"{file} imports {name}"


def test_graphs_take_names_and_nothing_else_from_the_runtime() -> None:
    for file in (ROOT / "fam_graph").rglob("*.py"):
        for name in imports_of(file):
            if name.startswith("fam_runtime"):
                assert name.startswith("fam_runtime.contract"), f"{file} imports {name}"
