"""Pictures for a file of prompts, made by several workers of Ray Data.

    pip install "fam-diffusion[cpu,ray]"
    python ray_batch.py engines/demo prompts.jsonl --output pictures --workers 2

A line of PROMPTS is an object such as ``{"prompt": "a red ring", "seed": 3, "name": "ring"}``; see
:mod:`fam_runtime.batch`. Ray Data hands the lines to workers, and hands a line whose worker died to
another one. A job that was stopped goes on where it was, since a picture that is there with the
settings of its line is kept. A bad line stops no other: ``index.jsonl`` in the output folder tells
what became of each, and the exit status is 1 if a line has no picture.

On a cluster (``--address``) every node needs this package, and reads the bundle and writes the
pictures under the same paths: put both on storage that all nodes share. A cluster with a token is
joined with RAY_AUTH_MODE=token. Engines of TensorRT are kept by every node in its own cache; build
them before the job with fam-generate. A job that finishes no picture for half an hour is given up,
since a picture that kills its worker is tried again and again; for slower pictures set
RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

from fam_runtime import FamPipeline
from fam_runtime.arguments import real_number, whole_number
from fam_runtime.backends import DEFAULT_BACKEND
from fam_runtime.backends.registry import BACKENDS, ENGINE_BACKENDS
from fam_runtime.batch import IndexEntry, PromptLine, make_or_keep, read_prompts, write_index
from fam_runtime.bundle import Bundle
from fam_runtime.cli.errors import run_cli
from fam_runtime.cli.sizes import scale_from_text
from fam_runtime.errors import FamError, InvalidRequest

LINE_DEFAULTS = ("scale", "negative_prompt", "steps", "guidance_scale")
"""Options that are keys of a line, for lines that do not say otherwise."""

LOCAL_ENVIRONMENT = {
    # Ray listens on every interface of the machine unless told that there is no cluster;
    # `_node_ip_address="127.0.0.1"` does not help: Ray takes the machine's own address instead.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Of a Ray that this script starts itself, where the user has not set them."""

LOCAL_STORE_BYTES = 128 * 1024 * 1024
"""Of its shared memory: lines and reports pass through it, but no pictures."""

CONNECT_TIMEOUT_S = 10

NO_REPORT = "its worker failed or died, or none could be placed | see what Ray printed"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job of a command line; returns the exit status (an error prints one line)."""
    return run_cli(make_pictures, parser(), argv)


def make_pictures(arguments: argparse.Namespace) -> int:
    """Make the pictures of a parsed command line.

    Raises:
        FamError: the job cannot run, or a line has no picture.
    """
    workers = Workers.from_arguments(arguments)
    bundle = Bundle.unchecked(arguments.bundle)  # each worker verifies what its node reads
    given = {name: getattr(arguments, name) for name in LINE_DEFAULTS}
    defaults = {name: value for name, value in given.items() if value is not None}
    # Not by Ray Data, whose readers give all lines one schema: one broken line would refuse the
    # file, and a seed become a float where another line has none.
    lines, refused = read_prompts(arguments.prompts, defaults, bundle)
    arguments.output.mkdir(parents=True, exist_ok=True)
    entries: list[IndexEntry] = []
    try:
        for entry in chain(refused, entries_from_ray(lines, workers)):
            entries.append(entry)
            if entry.error is None:
                print(f"{entry.file}  seed {entry.seed}  {entry.state}", flush=True)
            else:
                print(f"line {entry.line}: {entry.error}", file=sys.stderr)
    finally:  # of a job that is stopped, too
        index = write_index(arguments.output, entries)
    if failed := sum(entry.state == "failed" for entry in entries):
        raise FamError(f"{failed} of {len(entries)} lines have no picture", fix=f"see {index}")
    return 0


class PictureMaker:
    """A worker: a process of Ray's with a pipeline of its own.

    Args:
        bundle: its folder.
        output: folder of the pictures.
        options: of :meth:`FamPipeline.from_pretrained`.
    """

    def __init__(self, bundle: str, output: str, options: Mapping[str, Any]) -> None:
        self._bundle, self._output, self._options = bundle, Path(output), options
        self._pipe: FamPipeline | None = None

    def __call__(self, row: Mapping[str, str]) -> dict[str, str]:
        """The report on a row's line; both are JSON, to which Ray Data gives no schema."""
        line = PromptLine(**json.loads(row["line"]))
        try:
            # Not in __init__: only here can an error become a report.
            if self._pipe is None:
                self._pipe = FamPipeline.from_pretrained(
                    self._bundle, progress=False, **self._options
                )
            report = asdict(make_or_keep(self._pipe, line, self._output))
        except FamError as error:  # of the bundle or the folder: every line would meet it
            report = {"stop": f"a worker on {os.uname().nodename} stopped: {error}"}
        return {"report": json.dumps(report)}


@dataclass(frozen=True)
class Workers:
    """How many workers make the pictures, on what, and where.

    Attributes:
        count, threads, gpus: their number, and the CPU cores and GPUs of each.
        address: of a Ray cluster; without one a Ray is started.
        maker: arguments of :class:`PictureMaker`.
    """

    count: int
    threads: int
    gpus: float
    address: str | None
    maker: Mapping[str, Any]

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Workers:
        """The workers of a parsed command line.

        Raises:
            InvalidRequest: an option cannot be used.
        """
        address = None if arguments.address in ("", "local") else arguments.address
        count, threads = whole_number("--workers", arguments.workers), arguments.threads
        if threads is None:
            threads = 1 if address else max((os.cpu_count() or 1) // count, 1)
        threads = whole_number("--threads", threads)
        gpus = real_number("--gpus-per-worker", arguments.gpus_per_worker, 0, 64)
        options: dict[str, Any] = {"backend": arguments.backend}
        if arguments.backend not in ENGINE_BACKENDS:
            options |= {"provider": "cuda" if gpus else "cpu", "num_threads": threads}
        elif not gpus:
            raise InvalidRequest(
                f"the {arguments.backend} backend needs a GPU",
                got="--gpus-per-worker 0",
                expected="a share of one for every worker",
                fix="add --gpus-per-worker 1",
            )
        folders = {"bundle": arguments.bundle, "output": arguments.output}
        absolute = {name: str(Path(folder).absolute()) for name, folder in folders.items()}
        return cls(count, threads, gpus, address, {**absolute, "options": options})


def entries_from_ray(lines: Sequence[PromptLine], workers: Workers) -> Iterator[IndexEntry]:
    """What becomes of each of `lines`, in the order in which they are done.

    Raises:
        FamError: a worker cannot go on, or Ray cannot.
    """
    if not lines:
        return
    missing = {line.number for line in lines}
    with running_ray(workers) as ray:
        rows = [{"line": json.dumps(asdict(line))} for line in lines]
        # A block is what Ray schedules and retries: one line, so that no other is lost with it.
        pictures = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            PictureMaker,
            fn_constructor_kwargs=dict(workers.maker),
            compute=ray.data.ActorPoolStrategy(size=workers.count, max_tasks_in_flight_per_actor=1),
            num_cpus=workers.threads,
            num_gpus=workers.gpus,
        )
        with suppress(ray.data.exceptions.ExecutionTimeoutError):
            # Without prefetching: the last report would wait behind a line that never ends.
            for batch in pictures.iter_batches(batch_size=None, prefetch_batches=0):
                for report in map(json.loads, batch["report"]):
                    if "stop" in report:
                        raise FamError(report["stop"])
                    missing.remove(report["line"])
                    yield IndexEntry(**report)
    yield from (IndexEntry(number, "failed", error=NO_REPORT) for number in missing)


@contextmanager
def running_ray(workers: Workers) -> Iterator[Any]:
    """Ray, joined at an address or started for this job, and left when the block ends."""
    local: dict[str, Any] = {}
    if workers.address:
        check_answers(workers.address)
    else:
        for name, value in LOCAL_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        cpus, store = workers.count * workers.threads, LOCAL_STORE_BYTES
        local = {"num_cpus": cpus, "object_store_memory": store, "include_dashboard": False}
    try:
        ray: Any = import_module("ray")  # after the environment, which it reads when imported
        import_module("ray.data.exceptions")
    except ImportError as error:
        raise FamError(
            "Ray Data is not installed", got=str(error), fix="pip install 'fam-diffusion[ray]'"
        ) from error
    try:
        # Without an address, Ray would join one that is left running on this machine.
        ray.init(workers.address or "local", logging_level=logging.WARNING, **local)
        gpus, wanted = ray.cluster_resources().get("GPU", 0), workers.count * workers.gpus
        if not workers.address and gpus < wanted:  # a cluster may still grow
            raise InvalidRequest(
                "this machine has too few GPUs",
                got=gpus,
                expected=f"{wanted:g} for {workers.count} workers",
                fix="use fewer --workers, or another --gpus-per-worker",
            )
        context = ray.data.DataContext.get_current()
        context.print_on_execution_start = False
        context.max_errored_blocks = -1  # a line that meets a defect stops no other
        yield ray
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise FamError("Ray cannot go on", got=str(error), fix="see what it printed") from error
    finally:
        ray.shutdown()


def check_answers(address: str) -> None:
    """Knock at a cluster's host and port once, where Ray would try for many minutes.

    Raises:
        FamError: nobody answers.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise FamError(
            "no Ray cluster answers",
            got=f"{address}: {error}",
            expected="the host and port of its head node",
            fix="start it with ray start --head, or leave --address out",
        ) from error


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="ray_batch.py",
        description="Make the pictures of a file of prompts with several workers of Ray Data.",
    )
    cli.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle, on every node")
    cli.add_argument("prompts", metavar="PROMPTS", type=Path, help="JSON Lines: a picture a line")
    cli.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the pictures"
    )
    line = cli.add_argument_group("lines that do not say otherwise")
    line.add_argument("--scale", type=scale_from_text, help="times the trained size: 2, or 2x4")
    line.add_argument("--negative-prompt", help="what to keep away from")
    line.add_argument("--steps", type=int, help="denoising steps of each stage")
    line.add_argument("--guidance-scale", type=float, help="how strictly to follow the prompt")
    _add_worker_options(cli.add_argument_group("workers"))
    return cli


def _add_worker_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--workers", type=int, default=2, help="default: %(default)s")
    add("--threads", type=int, help="CPU cores of each; default: all / workers, 1 on a cluster")
    add(
        "--gpus-per-worker",
        type=float,
        default=0,
        metavar="N",
        help="0 (default) is the CPU; 0.5 puts two workers on a GPU",
    )
    add(
        "--backend",
        default=DEFAULT_BACKEND,
        metavar="NAME",
        help=f"library that runs the graphs: {', '.join(BACKENDS)}; default: %(default)s",
    )
    add(
        "--address",
        default=os.environ.get("RAY_ADDRESS"),
        help="of a running Ray cluster, such as auto; default: $RAY_ADDRESS, else a Ray on this "
        "machine that only this machine reaches",
    )


if __name__ == "__main__":
    raise SystemExit(main())
