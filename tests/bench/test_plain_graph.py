"""The plain step made from a bundle, beside the one that PyTorch has without FM and AM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from fam_bench.plain_graph import plain_bundle, plain_model, plain_name, write_plain_steps
from fam_bench.probe_feeds import step_inputs
from fam_bench.step_definitions import step_definitions
from fam_runtime.backends import open_backend
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from fam_runtime.errors import BackendError
from tests.conftest import Exported

TOLERANCE = 1e-4
"""float32 through a whole UNet, summed in another order; without FM or AM it is off by 1e-1."""


def test_the_plain_step_is_the_unet_without_fm_am_and_taps(tiny: Exported, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny.bundle)
    (target,) = bundle.manifest.targets
    write_plain_steps(bundle, [target], tmp_path)
    plain, name = plain_bundle(bundle, tmp_path), plain_name(target)
    onnx.checker.check_model(str(plain.path(name)))
    feeds = step_inputs(plain.manifest, name)
    definition = step_definitions(bundle.manifest, str(tiny.checkpoint), target).plain
    assert list(feeds) == [spec.name for spec in definition.inputs]
    expected = definition.run({n: torch.from_numpy(np.array(a)) for n, a in feeds.items()})
    with open_backend().load(plain, name) as runner:
        outputs = runner.run(feeds)
    for output, value in expected.items():
        np.testing.assert_allclose(
            outputs[output], value.numpy(), atol=TOLERANCE * float(value.abs().max())
        )


def test_a_graph_in_which_the_weights_act_otherwise_is_refused(tiny: Exported) -> None:
    bundle = Bundle.open(tiny.bundle, verify="size")
    native = onnx.load(bundle.path(NATIVE_GRAPH), load_external_data=False)
    with pytest.raises(BackendError, match="got 'no sum with FM or AM in it'"):
        plain_model(native)
    target = onnx.load(bundle.path(bundle.manifest.targets[0].step), load_external_data=False)
    (product,) = (node for node in target.graph.node if "fm_weight" in node.input)
    product.op_type = "Pow"
    with pytest.raises(BackendError, match="got 'Pow"):
        plain_model(target)
