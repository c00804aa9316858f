"""docs/triton.md says what is served, and which options there are."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fam_bench import triton_latency
from fam_runtime.cli import generate, triton, triton_probe
from fam_runtime.triton.interface import INPUTS, METRICS, OUTPUTS, STREAMED, ServedTensor
from tests.deploy.test_deployment_examples import DOCUMENTED_FLAGS, SERVER_FLAGS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/triton.md").read_text(encoding="utf-8")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def parser_of(script: str) -> argparse.ArgumentParser:
    """The command line of a file in runtime/examples."""
    name = f"{script}_documented"
    spec = importlib.util.spec_from_file_location(name, ROOT / f"runtime/examples/{script}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their annotations up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    made: argparse.ArgumentParser = module.parser()
    return made


PROGRAMS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "fam-triton": triton.parser,
    "fam-triton-probe": triton_probe.parser,
    "fam-generate": generate.parser,
    "runtime/examples/triton_client.py": lambda: parser_of("triton_client"),
    "runtime/examples/ray_batch.py": lambda: parser_of("ray_batch"),
    "fam_bench.triton_latency": triton_latency.argument_parser,
}


def table(head: str) -> dict[str, tuple[str, str, str]]:
    """Type, shape and meaning by name, of the table whose first column is called `head`."""
    lines = PAGE.partition(f"\n| {head} | type | shape | meaning |\n")[2].splitlines()
    rows = {}
    for line in lines[1:]:
        if not line.startswith("|"):
            break
        names, kind, shape, meaning = (cell.strip() for cell in line.strip("|").split(" | "))
        for name in names.split(", "):
            rows[name.strip("`")] = (kind, shape, meaning.replace("`", ""))
    return rows


def is_shape(text: str, shape: tuple[int, ...]) -> bool:
    """Whether `[B, height, 3]`, or one of several such with `or` between, means this shape."""
    several = " or " in text  # numbers for a side of any size, where the page gives each
    for one in text.split(" or "):
        batch, *sides = one.strip("[]").split(", ")
        if batch != "B" or len(sides) != len(shape):
            return False
        for said, side in zip(sides, shape, strict=True):
            right = (said.isdigit() == several) if side == -1 else said == str(side)
            if not right:
                return False
    return True


@pytest.mark.parametrize(("head", "tensors"), [("input", INPUTS), ("output", OUTPUTS)])
def test_the_tables_hold_what_is_served(head: str, tensors: tuple[ServedTensor, ...]) -> None:
    rows = table(head)
    assert list(rows) == [tensor.name for tensor in tensors]
    for tensor in tensors:
        kind, shape, meaning = rows[tensor.name]
        assert kind == tensor.type.replace("STRING", "BYTES"), tensor.name
        assert is_shape(shape, tensor.shape), (tensor.name, shape)
        assert meaning == tensor.meaning, tensor.name


def test_what_else_is_served_has_its_name_on_the_page() -> None:
    for name in (*(tensor.name for tensor in STREAMED), *METRICS):
        assert f"`{name}`" in PAGE, name
    required = [tensor.name for tensor in INPUTS if not tensor.optional]
    assert required == ["prompt"] and "Only `prompt` must be there" in PAGE


def test_every_option_on_the_page_exists() -> None:
    known = SERVER_FLAGS | DOCUMENTED_FLAGS
    for parser in PROGRAMS.values():
        known |= set(parser()._option_string_actions)
    said = set(OPTION.findall(PAGE))
    assert len(said) > 30
    assert said <= known, said - known


def test_the_commands_on_the_page_can_be_run() -> None:
    run = set()
    for block in re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            program, *words = shlex.split(line, comments=True) or [""]
            if program == "python":
                program, *words = words
            if program == "tritonserver":
                assert set(OPTION.findall(line)) <= SERVER_FLAGS | DOCUMENTED_FLAGS
            if program in PROGRAMS:
                PROGRAMS[program]().parse_args(words)  # a SystemExit fails the test
            run.add(program)
    assert run >= {"tritonserver", "fam-triton", "runtime/examples/triton_client.py"}
