"""`fam-triton-probe`: does a Triton server that serves a bundle still make pictures?"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from fam_runtime.cli.errors import run_cli
from fam_runtime.cli.sizes import scale_from_text, size_from_text
from fam_runtime.errors import InvalidRequest
from fam_runtime.triton.endpoint import DEFAULT_URL, Endpoint
from fam_runtime.triton.interface import DEFAULT_MODEL_NAME, STREAM_SUFFIX
from fam_runtime.triton.probe import (
    DEFAULT_LOAD_TIMEOUT_S,
    DEFAULT_TIMEOUT_S,
    METRICS_PORT,
    METRICS_TIMEOUT_S,
    ProbeOptions,
    probe,
    recover,
)

_EPILOG = f"""\
exit status:
  0   alive: a picture came back, or denoising steps were counted while none did
  2   an option cannot be used, or the server refuses this canary
  9   dead: nothing listens, the model is not served, its process has died, or it
      answers without a picture
  10  stuck: neither a picture nor a step within the timeout

in an orchestrator:
  startup    fam-triton-probe          a picture comes out before traffic comes in
  readiness  fam-triton-probe --live   a server that only fails gets no requests
  liveness   fam-triton-probe --live   a server that only fails is started again
  Each takes up to --timeout and {METRICS_TIMEOUT_S:g} seconds more; the orchestrator's limit must
  exceed that. --timeout must exceed the longest step and the longest decoded tile.
  --live costs a server that is at work nothing, and an idle one a one-step picture.

without an orchestrator:
  Run it every minute; on status 9 or 10 restart the server, after removing its
  /dev/shm/fam_diffusion_*. Or use --recover with --model-control-mode=explicit.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fam-triton-probe`; returns the exit status (9 for a dead server, 10 for a stuck one)."""
    return run_cli(probe_server, parser(), argv)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="fam-triton-probe",
        description="Ask a Triton server for a picture, and tell a busy server from a dead one. "
        'Triton itself says "ready" also where the model\'s process has died.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    server = cli.add_argument_group("the server")
    server.add_argument("--url", default=DEFAULT_URL, help=f"HTTP port; default: {DEFAULT_URL}")
    server.add_argument(
        "--metrics-url",
        metavar="URL",
        help=f"page with the counters, or none; default: port {METRICS_PORT} of the same host",
    )
    server.add_argument(
        "--model",
        default=DEFAULT_MODEL_NAME,
        help=f"default: {DEFAULT_MODEL_NAME}; one that ends in {STREAM_SUFFIX} is asked for events",
    )
    server.add_argument(
        "--header",
        type=_header_from_text,
        action="append",
        default=[],
        metavar="NAME:VALUE",
        help="for every request, such as the key of --http-restricted-api; repeatable",
    )
    _add_probe_options(cli.add_argument_group("the probe"))
    return cli


def _add_probe_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--timeout",
        type=_seconds_from_text,
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help=f"for the picture; default: {DEFAULT_TIMEOUT_S:g}",
    )
    group.add_argument(
        "--live",
        action="store_true",
        help="moving steps are enough; ask for a picture only where nothing moves",
    )
    group.add_argument(
        "--recover",
        action="store_true",
        help="unload and load a dead or stuck model and probe once more; needs "
        "--model-control-mode=explicit",
    )
    group.add_argument(
        "--load-timeout",
        type=_seconds_from_text,
        default=DEFAULT_LOAD_TIMEOUT_S,
        metavar="SECONDS",
        help=f"for --recover, warm-up included; default: {DEFAULT_LOAD_TIMEOUT_S:g}",
    )
    size = group.add_mutually_exclusive_group()
    size.add_argument("--scale", type=scale_from_text, help="default: the smallest size there is")
    size.add_argument("--size", type=size_from_text, metavar="HxW", help="height x width in pixels")
    group.add_argument("--steps", type=int, default=1, help="of each stage; default: 1")


def options_from(arguments: argparse.Namespace) -> ProbeOptions:
    """The options in parsed arguments.

    Raises:
        InvalidRequest: a URL is not http or https, or the steps are none.
    """
    if arguments.steps < 1:
        raise InvalidRequest("--steps is too small", got=arguments.steps, expected="1 or more")
    inputs: dict[str, tuple[float, ...]] = {}
    if arguments.scale is not None:
        scale = arguments.scale
        inputs["scale"] = scale if isinstance(scale, tuple) else (scale,)
    if arguments.size is not None:
        inputs["height"], inputs["width"] = ((side,) for side in arguments.size)
    server = Endpoint.from_url(arguments.url)
    metrics: Endpoint | None = Endpoint("http", server.host, METRICS_PORT, "/metrics")
    if arguments.metrics_url is not None:
        none = arguments.metrics_url == "none"
        metrics = None if none else Endpoint.from_url(arguments.metrics_url)
    return ProbeOptions(
        server=server,
        metrics=metrics,
        model=arguments.model,
        timeout_s=arguments.timeout,
        live=arguments.live,
        load_timeout_s=arguments.load_timeout,
        headers=dict(arguments.header),
        inputs=inputs,
        steps=arguments.steps,
    )


def probe_server(arguments: argparse.Namespace) -> int:
    """Probe what a parsed command line names, and print one line.

    Raises:
        FamError: the server is not alive.
    """
    options = options_from(arguments)
    result = recover(options) if arguments.recover else probe(options)
    if result.error is not None:
        raise result.error
    print(result.what)
    return 0


def _seconds_from_text(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, got {text!r}")
    return seconds


def _header_from_text(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (colon and name.strip() and text.isprintable() and text.isascii()):
        raise argparse.ArgumentTypeError(f"expected NAME:VALUE, got {text!r}")
    return name.strip(), value.strip()


if __name__ == "__main__":
    raise SystemExit(main())
