"""`fam-triton`: a model repository for Triton Inference Server from a bundle."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fam_runtime.backends.registry import BACKENDS
from fam_runtime.cli.sizes import bytes_from_text
from fam_runtime.triton.options import ENGINE_PLATFORMS, LAYOUTS, VARIANTS, RepositoryOptions

if TYPE_CHECKING:
    from fam_runtime.triton.repository import WrittenRepository

DEFAULT_OUTPUT = "model_repository"

_DEFAULTS = RepositoryOptions()


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fam-triton`; returns the exit status (an error prints one line)."""
    from fam_runtime.cli.errors import run_cli

    return run_cli(write, parser(), argv)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="fam-triton",
        description="Write a model repository that Triton Inference Server serves as it is.",
        epilog="docs/triton.md explains the models, their options and how to start the server.",
    )
    cli.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    cli.add_argument(
        "-o",
        "--output",
        default=DEFAULT_OUTPUT,
        metavar="DIR",
        help="the repository; one that is there gets a further version or a further model "
        "(default: %(default)s)",
    )
    cli.add_argument("--quiet", action="store_true", help="no bar, no report; errors only")
    models = cli.add_argument_group("models")
    _add_model_options(models)
    _add_version_options(models)
    requests = cli.add_argument_group("requests")
    _add_queue_options(requests)
    _add_answer_options(requests)
    _add_runtime_options(cli.add_argument_group("what computes"))
    _add_engine_options(cli.add_argument_group("layout engines"))
    return cli


def _add_model_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--layout",
        choices=list(LAYOUTS),
        default=_DEFAULTS.layout,
        help=f"{_explained(LAYOUTS)} (default: %(default)s)",
    )
    group.add_argument(
        "--variant",
        choices=list(VARIANTS),
        default=_DEFAULTS.variant,
        help=f"{_explained(VARIANTS)} (default: %(default)s)",
    )
    group.add_argument(
        "--name",
        default=_DEFAULTS.name,
        help="of the model that clients ask; several bundles can share a repository under "
        "different names (default: %(default)s)",
    )
    group.add_argument(
        "--instances",
        type=int,
        default=_DEFAULTS.instances,
        metavar="N",
        help="processes of the picture model, on each device (default: %(default)s)",
    )
    group.add_argument(
        "--no-warmup",
        action="store_true",
        help="be ready at once; the first request then loads the graphs",
    )


def _add_version_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model-version",
        type=int,
        default=_DEFAULTS.version,
        metavar="N",
        help="folder to write in each model (default: %(default)s)",
    )
    group.add_argument(
        "--keep-versions",
        type=int,
        default=_DEFAULTS.keep_versions,
        metavar="N",
        help="how many of the newest versions are served at a time; of the models of graphs one "
        "more (default: %(default)s)",
    )


def _add_queue_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--pictures-per-batch",
        type=int,
        default=_DEFAULTS.pictures_per_batch,
        metavar="N",
        help="pictures of equal requests that go through a graph together: more is faster on a "
        "GPU, and may change a picture's last bits (default: %(default)s)",
    )
    group.add_argument(
        "--batch-delay",
        type=int,
        default=_DEFAULTS.batch_delay_us,
        metavar="MICROSECONDS",
        help="how long the first of a batch waits for others, where there are batches "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--queue-size",
        type=int,
        metavar="N",
        help="requests that wait at most; costs up to half a second between queued pictures in "
        "servers of 2.51 (default: any number)",
    )
    group.add_argument(
        "--queue-timeout",
        type=float,
        metavar="SECONDS",
        help="how long a request waits at most, less where its client says so, 0 for ever; costs "
        "the same (default: for ever, whatever a client says)",
    )


def _add_answer_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-steps", type=int, metavar="N", help="refuse requests for more denoising steps"
    )
    group.add_argument(
        "--response-cache",
        type=bytes_from_text,
        default=_DEFAULTS.response_cache_bytes,
        metavar="SIZE",
        help="keep pictures for requests that come again, such as 256M (default: none)",
    )


def _add_runtime_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--backend",
        choices=list(BACKENDS),
        default=_DEFAULTS.backend,
        help="library that runs the graphs (default: %(default)s)",
    )
    group.add_argument(
        "--provider",
        choices=["cpu", "cuda"],
        default=_DEFAULTS.provider,
        help="of onnxruntime (default: %(default)s)",
    )
    group.add_argument(
        "--gpus",
        type=_numbers,
        default=(),
        metavar="0,1",
        help="GPUs that get instances (default: all, where a GPU computes)",
    )
    group.add_argument(
        "--threads", type=int, help="of onnxruntime's, in each instance; default: one per core"
    )
    group.add_argument(
        "--low-memory", action="store_true", help="mapped weights, one UNet graph at a time"
    )
    group.add_argument(
        "--memory-per-run",
        type=bytes_from_text,
        default=0,
        metavar="SIZE",
        help="what a run takes of a GPU, such as 18G: with the server's --rate-limit no more run "
        "at a time than fit",
    )
    group.add_argument(
        "--no-verify",
        action="store_true",
        help="compare sizes only when a model is loaded; do not hash its files",
    )


def _add_engine_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--engine-platform",
        choices=list(ENGINE_PLATFORMS),
        default=_DEFAULTS.engine_platform,
        help=f"{_explained(ENGINE_PLATFORMS)} (default: %(default)s)",
    )
    group.add_argument(
        "--engine-instances",
        type=int,
        default=_DEFAULTS.engine_instances,
        metavar="N",
        help="of every graph's model, on each device (default: %(default)s)",
    )


def write(arguments: argparse.Namespace) -> int:
    """Write the repository of a parsed command line.

    Raises:
        FamError: anything that went wrong.
    """
    from fam_runtime.progress import hashing_bar
    from fam_runtime.triton.repository import write_repository

    options = options_from(arguments)
    with hashing_bar(shown=not arguments.quiet) as bar:
        written = write_repository(arguments.bundle, arguments.output, options, progress=bar)
    if not arguments.quiet:
        print(report(written, options))
    return 0


def options_from(arguments: argparse.Namespace) -> RepositoryOptions:
    """The options of a parsed command line.

    Raises:
        InvalidRequest: one cannot be used.
    """
    same: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in (
            *("layout", "variant", "name", "keep_versions", "instances", "engine_instances"),
            *("engine_platform", "gpus", "backend", "provider", "threads", "low_memory"),
            *("pictures_per_batch", "queue_size", "max_steps"),
        )
    }
    return RepositoryOptions(
        **same,
        version=arguments.model_version,
        verify="size" if arguments.no_verify else "full",
        queue_timeout_s=arguments.queue_timeout,
        batch_delay_us=arguments.batch_delay,
        response_cache_bytes=arguments.response_cache,
        warmup=not arguments.no_warmup,
        memory_per_run_mib=-(-arguments.memory_per_run // (1 << 20)),
    )


def report(written: WrittenRepository, options: RepositoryOptions) -> str:
    """What was written, and the command that serves it."""
    lines = [
        f"{written.root}  version {written.version}  {written.bytes / 1e6:.1f} MB",
        *(
            f"  {name}{'  (was there, the same)' if name in written.kept else ''}"
            for name in written.models
        ),
        *([f"for all versions: {', '.join(written.changes)}"] if written.changes else []),
        f"now: {shlex.join(server_command(written.root, options))}",
    ]
    return "\n".join(lines)


def server_command(repository: Path, options: RepositoryOptions) -> list[str]:
    """How to start the server on this machine, for this machine only."""
    command = [
        "tritonserver",
        f"--model-repository={repository}",
        *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
        "--backend-config=python,shm-region-prefix-name=fam_diffusion_",
    ]
    if options.memory_per_run_mib:
        from fam_runtime.triton.picture_config import MEMORY_RESOURCE

        command += [
            "--rate-limit=execution_count",
            f"--rate-limit-resource={MEMORY_RESOURCE}:MIB_OF_A_GPU",
        ]
    return command


def _explained(choices: Mapping[Any, str]) -> str:
    return "; ".join(f"{name}: {meaning}" for name, meaning in choices.items())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"no list of numbers such as 0,1: {text!r}") from None


if __name__ == "__main__":
    raise SystemExit(main())
