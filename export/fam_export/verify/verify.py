"""A bundle in every library beside PyTorch, from one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fam_export.checkpoint import Checkpoint
from fam_export.verify.choice import BackendChoice
from fam_export.verify.contest import Contest, ProgressOf
from fam_export.verify.reference import ReferenceRun, Task, reference_runs
from fam_export.verify.report import VerifyReport
from fam_runtime.bundle import Bundle, PixelSize, Target
from fam_runtime.errors import ExportError, InvalidRequest
from fam_runtime.progress import NoProgress, Progress

DEFAULT_STEPS = 10
"""Of each stage, or the bundle's default where that is fewer: early, middle and late steps are all
there, and PyTorch on a CPU makes them in minutes for SD 1.5."""


def verify_bundle(
    checkpoint: Checkpoint,
    bundle: Path,
    backends: Sequence[BackendChoice],
    *,
    targets: Sequence[PixelSize] | None = None,
    steps: int | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Compare backends with PyTorch, per graph, per step and at the end.

    What a backend does wrong is in the report, whose ``check()`` raises it: so the table can be
    shown in any case.

    Args:
        checkpoint: that the bundle was exported from.
        bundle: its folder.
        backends: see :func:`fam_export.verify.every_backend`.
        targets: sizes; None is every one of the bundle.
        steps: of each stage; None is :data:`DEFAULT_STEPS`.
        progress: told about the stages of everybody; None is silent.

    Raises:
        InvalidRequest: there is no backend or target, or `steps` cannot be.
        TargetNotBuilt: the bundle has no such target.
        ExportError: the bundle was exported from another checkpoint.
        BundleError: the bundle is missing or damaged.
        NumericError: the checkpoint itself gives NaN or infinity in PyTorch.
        BackendError: PyTorch failed, for lack of memory most likely.
    """
    progress = progress or NoProgress()
    opened = Bundle.open(bundle)
    chosen = _targets(opened, targets)
    if not backends:
        raise InvalidRequest("no backend to verify", expected="at least one", fix="name one")
    _check_same_checkpoint(checkpoint, opened)
    default = min(DEFAULT_STEPS, opened.manifest.defaults.num_inference_steps)
    task = Task(default if steps is None else steps)
    contests = [Contest(choice, opened, task, progress) for choice in backends]
    able = [contest for contest in contests if contest.can_open()]
    references: list[ReferenceRun] = []
    described: dict[str, str] = {}
    if able:  # PyTorch takes minutes, and nobody would be compared with it
        of_torch = ProgressOf("torch", progress)
        references, described = reference_runs(checkpoint, opened, chosen, task, of_torch)
    for contest in able:
        contest.run(references)
    return VerifyReport(
        bundle={"name": str(bundle), "hash": opened.hash, "dtype": opened.manifest.model.dtype},
        targets=tuple(str(target.size) for target in chosen),
        task=asdict(task),
        reference=described,
        contestants=tuple(contest.report for contest in contests),
    )


def _targets(bundle: Bundle, sizes: Sequence[PixelSize] | None) -> tuple[Target, ...]:
    manifest = bundle.manifest
    if sizes is None:
        sizes = [target.size for target in manifest.targets]
    if not sizes:
        raise InvalidRequest(
            "no target to verify", expected="at least one", fix="export one, with --scale 2"
        )
    return tuple(manifest.target_for(size.height, size.width) for size in sizes)


def _check_same_checkpoint(checkpoint: Checkpoint, bundle: Bundle) -> None:
    model = bundle.manifest.model
    if checkpoint.fingerprint() != model.checkpoint_sha256:
        raise ExportError(
            "the bundle was exported from another checkpoint",
            got=checkpoint.source,
            expected=f"the checkpoint {model.name} that it was made from, unchanged",
            fix="give that --model with the same --dtype, --lora and --config",
        )
