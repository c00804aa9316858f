"""`fam-generate`: a picture from a bundle and a prompt."""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fam_runtime.backends.registry import BACKENDS, DEFAULT_BACKEND, ENGINE_BACKENDS
from fam_runtime.cli.engine_options import (
    add_engine_options,
    engine_backend_options,
    given_engine_options,
)
from fam_runtime.cli.sizes import bytes_from_text, scale_from_text, size_from_text
from fam_runtime.errors import InvalidRequest, storage_error_from
from fam_runtime.methods import DEFAULT_METHOD, METHODS
from fam_runtime.native_attention import NATIVE_ATTENTION_MODES
from fam_runtime.schedulers import SAMPLERS

if TYPE_CHECKING:
    from fam_runtime.pipeline import FamPipeline
    from fam_runtime.pipeline_output import FamPipelineOutput

DEFAULT_OUTPUT = "out.png"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fam-generate`; returns the exit status (an error prints one line)."""
    from fam_runtime.cli.errors import run_cli

    return run_cli(generate, parser(), argv)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="fam-generate",
        description="Make a picture with FAM Diffusion from a bundle that fam-export made.",
    )
    cli.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    cli.add_argument("prompt", metavar="PROMPT", nargs="?", help="what to draw")
    cli.add_argument("-o", "--output", help=f"PNG to write (default: {DEFAULT_OUTPUT})")
    _add_picture_options(cli.add_argument_group("the picture"))
    _add_run_options(cli.add_argument_group("how it is made"))
    add_engine_options(cli.add_argument_group("engines (--backend tensorrt, tensorrt-rtx)"))
    return cli


def _add_picture_options(group: argparse._ArgumentGroup) -> None:
    size = group.add_mutually_exclusive_group()
    size.add_argument("--scale", type=scale_from_text, help="times the trained size: 2, or 2x4")
    size.add_argument("--size", type=size_from_text, metavar="HxW", help="height x width in pixels")
    group.add_argument("--negative-prompt", help="what to keep away from")
    group.add_argument("--steps", type=int, help="denoising steps of each stage")
    group.add_argument("--guidance-scale", type=float, help="how strictly to follow the prompt")
    group.add_argument("--seed", type=int, help="default: drawn, and printed")
    group.add_argument("--scheduler", choices=list(SAMPLERS))
    group.add_argument(
        "--method",
        choices=list(METHODS),
        help=f"default: {DEFAULT_METHOD}. "
        + "; ".join(f"{name}: {method.summary}" for name, method in METHODS.items()),
    )
    group.add_argument("--am-strength", type=float, metavar="LAMBDA", help="0 to 1; paper: 0.7")
    group.add_argument("--num-images", type=int, default=1, help="pictures, with seeds in a row")
    group.add_argument("--noise", help="torch-cpu (default) or torch-cuda: whose noise to make")
    group.add_argument("--from-png", metavar="FILE", help="take the settings of this picture")
    group.add_argument("--save-native", action="store_true", help="also write the native picture")


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--backend",
        default=DEFAULT_BACKEND,
        metavar="NAME",
        help=f"library that runs the graphs: {', '.join(BACKENDS)}; default: %(default)s",
    )
    group.add_argument("--provider", choices=["cpu", "cuda"], help="of onnxruntime; default: cpu")
    group.add_argument("--threads", type=int, help="of onnxruntime's; default: one per core")
    group.add_argument(
        "--low-memory",
        action="store_true",
        help="mapped weights, one UNet graph at a time: less memory, slower",
    )
    group.add_argument("--native-attention", default="auto", choices=NATIVE_ATTENTION_MODES)
    group.add_argument(
        "--memory-budget",
        type=bytes_from_text,
        metavar="SIZE",
        help="what the process may take, such as 6G: the fastest way that fits is chosen",
    )
    group.add_argument(
        "--no-verify",
        action="store_true",
        help="compare sizes only; do not hash the bundle's files",
    )
    group.add_argument(
        "--no-preflight",
        action="store_true",
        help="build engines even where memory or disk seem too small for it",
    )
    group.add_argument("--quiet", action="store_true", help="no bars, no report; errors only")


def generate(arguments: argparse.Namespace) -> int:
    """Make the pictures of a parsed command line.

    Raises:
        FamError: anything that went wrong.
    """
    from fam_runtime.pipeline import FamPipeline

    given_engine_options(arguments)
    request, settings = request_from_arguments(arguments)
    output = checked_output(arguments.output or DEFAULT_OUTPUT)
    with (
        warnings_on_one_line(),
        FamPipeline.from_pretrained(
            arguments.bundle,
            backend=arguments.backend,
            low_memory=arguments.low_memory,
            memory_budget_bytes=arguments.memory_budget,
            verify="size" if arguments.no_verify else "full",
            progress=not arguments.quiet,
            **_backend_options(arguments),
        ) as pipe,
    ):
        if settings is not None:
            _warn_of_differences(pipe, settings, arguments.from_png)
        result = pipe(**request)
        _write(pipe, result, output, arguments)
    return 0


def _backend_options(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {"provider": arguments.provider, "num_threads": arguments.threads}
    options = {name: value for name, value in given.items() if value is not None}
    if arguments.backend in ENGINE_BACKENDS:
        options |= engine_backend_options(arguments)
    return options


def _warn_of_differences(pipe: FamPipeline, settings: dict[str, Any], name: str) -> None:
    from fam_runtime.settings import bundle_hash_from_settings, differences_from_settings

    expected_hash = bundle_hash_from_settings(settings)
    if expected_hash is not None and expected_hash != pipe.bundle.hash:
        warnings.warn(
            f"{name} was made with another bundle ({expected_hash[:12]}): the picture will differ",
            stacklevel=1,
        )
    for sentence in differences_from_settings(settings, pipe.made_with):
        warnings.warn(f"{name}: {sentence}", stacklevel=1)


def request_from_arguments(
    arguments: argparse.Namespace,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Arguments of the pipeline, and the settings of a `--from-png` picture.

    Raises:
        InvalidRequest: there is no prompt, or the picture's settings cannot be used.
    """
    from fam_runtime.picture import settings_from_png
    from fam_runtime.settings import arguments_from_settings

    request: dict[str, Any] = {"seed": None}
    settings = None
    if arguments.from_png is not None:
        settings = settings_from_png(arguments.from_png)
        request = arguments_from_settings(settings)
        if arguments.method is not None:
            request.pop("am_strength")  # it belongs to the picture's own method
        if arguments.scale is not None or arguments.size is not None:
            for key in ("height", "width", "tile"):
                request.pop(key)
    elif arguments.prompt is None:
        raise InvalidRequest(
            "there is no prompt",
            expected='fam-generate BUNDLE "a prompt", or --from-png FILE',
            fix="say what to draw",
        )
    request |= {key: value for key, value in _given(arguments).items() if value is not None}
    return request, settings


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    height, width = arguments.size or (None, None)
    return {
        "prompt": arguments.prompt,
        "negative_prompt": arguments.negative_prompt,
        "scale": arguments.scale,
        "height": height,
        "width": width,
        "num_inference_steps": arguments.steps,
        "guidance_scale": arguments.guidance_scale,
        "seed": arguments.seed,
        "scheduler": arguments.scheduler,
        "method": arguments.method,
        "am_strength": arguments.am_strength,
        "num_images_per_prompt": arguments.num_images,
        "noise": arguments.noise,
        "native_attention": arguments.native_attention,
        "return_native": arguments.save_native,
        "pictures_per_batch": None if arguments.batch is None else arguments.batch.maximum,
    }


def checked_output(text: str) -> Path:
    """The file to write, checked before minutes of work.

    Raises:
        InvalidRequest: it is no name of a PNG in a folder that exists.
        StorageError: the folder may not be written.
    """
    path = Path(text)
    if path.suffix.lower() != ".png" or path.is_dir():
        raise InvalidRequest(
            "the output is no PNG file",
            got=text,
            expected="a name that ends with .png",
            fix="-o out.png",
        )
    if not path.parent.is_dir():
        raise InvalidRequest(
            "the output's folder does not exist",
            got=str(path.parent),
            expected="an existing folder",
            fix=f"mkdir -p {path.parent}",
        )
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise storage_error_from(error, path) from error
    return path


def output_names(output: Path, count: int) -> list[Path]:
    """`out.png`, or `out-1.png`, `out-2.png` … for several pictures."""
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{i}{output.suffix}") for i in range(1, count + 1)]


def _write(
    pipe: FamPipeline, result: FamPipelineOutput, output: Path, arguments: argparse.Namespace
) -> None:
    from fam_runtime.picture import save_png

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text)

    for index, path in enumerate(output_names(output, len(result.settings))):
        settings = result.settings[index]
        result.save(path, index)
        size = f"{settings['width']}x{settings['height']}"
        say(f"{path}  {size}  seed {settings['seed']}  method {settings['method']}")
        if result.native_images is not None:
            native = path.with_name(f"{path.stem}-native{path.suffix}")
            small = pipe.bundle.manifest.native
            save_png(result.native_images[index], native, {**settings, "stage": "native"})
            say(f"{native}  {small.width}x{small.height}  the native stage")
    say(report_line(result.report))
    if result.report["memory"] is not None:
        say(memory_line(result.report["memory"]))


def report_line(report: dict[str, Any]) -> str:
    """The seconds of each stage, and how native attention was kept."""
    seconds = report["seconds"]
    parts = [f"{stage} {seconds[stage]:.2f} s" for stage in seconds]
    choice = report["native_attention"]
    detail = {
        "none": "not needed",
        "store": f"stored, {report['stored_bytes'] / 1e6:.1f} MB",
        "replay": f"replayed (storing would take {report['stored_bytes'] / 1e6:.1f} MB)",
    }[choice]
    return f"{', '.join(parts)}; native attention {detail}"


def memory_line(plan: dict[str, Any]) -> str:
    """The memory plan: how weights are kept, and what each phase is expected to take."""
    from fam_runtime.memory_plan import mebibytes

    phases = ", ".join(f"{name} {mebibytes(size)}" for name, size in plan["phases"].items())
    tile = "" if plan["vae_tile"] is None else f", VAE tiles of {plan['vae_tile'][0]}"
    return (
        f"memory within {mebibytes(plan['budget_bytes'])}: weights {plan['weights']}{tile}; "
        f"at most {phases}"
    )


@contextmanager
def warnings_on_one_line() -> Iterator[None]:
    """Show warnings as `warning: …`, each text once, for the length of a block."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        seen: set[str] = set()

        def show(message: Warning | str, *_: object, **__: object) -> None:
            text = " ".join(str(message).split())
            if text not in seen:
                seen.add(text)
                print(f"fam-generate: warning: {text}", file=sys.stderr)

        warnings.showwarning = show  # restored by catch_warnings
        yield


if __name__ == "__main__":
    raise SystemExit(main())
