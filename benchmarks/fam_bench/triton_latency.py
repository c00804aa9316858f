"""What serving by Triton costs beside the runtime in a process of its own, as ratios.

``python -m fam_bench.triton_latency BUNDLE`` starts real servers on this machine, and lets NVIDIA's
perf_analyzer ask one after the other for pictures with the bundle's defaults. Before and after each
a process of the same Python, with the same libraries, makes pictures by itself; every ratio is one
to these, so that a machine whose speed drifts favours nobody.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tqdm import tqdm

from fam_bench.killable import run_killable_cli
from fam_bench.perf_analyzer import PerfAnalyzer
from fam_bench.picture_worker import PictureWorker
from fam_bench.triton_figures import IN_PROCESS, Contestant, Window, figures_of, markdown
from fam_bench.tritonserver import TritonEnvironment, TritonServer
from fam_runtime.bundle import Bundle
from fam_runtime.triton.interface import DEFAULT_MODEL_NAME
from fam_runtime.triton.options import RepositoryOptions
from fam_runtime.triton.repository import write_repository

REQUEST = MappingProxyType({"prompt": "a red circle on a white background", "seed": 7})

PIPELINE, ENGINES = "`pipeline`", "`engines`"
LIMITED, TWO = "`pipeline` with `--queue-size 64`", "`pipeline` with `--instances 2 --threads 1`"

SERVERS = MappingProxyType(
    {
        PIPELINE: RepositoryOptions(),
        ENGINES: RepositoryOptions(layout="engines"),
        LIMITED: RepositoryOptions(queue_size=64),
        TWO: RepositoryOptions(instances=2, threads=1),
    }
)
"""A limited queue is one of its own, because Triton 2.51 then loses time between two requests."""

CONTESTANTS = (
    Contestant(PIPELINE, "grpc"),
    Contestant(PIPELINE, "http"),
    Contestant(ENGINES, "grpc"),
    Contestant(LIMITED, "grpc"),
    Contestant(PIPELINE, "grpc", 2),
    Contestant(ENGINES, "grpc", 2),
    Contestant(LIMITED, "grpc", 2),
    Contestant(TWO, "grpc", 2),
)


@dataclass
class Measured:
    """Windows of one contestant, and for each what a process did before and after it."""

    windows: list[Window] = field(default_factory=list)
    beside: list[Window] = field(default_factory=list)


class Servers:
    """One server for each layout, all idle but the one that is asked.

    Args:
        folder: for repositories, logs and reports.
        bundle: of the pictures.
        environment: of the servers.
        running: ends the servers.
    """

    def __init__(
        self, folder: Path, bundle: Path, environment: TritonEnvironment, running: ExitStack
    ) -> None:
        self.analyzer = PerfAnalyzer(environment, folder)
        self._servers: dict[str, TritonServer] = {}
        for number, (name, options) in enumerate(SERVERS.items()):
            place = folder / f"server-{number}"
            place.mkdir()
            write_repository(bundle, place / "models", options)
            server = TritonServer(environment, place / "models", place)
            self._servers[name] = running.enter_context(server)
        self.version = str(json.loads(server.request("/v2")[1])["version"])

    def ask(self, contestant: Contestant, requests: int) -> Window:
        """Pictures of a contestant's server."""
        server = self._servers[contestant.server]
        before = server.cpu_seconds()
        served = self.analyzer.measure(
            DEFAULT_MODEL_NAME,
            server.http_address if contestant.protocol == "http" else server.grpc_address,
            REQUEST,
            requests=requests,
            concurrency=contestant.concurrency,
            protocol="http" if contestant.protocol == "http" else "grpc",
        )
        cpu_seconds = server.cpu_seconds() - before
        return Window(served.seconds, served.span_seconds, cpu_seconds, served.parts)


def ask_process(worker: PictureWorker, pictures: int) -> Window:
    """Pictures one by one, without a server."""
    before, begun = worker.cpu_seconds(), time.perf_counter()
    seconds = [worker.seconds_of_picture(REQUEST) for _ in range(pictures)]
    return Window(seconds, time.perf_counter() - begun, worker.cpu_seconds() - before)


def measure_rounds(
    servers: Servers, worker: PictureWorker, rounds: int, requests: int
) -> tuple[Measured, dict[Contestant, Measured]]:
    """The process, and every contestant once in each round."""
    # Nothing of this counts: the first picture of each is slower.
    near = ask_process(worker, 2)
    for contestant in CONTESTANTS:
        servers.ask(contestant, 2)
    alone, measured = Measured(), {contestant: Measured() for contestant in CONTESTANTS}
    for index in tqdm(range(rounds), desc="rounds"):
        near = ask_process(worker, max(requests // 2, 1))
        alone.windows.append(near)
        # There and back again, so that nobody always comes after the same one.
        for contestant in CONTESTANTS[:: 1 if index % 2 == 0 else -1]:
            own, before = measured[contestant], near
            own.windows.append(servers.ask(contestant, requests))
            near = ask_process(worker, max(requests // 2, 1))
            alone.windows.append(near)
            own.beside.append(before + near)
    alone.beside = alone.windows
    return alone, measured


def argument_parser() -> argparse.ArgumentParser:
    """The options of this module as a command."""
    parser = argparse.ArgumentParser(
        prog="python -m fam_bench.triton_latency", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("bundle", type=Path, help="bundle that is served")
    parser.add_argument(
        "--environment",
        type=Path,
        help="the Python environment with the server (default: what `make triton-env` makes)",
    )
    parser.add_argument("--rounds", type=_positive, default=6)
    parser.add_argument(
        "--requests", type=_even, default=4, help="of a contestant in a round (default: 4)"
    )
    parser.add_argument("--output", type=Path, help="write the figures here as well, as JSON")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Measure and print the tables."""
    environment = TritonEnvironment.find(arguments.environment)
    bundle = Bundle.open(arguments.bundle)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as running:
        servers = Servers(Path(temporary), arguments.bundle, environment, running)
        python, log = environment.bin / "python", Path(temporary) / "worker.log"
        worker = running.enter_context(PictureWorker(python, arguments.bundle, log))
        alone, measured = measure_rounds(servers, worker, arguments.rounds, arguments.requests)
    rows = {Contestant(IN_PROCESS): alone, **measured}
    figures = [figures_of(one, own.windows, own.beside) for one, own in rows.items()]
    document: dict[str, Any] = {
        "machine": worker.description,
        "load_before": load,
        "server": servers.version,
        "perf_analyzer": servers.analyzer.version,
        "bundle": {"name": bundle.manifest.model.name, "hash": bundle.hash},
        "request": dict(REQUEST),
        "requests_per_round": arguments.requests,
        "contestants": [
            {**row, "windows": [asdict(window) for window in own.windows]}
            for row, own in zip(figures, rows.values(), strict=True)
        ],
    }
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(markdown(figures))
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _even(text: str) -> int:
    """With two at a time none is alone at the end."""
    number = _positive(text)
    if number % 2:
        raise argparse.ArgumentTypeError(f"{number} is odd, and some are asked for two at a time")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_killable_cli(run, argument_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
