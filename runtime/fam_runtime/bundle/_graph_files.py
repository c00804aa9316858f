"""What the ONNX files of a bundle may contain: external data beside them, no engine inside."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path

from fam_runtime.bundle.manifest_parts import FileRecord
from fam_runtime.bundle.onnx_external_data import ExternalData, OnnxOutline, outline_of_onnx
from fam_runtime.bundle.paths import open_confined
from fam_runtime.errors import BundlePathRefused

PERMITTED_LOCATIONS = ("weights.bin", "model.bin")
"""External data lies in one of these files, in the folder of the graph."""

FORBIDDEN_OP_TYPES = ("EPContext",)
"""Operators that make a backend load compiled code from a file, which no bundle may carry."""


def check_graph_file(root: Path, name: str, files: Mapping[str, FileRecord]) -> OnnxOutline:
    """Read the outline of the graph `name` and refuse what leads out of the bundle.

    Raises:
        BundlePathRefused: for external data elsewhere than beside the graph, or native code.
        BundleDamaged: for a malformed file, or data beyond the end of the file it lies in.
    """
    outline = _outline(root, name)
    folder = name.rpartition("/")[0]
    for op_type in FORBIDDEN_OP_TYPES:
        if op_type in outline.op_types:
            raise BundlePathRefused(
                f"{name} of the bundle holds a compiled engine",
                got=op_type,
                expected="plain ONNX operators",
                fix="do not use this bundle unless you made it yourself",
            )
    for tensor in outline.external:
        _check_location(name, folder, tensor, files)
    return outline


def _outline(root: Path, name: str) -> OnnxOutline:
    with open_confined(root, name) as stream:
        try:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file cannot be mapped
            return outline_of_onnx(b"", name=name)
        # Not closed here: an error on its way still holds views of it. It goes with the last one.
        return outline_of_onnx(memoryview(mapped), name=name)


def _check_location(
    name: str, folder: str, tensor: ExternalData, files: Mapping[str, FileRecord]
) -> None:
    sibling = f"{folder}/{tensor.location}" if folder else tensor.location
    if tensor.location not in PERMITTED_LOCATIONS or sibling not in files:
        raise BundlePathRefused(
            f"{name} of the bundle keeps the tensor {tensor.tensor!r} in another file",
            got=tensor.location,
            expected="weights.bin or model.bin in the same folder, listed in manifest.json",
            fix="do not use this bundle unless you made it yourself",
        )
    end = tensor.offset + (tensor.length or 0)
    if end > files[sibling].bytes:
        raise BundlePathRefused(
            f"{name} of the bundle reads the tensor {tensor.tensor!r} beyond the end of {sibling}",
            got=f"byte {end}",
            expected=f"at most {files[sibling].bytes} bytes",
            fix="get the bundle again or export it again with fam-export",
        )
