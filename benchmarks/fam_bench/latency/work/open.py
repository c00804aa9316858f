"""From a job to its work."""

from __future__ import annotations

from fam_bench.latency.contestants import BY_NAME
from fam_bench.latency.units import WorkerJob
from fam_bench.latency.work.base import Work


def open_work(job: WorkerJob) -> Work:
    """Load a unit.

    Raises:
        FamError: the backend or the bundle cannot do it.
        ImportError: a package is missing.
    """
    way = BY_NAME[job.contestant].way
    if way == "literal":
        from fam_bench.latency.work.literal import LiteralPicture, LiteralStep

        return LiteralPicture(job) if job.kind == "picture" else LiteralStep(job)
    if way in ("cpp", "triton"):
        from fam_bench.latency.work.programs import ProgramPicture

        return ProgramPicture(job)
    if job.kind == "picture":
        from fam_bench.latency.work.pictures import Picture

        return Picture(job)
    if job.kind == "direct":
        from fam_bench.latency.work.pictures import DirectPicture

        return DirectPicture(job)
    from fam_bench.latency.work.steps import Step

    return Step(job)
