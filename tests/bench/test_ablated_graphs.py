"""Steps with something left out, made from a bundle, beside those that PyTorch has without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from fam_bench.latency.ablated_graphs import (
    ablated_bundle,
    ablated_graphs,
    ablated_model,
    write_ablated_graphs,
)
from fam_bench.latency.feeds import step_inputs
from fam_bench.latency.libraries.torch_modules import TorchModules
from fam_export.checkpoint import open_checkpoint
from fam_runtime import contract
from fam_runtime.backends import open_backend
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from fam_runtime.errors import BackendError
from tests.conftest import Exported

TOLERANCE = 1e-4
"""float32 through a whole UNet, summed in another order; without FM or AM it is off by 1e-1."""


def test_steps_with_something_left_out_are_those_of_pytorch(tiny: Exported, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny.bundle)
    (target,) = bundle.manifest.targets
    write_ablated_graphs(bundle, [target], tmp_path)
    ablated = ablated_bundle(bundle, tmp_path)
    torch = TorchModules(
        open_checkpoint(str(tiny.checkpoint)), bundle.manifest, device="cpu", compiled=False
    )
    kinds = []
    for own in ablated_graphs([target]):
        onnx.checker.check_model(str(ablated.path(own.name)))
        spec = ablated.manifest.graphs[own.name]
        feeds = step_inputs(bundle, spec, own.target)
        with (
            open_backend().load(ablated, own.name) as runner,
            torch.load(ablated, own.name) as module,
        ):
            assert {item.name for item in module.spec.inputs} == set(feeds)
            outputs, expected = runner.run(feeds), module.run(feeds)
        assert set(outputs) == set(expected) == {contract.NEXT_LATENT, contract.PREDICTION}
        for name, value in expected.items():
            wanted = torch.download(value)
            np.testing.assert_allclose(
                np.asarray(outputs[name]), wanted, atol=TOLERANCE * float(np.abs(wanted).max())
            )
        kinds.append((own.ablation, set(feeds) & {contract.FM_WEIGHT, contract.AM_STRENGTH}))
    assert kinds == [
        ("native_plain", set()),
        ("without_am", {contract.FM_WEIGHT}),
        ("plain", set()),
    ]


def test_a_graph_in_which_the_weights_act_otherwise_is_refused(tiny: Exported) -> None:
    bundle = Bundle.open(tiny.bundle, verify="size")
    native = onnx.load(bundle.path(NATIVE_GRAPH), load_external_data=False)
    with pytest.raises(BackendError, match="got 'no sum with FM or AM in it'"):
        ablated_model(native, "plain")
    target = onnx.load(bundle.path(bundle.manifest.targets[0].step), load_external_data=False)
    (product,) = (node for node in target.graph.node if "fm_weight" in node.input)
    product.op_type = "Pow"
    with pytest.raises(BackendError, match="got 'Pow"):
        ablated_model(target, "plain")
