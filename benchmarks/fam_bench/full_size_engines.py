"""The engines of a full-size bundle: built one after the other, then taken from the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fam_bench.engine_build import EngineJob, EngineRun, EngineTimes, LibraryName, build_apart
from fam_bench.full_size_tables import gigabytes
from fam_runtime.backends.tensorrt.architecture import Gpu
from fam_runtime.backends.tensorrt.build_cost import weights_bytes
from fam_runtime.backends.tensorrt.engines import engines_of_targets
from fam_runtime.backends.tensorrt.settings import BuildSettings
from fam_runtime.bundle import NATIVE_GRAPH, Bundle

Which = Literal["unet", "all"]


@dataclass(frozen=True)
class EngineFigures:
    """What an engine took.

    Attributes:
        graph: name of its file in the bundle.
        weights: of the graph, in bytes.
        built: the build.
        cached: the same asked for again; None where there is no plan to find.
    """

    graph: str
    weights: int
    built: EngineRun
    cached: EngineRun | None

    def as_dict(self) -> dict[str, Any]:
        """JSON types; paths of this machine are left out."""
        document = {"graph": self.graph, "weights": self.weights, "built": _said(self.built)}
        times = None if self.cached is None else self.cached.times
        return document | {"cached": None if times is None else asdict(times)}


def engine_jobs(
    bundle: Bundle, which: Which, library: LibraryName, gpu: Gpu, cache: Path
) -> list[EngineJob]:
    """The step graphs, native and targets, or every engine that pictures need."""
    wanted = engines_of_targets(bundle, bundle.manifest.targets, BuildSettings())
    steps = {NATIVE_GRAPH, *(target.step for target in bundle.manifest.targets)}
    return [
        EngineJob(
            str(bundle.root),
            engine.graph,
            {symbol: (r.minimum, r.optimum, r.maximum) for symbol, r in engine.ranges.items()},
            library,
            gpu.architecture,
            gpu.name,
            str(cache),
        )
        for engine in wanted
        if which == "all" or engine.graph in steps
    ]


def measure_engines(
    bundle: Bundle, jobs: Sequence[EngineJob], say: Callable[[str], None]
) -> list[EngineFigures]:
    """Build every engine in a process of its own, then find each in the cache from another."""
    figures = []
    for job in jobs:
        kind = " without weights" if job.strip_weights else ""
        say(f"building the engine of {job.graph}{kind}")
        built = build_apart(job)
        cached = None if built.times is None else build_apart(job)
        if built.error:
            say(built.error)
        figures.append(EngineFigures(job.graph, weights_bytes(bundle, job.graph), built, cached))
    return figures


def stripped(jobs: Sequence[EngineJob]) -> list[EngineJob]:
    """The same engines with their weights left out."""
    return [replace(job, strip_weights=True) for job in jobs]


def engine_table(figures: Sequence[EngineFigures]) -> str:
    """A row per engine; what failed says why below the table."""
    lines = [
        "| engine | weights | parse, s | build, s | write, s | from the cache, s | peak "
        "| of that allocated / mapped | plan |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(own) for own in figures]
    lines += [
        "",
        *(f"{_name(own)}: not built. {own.built.error}" for own in figures if own.built.error),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _row(own: EngineFigures) -> str:
    run, times = own.built, own.built.times
    anonymous, mapped = run.peak_parts
    weights = f"{_name(own)} | {gigabytes(own.weights)}"
    peak = f"{gigabytes(run.memory.resident)} | {gigabytes(anonymous)} / {gigabytes(mapped)}"
    if times is None:
        return f"| {weights} | – | – | – | – | {peak} | – |"
    cached = own.cached.times if own.cached is not None else None
    # A second engine that was built again would be a defect of the key.
    found = "built again" if cached is None or not cached.reused else f"{cached.total_seconds:.1f}"
    first = "– | – | –" if times.reused else _phases(times)
    return f"| {weights} | {first} | {found} | {peak} | {gigabytes(times.plan_bytes)} |"


def _phases(times: EngineTimes) -> str:
    return f"{times.parse_seconds:.1f} | {times.build_seconds:.1f} | {times.write_seconds:.1f}"


def _name(own: EngineFigures) -> str:
    job = own.built.job
    text = f"{own.graph}, {job.library}, {job.architecture}"
    return f"{text}, without weights" if job.strip_weights else text


def _said(run: EngineRun) -> Mapping[str, Any]:
    document = asdict(run)
    del document["job"]
    job = run.job
    return {
        "library": job.library,
        "architecture": job.architecture,
        "ranges": {symbol: list(sizes) for symbol, sizes in job.ranges.items()},
        "strip_weights": job.strip_weights,
        **document,
    }
