"""`fam-bench` as a command; see :mod:`fam_bench.latency`."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fam_bench.killable import run_killable_cli
from fam_bench.latency.contestants import LITERAL
from fam_bench.latency.options import argument_parser, check_arguments, steps_of, threads_of
from fam_bench.latency.plan import (
    Circumstances,
    batches,
    contestants_from_text,
    kinds_asked_for,
    make_ablated_graphs,
    obstacle,
    uniform_scales,
)
from fam_bench.latency.results.compare import compare_files
from fam_bench.latency.results.comparison_table import markdown as comparison_markdown
from fam_bench.latency.results.document import (
    REPORT,
    RESULTS,
    document_of,
    facts_of,
    floor_facts,
    write,
)
from fam_bench.latency.results.report import markdown
from fam_bench.latency.rounds import Bench, Budget, Line
from fam_bench.latency.units import Unit, WorkerJob
from fam_bench.nvml import Gpu, present_gpu
from fam_runtime.bundle import Bundle
from fam_runtime.errors import InvalidRequest

DEMO = "demo"


def run(arguments: argparse.Namespace) -> int:
    """Measure what can be measured, or compare two results; print the tables."""
    if arguments.compare is not None:
        before, after = arguments.compare
        comparison = compare_files(before, after, arguments.tolerance)
        print(comparison_markdown(comparison, all_rows=arguments.all))
        return 1 if comparison.regressed else 0
    check_arguments(arguments)
    contestants = contestants_from_text(arguments.contestants)
    budget = Budget(arguments.time_budget)
    with (
        opened_bundle(arguments) as (bundle, model),
        tempfile.TemporaryDirectory(prefix="fam-bench-") as name,
    ):
        folder = Path(name)
        scales = list(dict.fromkeys(arguments.scale or uniform_scales(bundle)))
        planned = planned_units(arguments, contestants, scales)
        gpu, no_gpu = present_gpu()
        here = Circumstances(
            bundle,
            model,
            arguments.device or ("cpu" if gpu is None else "cuda"),
            no_gpu,
            make_ablated_graphs(bundle, scales, folder / "ablated"),
            frozenset(contestants if arguments.contestants else ()),
        )
        shown = Path(arguments.full_size or bundle.manifest.model.name).name
        output = arguments.output or Path(f"fam-bench-{shown}")
        facts = facts_of(here, gpu, shown, settings_of(arguments, scales))
        bench = make_bench(arguments, here, gpu, folder, budget)
        document: dict[str, Any] = {}
        for lines in measured_so_far(bench, here, planned):
            document = document_of(facts, here, lines, max(bench.others_busy, default=0.0))
            write(output, document)
        document |= floor_facts(here, facts["settings"], say)
        write(output, document)
    print(markdown(document))
    for path in finished_plots(document, output):
        say(f"wrote {path}")
    say(f"wrote {output / RESULTS}, {output / REPORT}")
    return 0


def planned_units(
    arguments: argparse.Namespace, contestants: Sequence[str], scales: Sequence[float]
) -> list[list[Unit]]:
    """What was asked for.

    Raises:
        InvalidRequest: that is nothing.
    """
    kinds = kinds_asked_for(arguments.only, direct=arguments.paper_protocol)
    planned = batches(contestants, scales, kinds)
    if not planned:
        raise InvalidRequest(
            "there is nothing to measure",
            got=f"{', '.join(sorted(kinds))} of {', '.join(contestants)} at scales {list(scales)}",
            expected="a contestant that does one of these, and a target",
            fix="leave --only and --contestants out; for other targets give --scale",
        )
    return planned


def measured_so_far(
    bench: Bench, here: Circumstances, planned: Sequence[Sequence[Unit]]
) -> Iterator[list[Line]]:
    """A line per unit, after every batch those of all batches until then."""
    lines: list[Line] = []
    for batch in planned:
        obstacles = {unit: obstacle(unit, here) for unit in batch}
        lines += [Line(unit, reason) for unit, reason in obstacles.items() if reason]
        lines += bench.measure([unit for unit, reason in obstacles.items() if not reason])
        yield lines


@contextmanager
def opened_bundle(arguments: argparse.Namespace) -> Iterator[tuple[Bundle, str]]:
    """The bundle, and the checkpoint that PyTorch takes; empty if it is not known.

    Raises:
        FamError: there is no whole bundle, or none can be made.
    """
    if arguments.full_size is None:
        bundle = Bundle.open(arguments.bundle)
        known = DEMO if bundle.manifest.model.name == DEMO else ""
        yield bundle, arguments.model or known
        return
    from fam_bench.latency.full_size_bundle import full_size_bundle

    made = full_size_bundle(
        arguments.full_size,
        arguments.scale or [2.0],
        dtype=arguments.dtype,
        work=arguments.work,
        say=say,
    )
    with made as (folder, checkpoint):
        yield Bundle.open(folder), str(checkpoint)


def make_bench(
    arguments: argparse.Namespace,
    here: Circumstances,
    gpu: Gpu | None,
    folder: Path,
    budget: Budget,
) -> Bench:
    """What measures; the job of its workers gets its unit later."""
    job = WorkerJob(
        contestant=LITERAL,
        kind="native",
        scale=1.0,
        device=here.device,
        bundle=str(here.bundle.root.absolute()),
        ablated="" if here.no_ablated else str(folder / "ablated"),
        model=here.model,
        cache=str((arguments.work or folder) / "engines"),
        results="",
        steps=steps_of(arguments),
        threads=threads_of(arguments),
    )
    return Bench(
        job,
        folder,
        gpu if here.device == "cuda" else None,
        budget,
        arguments.rounds,
        arguments.unit_timeout,
        say,
        dict(arguments.plant_slowdown),
    )


def settings_of(arguments: argparse.Namespace, scales: Sequence[float]) -> dict[str, Any]:
    """What decides the figures besides machine and bundle."""
    return {
        "steps": steps_of(arguments),
        "rounds": arguments.rounds,
        "threads": threads_of(arguments),
        "scales": list(scales),
        "planted_slowdowns": dict(arguments.plant_slowdown),
    }


def finished_plots(document: dict[str, Any], output: Path) -> list[Path]:
    """The plots, where matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        say("no plots: the package matplotlib is missing (pip install fam-diffusion[bench])")
        return []
    from fam_bench.latency.results.plots import write_plots

    return write_plots(document, output)


def say(text: str) -> None:
    """Tell on standard error what goes on; standard output is for the tables."""
    tqdm.write(text, file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_killable_cli(run, argument_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
