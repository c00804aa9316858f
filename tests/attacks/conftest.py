"""A whole bundle to copy and spoil: hand-made graphs, one with external data, all in kilobytes."""

from __future__ import annotations

import shutil

import onnx
import pytest
from onnx.external_data_helper import set_external_data

from tests.runtime.fake_bundle import refresh_manifest, write_bundle


@pytest.fixture(scope="session")
def whole_bundle(tmp_path_factory):
    """Read only. Its native step keeps one tensor in unet/weights.bin."""
    root = write_bundle(tmp_path_factory.mktemp("attacks") / "whole")
    model = onnx.load(root / "unet/native.onnx")
    tensor = model.graph.initializer[0]
    (root / "unet/weights.bin").write_bytes(tensor.raw_data)
    set_external_data(tensor, "weights.bin", 0, len(tensor.raw_data))
    tensor.ClearField("raw_data")
    (root / "unet/native.onnx").write_bytes(model.SerializeToString())
    (root / "unet/weights.json").write_text("{}\n")
    refresh_manifest(root)
    return root


@pytest.fixture
def bundle(whole_bundle, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(whole_bundle, tmp_path / "bundle")
