"""The comparison of libraries with PyTorch: what passes, and what must be found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fam_export.checkpoint import open_checkpoint
from fam_export.cli import main
from fam_export.options import ExportOptions
from fam_export.shared_weights import read_weight_table
from fam_export.verify import BackendChoice, VerifyReport, verify_bundle
from fam_export.verify.tolerances import arithmetic_of
from fam_runtime import contract
from fam_runtime.backends.base import Backend, Runner, Value, Values
from fam_runtime.backends.onnxruntime import OnnxruntimeBackend
from fam_runtime.backends.registry import BACKENDS
from fam_runtime.bundle import Bundle, PixelSize
from fam_runtime.contract import StepCoefficient
from fam_runtime.errors import (
    BackendError,
    ExportError,
    NumericError,
    ParityError,
    TargetNotBuilt,
)
from tests.conftest import Exported, ExportTiny

STEPS = 4
ONE_THREAD = {"num_threads": 1}
ONNXRUNTIME = BackendChoice("onnxruntime", ONE_THREAD)

Arrays = dict[str, np.ndarray[Any, Any]]
Damage = Callable[[str, int, Arrays], None]
"""Writes to copies of the feeds or outputs of a graph (and, of a step graph, a step)."""


class DamagedRunner(Runner):
    """A runner whose feeds and outputs go through somebody's hands."""

    def __init__(self, inner: Runner, feeds: Damage, outputs: Damage) -> None:
        super().__init__(inner.graph, inner.spec)
        self._inner, self._feeds, self._outputs = inner, feeds, outputs
        self._timesteps: list[float] = []

    def infer_impl(self, feeds: Values, outputs: Sequence[str]) -> dict[str, Value]:
        arrays = {name: np.array(value) for name, value in feeds.items()}
        step = self._step(arrays)
        self._feeds(self.graph, step, arrays)
        computed = self._inner.run(arrays, outputs)
        results = {name: np.array(value) for name, value in computed.items()}
        self._outputs(self.graph, step, results)
        return dict(results)

    def close_impl(self) -> None:
        self._inner.close()

    def _step(self, feeds: Arrays) -> int:
        if contract.TIMESTEP not in feeds:
            return -1
        timestep = float(feeds[contract.TIMESTEP])
        if timestep not in self._timesteps:
            self._timesteps.append(timestep)
        return self._timesteps.index(timestep)


def nothing(graph: str, step: int, arrays: Arrays) -> None:
    """No damage."""


class DamagedBackend(OnnxruntimeBackend):
    def __init__(self, feeds: Damage, outputs: Damage, weights: Path | None) -> None:
        super().__init__(num_threads=1)
        self._feeds, self._outputs, self._copy = feeds, outputs, weights

    def load(self, bundle: Bundle, graph: str) -> Runner:
        loaded = bundle if self._copy is None else Bundle.unchecked(self._copy)
        return DamagedRunner(super().load(loaded, graph), self._feeds, self._outputs)


@dataclass(frozen=True)
class Damaged(BackendChoice):
    """ONNX Runtime with something wrong; `weights`: a bundle whose weights it takes."""

    name: str = "damaged"
    feeds: Damage = nothing
    outputs: Damage = nothing
    weights: Path | None = None

    def open(self) -> Backend:
        return DamagedBackend(self.feeds, self.outputs, self.weights)


@dataclass(frozen=True)
class Missing(BackendChoice):
    """A library that is not here."""

    name: str = "tensorrt"
    error: Exception = field(
        default_factory=lambda: BackendError("there is no GPU", fix="use onnxruntime")
    )

    def open(self) -> Backend:
        raise self.error


def verify(exported: Exported, *choices: BackendChoice, **options: Any) -> VerifyReport:
    checkpoint = open_checkpoint(exported.checkpoint)
    return verify_bundle(checkpoint, exported.bundle, choices, steps=STEPS, **options)


def failed_steps(report: VerifyReport) -> list[tuple[str, int | None]]:
    comparisons = report.contestants[0].failures
    return [(each.what, each.step) for each in comparisons if each.kind == "step"]


@pytest.mark.parametrize(
    ("kind", "scale", "dtype"), [("sd15", "2", "fp32"), ("sdxl", "1.5", "fp16")]
)
def test_onnxruntime_computes_what_pytorch_computes(
    export_tiny: ExportTiny, kind: Any, scale: str, dtype: Any
) -> None:
    exported = export_tiny(kind, (scale,), ExportOptions(dtype=dtype))
    report = verify(exported, ONNXRUNTIME)
    report.check()
    assert report.passed and report.contestants[0].verdict == "ok"
    manifest = Bundle.unchecked(exported.bundle).manifest
    comparisons = report.contestants[0].comparisons
    compared = {each.what.split()[0] for each in comparisons if each.kind == "graph"}
    steps = {"unet/native.onnx", manifest.targets[0].step}
    assert compared | steps == set(manifest.graphs)
    of_steps = [(each.what, each.step) for each in comparisons if each.kind == "step"]
    stages = ("native stage", "target stage")
    assert of_steps == [(stage, step) for stage in stages for step in range(STEPS)]
    # Nothing is compared with itself, and half precision is told from single by its figures.
    errors = [each.figures["relative_rms"] for each in comparisons if each.kind == "step"]
    assert min(errors) > (1e-6 if dtype == "fp16" else 0)
    assert {each.arithmetic for each in comparisons if each.kind == "step"} == {dtype}
    assert json.loads(json.dumps(report.as_dict()))["passed"]
    table = "\n".join(report.lines())
    assert "4 steps of the target stage" in table and "PSNR" in table


def wrong_coefficient(graph: str, step: int, feeds: Arrays) -> None:
    if graph == "unet/native.onnx" and step == 2:
        feeds[contract.STEP_COEFFICIENTS][StepCoefficient.NEXT_FROM_OUTPUT] *= 1.001


def wrong_native_attention(graph: str, step: int, outputs: Arrays) -> None:
    if graph == "unet/native.onnx" and step == 1:
        for name in outputs:
            if name.startswith("attention_query."):
                outputs[name] *= 1.5


def wrong_colours(graph: str, step: int, outputs: Arrays) -> None:
    if graph.startswith("vae_decoder"):
        outputs[contract.IMAGE] *= 1.001


@pytest.mark.parametrize(
    ("choice", "steps", "first"),
    [
        (Damaged(feeds=wrong_coefficient), [("native stage", 2)], "256x256, native stage, step 2"),
        (
            Damaged(outputs=wrong_native_attention),
            [("target stage", 1)],
            "256x256, target stage, step 1",
        ),
        (Damaged(outputs=wrong_colours), [], "vae_decoder/model.onnx image"),
    ],
    ids=["coefficient", "native attention", "decoder"],
)
def test_damage_is_found_where_it_is_and_nowhere_else(
    tiny: Exported, choice: BackendChoice, steps: list[tuple[str, int]], first: str
) -> None:
    report = verify(tiny, choice)
    assert failed_steps(report) == steps
    message = f"damaged: {first} is not what PyTorch computes.*relative_.*expected at most"
    with pytest.raises(ParityError, match=message):
        report.check()


def test_one_wrong_weight_is_found(tiny: Exported, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny.bundle, tmp_path / "copy"))
    entry = read_weight_table(copy / "unet")["unet.mid_block.resnets.0.conv1.weight"]
    values = np.memmap(copy / "unet/weights.bin", np.float32, "r+", entry.offset, entry.shape)
    values[0, 0, 1, 1] += 0.5
    values.flush()
    report = verify(tiny, Damaged(weights=copy))
    stages = ("native stage", "target stage")
    assert failed_steps(report) == [(stage, step) for stage in stages for step in range(STEPS)]
    with pytest.raises(ParityError, match="native stage, step 0 .*more comparisons"):
        report.check()


def nan_in_one_step(graph: str, step: int, outputs: Arrays) -> None:
    if graph.startswith("unet/target") and step == 1:
        outputs[contract.NEXT_LATENT][0, 0, 0, 0] = np.nan


def nan_from_text(graph: str, step: int, outputs: Arrays) -> None:
    if graph.startswith("text_encoder"):
        outputs[contract.PROMPT_EMBEDS][0, 0, 0] = np.inf


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (nan_in_one_step, "256x256, target stage, step 1"),
        (nan_from_text, "text_encoder/model.onnx prompt_embeds"),
    ],
)
def test_nan_is_named_with_backend_stage_and_step(
    tiny: Exported, damage: Damage, where: str
) -> None:
    report = verify(tiny, Damaged(outputs=damage))
    assert report.contestants[0].verdict == "failed"
    with pytest.raises(NumericError, match=f"damaged: {where} is not a number any more.*got '1 of"):
        report.check()


def test_backend_that_cannot_run_fails_only_if_it_was_asked_for(tiny: Exported) -> None:
    report = verify(tiny, ONNXRUNTIME, Missing(asked=False))
    report.check()
    assert report.contestants[1].verdict == "not run"
    assert report.lines()[-1] == "tensorrt: not run: there is no GPU | use onnxruntime"
    with pytest.raises(BackendError, match="there is no GPU"):
        verify(tiny, ONNXRUNTIME, Missing()).check()


def test_verification_without_anybody_is_none(tiny: Exported) -> None:
    with pytest.raises(BackendError, match="nothing was compared with PyTorch"):
        verify(tiny, Missing(asked=False)).check()


def test_bundle_of_another_checkpoint_and_missing_target_are_refused(
    tiny: Exported, export_tiny: ExportTiny
) -> None:
    other = export_tiny("sdxl", ("1.5",), ExportOptions(dtype="fp16"))
    with pytest.raises(ExportError, match="exported from another checkpoint"):
        verify(Exported("sd15", other.checkpoint, tiny.bundle), ONNXRUNTIME)
    with pytest.raises(TargetNotBuilt, match="192x192"):
        verify(tiny, ONNXRUNTIME, targets=[PixelSize(192, 192)])


@pytest.mark.parametrize(
    ("dtype", "bundle", "described", "expected"),
    [
        ("fp32", "fp32", {"backend": "tensorrt", "tf32": "by dtype"}, "fp32"),
        ("fp32", "fp16", {"backend": "tensorrt", "tf32": "by dtype"}, "tf32"),
        ("fp32", "fp16", {"backend": "tensorrt", "tf32": "off"}, "fp32"),
        ("fp32", "fp32", {"backend": "tensorrt", "tf32": "on"}, "tf32"),
        ("bf16", "bf16", {"backend": "tensorrt", "tf32": "by dtype"}, "bf16"),
        (
            "fp32",
            "fp16",
            {"backend": "onnxruntime", "provider": "cuda", "tf32": "by dtype"},
            "tf32",
        ),
        ("fp32", "fp16", {"backend": "onnxruntime", "provider": "cpu"}, "fp32"),
    ],
)
def test_tf32_has_tolerances_of_its_own(
    dtype: Any, bundle: Any, described: dict[str, str], expected: str
) -> None:
    assert arithmetic_of(dtype, bundle, described) == expected


def test_the_command_verifies_what_it_exported(
    tiny: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    command = ["--model", str(tiny.checkpoint), "--scale", "2", "-o", str(tiny.bundle)]
    command += ["--verify", "--verify-steps", "2", "--report", str(report)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "was there already" in shown
    assert "2 steps of the target stage" in shown
    verified = json.loads(report.read_text())["verify"]
    assert verified["passed"]
    verdicts = {one["backend"]: one["verdict"] for one in verified["contestants"]}
    assert verdicts["onnxruntime"] == "ok"
    assert set(verdicts) == set(BACKENDS)
