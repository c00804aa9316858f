"""The C ABI: what leaves the library, how its structs lie, and what it brings into a process."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cpp import library as bindings
from tests.cpp.conftest import CPP, built
from tests.cpp.library import Library

GOLDEN = CPP / "abi" / "fam_1.json"
"""Symbols and structs of version 1: what is there may never change, only grow."""

STRUCTS = {
    "fam_progress": bindings.ProgressStruct,
    "fam_pipeline_options": bindings.OptionsStruct,
    "fam_bundle_info": bindings.InfoStruct,
    "fam_request": bindings.RequestStruct,
    "fam_image": bindings.ImageStruct,
}


def golden() -> dict[str, Any]:
    """What version 1 is: `symbols`, and `structs` with size and offsets."""
    content: dict[str, Any] = json.loads(GOLDEN.read_text())
    return content


def exported_symbols(path: Path) -> set[str]:
    """Names of what a shared library defines for others, without versions."""
    lines = subprocess.run(
        ["nm", "-D", "--defined-only", "--without-symbol-versions", str(path)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return {fields[2] for line in lines if len(fields := line.split()) == 3 and fields[1] != "A"}


def test_only_the_c_abi_leaves_the_library(library_path: Path) -> None:
    assert exported_symbols(library_path) == set(golden()["symbols"])


def test_the_header_declares_what_the_library_exports() -> None:
    header = (CPP / "include" / "fam" / "fam.h").read_text()
    declared = set(re.findall(r"^FAM_API [^(]*?(fam_\w+)\(", header, re.MULTILINE))
    assert declared == set(golden()["symbols"])


def test_structs_lie_where_they_always_lay() -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    layouts = golden()["structs"]
    checks = "\n".join(
        f'_Static_assert(offsetof({name}, {field}) == {offset}, "{name}.{field}");'
        for name, fields in layouts.items()
        for field, offset in fields.items()
        if field != "size"
    )
    sizes = "\n".join(
        f'_Static_assert(sizeof({name}) == {fields["size"]}, "{name}");'
        for name, fields in layouts.items()
    )
    source = f'#include "fam/fam.h"\n{checks}\n{sizes}\n'
    subprocess.run(
        [compiler, "-std=c11", "-fsyntax-only", f"-I{CPP / 'include'}", "-xc", "-"],
        input=source,
        text=True,
        check=True,
    )


@pytest.mark.parametrize("name", STRUCTS)
def test_structs_in_these_tests_are_those_of_the_header(name: str) -> None:
    struct, layout = STRUCTS[name], dict(golden()["structs"][name])
    assert ctypes.sizeof(struct) == layout.pop("size")
    assert {field: getattr(struct, field).offset for field, *_ in struct._fields_} == layout


def test_neither_python_nor_torch_comes_into_the_process(library_path: Path) -> None:
    for program in (library_path, built("fam_generate")):
        needed = subprocess.run(
            ["ldd", str(program)], check=True, capture_output=True, text=True
        ).stdout
        assert "libonnxruntime" in needed
        assert "not found" not in needed
        assert not re.search(r"libpython|libtorch|libc10|libcaffe", needed), needed


def test_versions(library: Library) -> None:
    from fam_runtime._version import __version__

    assert library.c.fam_abi_version() == 1
    assert library.c.fam_version().decode() == re.match(r"[0-9.]+\d", __version__)[0]  # type: ignore[index]


def test_names_of_statuses(library: Library) -> None:
    assert library.c.fam_status_name(0) == b"FAM_OK"
    assert library.c.fam_status_name(4) == b"FAM_ERROR_BUNDLE_DAMAGED"
    assert library.c.fam_status_name(99) == b"unknown status"
    names = [library.c.fam_status_name(i).decode() for i in range(len(bindings.STATUSES))]
    assert len(set(names)) == len(names)
    assert all(name.startswith("FAM_") for name in names)
