"""`fam-inspect`: what is in a bundle, is it intact, what does generating with it need."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from fam_runtime.cli.errors import run_cli
from fam_runtime.cli.inspect_report import FIX, Document, report
from fam_runtime.errors import BundleDamaged, BundleError

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle

_MAX_NAMED_FILES = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fam-inspect`; returns the exit status (3 for a damaged bundle)."""
    return run_cli(inspect_bundle, parser(), argv)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="fam-inspect",
        description="Say what is in a bundle, whether it is intact, and what generating needs.",
        epilog="Exit status: 0 intact, 3 damaged or no bundle.",
    )
    cli.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    cli.add_argument("--json", action="store_true", help="print one JSON document")
    cli.add_argument(
        "--no-verify", action="store_true", help="compare sizes only; do not hash the files"
    )
    return cli


def inspect_bundle(arguments: argparse.Namespace) -> int:
    """Print what a parsed command line asks for.

    Raises:
        BundleError: there is no bundle, or it is damaged (after the report).
    """
    from fam_runtime.bundle import Bundle

    bundle = Bundle.unchecked(arguments.bundle)
    contents = not arguments.no_verify
    damage = damage_of(bundle, contents=contents)
    document = description(bundle, damage, contents=contents)
    _print(json.dumps(document, indent=2) if arguments.json else report(document))
    if damage:
        raise _summary(damage, len(bundle.manifest.files))
    return 0


def damage_of(bundle: Bundle, *, contents: bool) -> dict[str, BundleError]:
    """What is wrong with each file of the bundle; a bar shows how far the hashing is."""
    from fam_runtime.progress import hashing_bar

    damage: dict[str, BundleError] = {}
    total = sum(record.bytes for record in bundle.manifest.files.values())
    with hashing_bar(total, shown=contents) as bar:
        for name in bundle.manifest.files:
            try:
                bundle.check_file(name, contents=contents, progress=bar)
            except BundleError as error:
                damage[name] = error
    return damage


def _summary(damage: dict[str, BundleError], file_count: int) -> BundleError:
    if len(damage) == 1:
        return next(iter(damage.values()))
    names = list(damage)[:_MAX_NAMED_FILES]
    more = len(damage) - len(names)
    return BundleDamaged(
        f"{len(damage)} of {file_count} files of the bundle are damaged",
        got=", ".join(names) + (f" and {more} more" if more else ""),
        expected="the files that were exported",
        fix=FIX,
    )


def description(bundle: Bundle, damage: dict[str, BundleError], *, contents: bool) -> Document:
    """Everything the command says, as JSON types.

    Args:
        bundle: the bundle.
        damage: from :func:`damage_of`; sizes in memory are left out (null) where it hides them.
        contents: whether files were hashed, or their sizes compared only.
    """
    from fam_runtime.bundle import export_command

    manifest = bundle.manifest
    plain: Document = json.loads(manifest.to_bytes())
    shared = {
        name: None if name in damage else shared_bytes(bundle, name) for name in manifest.graphs
    }
    return {
        "bundle": str(bundle.root),
        "hash": bundle.hash,
        "format_version": manifest.format_version,
        "generator": plain["generator"],
        "verified": "contents" if contents else "sizes",
        "intact": not damage,
        "damage": {name: str(error) for name, error in damage.items()},
        "bytes": sum(record.bytes for record in manifest.files.values()),
        "files": len(manifest.files),
        "parts": _parts(bundle),
        "model": plain["model"],
        "native": {**plain["native"], "latent": _latent(bundle, manifest.native)},
        "targets": [_target(bundle, index, shared) for index in range(len(manifest.targets))],
        "add_target_command": export_command(manifest, "--scale 2", bundle.root),
        "taps": plain["taps"],
        "frequency_modulation": plain["frequency_modulation"],
        "upsample": plain["upsample"],
        "size_conditions": plain["size_conditions"],
        "noise_schedule": plain["noise_schedule"],
        "defaults": plain["defaults"],
        "unet_weights": _unet_weights(bundle, shared),
        "graphs": [_graph(bundle, name, shared[name]) for name in manifest.graphs],
    }


def shared_bytes(bundle: Bundle, graph: str) -> int:
    """Bytes of the tensors that `graph` keeps in the weights file beside it."""
    folder, total = PurePosixPath(graph).parent, 0
    for tensor in bundle.external_data(graph):
        record = bundle.manifest.files.get((folder / tensor.location).as_posix())
        end = record.bytes if record is not None else tensor.offset
        total += end - tensor.offset if tensor.length is None else tensor.length
    return total


def _parts(bundle: Bundle) -> dict[str, int]:
    parts: dict[str, int] = {}
    for name, record in bundle.manifest.files.items():
        part = name.split("/")[0]
        parts[part] = parts.get(part, 0) + record.bytes
    return parts


def _latent(bundle: Bundle, size: Any) -> list[int]:
    return [bundle.manifest.model.latent_channels, *bundle.manifest.latent_size(size)]


def _target(bundle: Bundle, index: int, shared: dict[str, int | None]) -> Document:
    """A target's sizes, and what one picture of it needs."""
    manifest = bundle.manifest
    target = manifest.targets[index]
    graphs = ["unet/native.onnx", target.step, target.upsample, manifest.vae.decoder]
    graphs += [encoder.graph for encoder in manifest.text_encoders]
    own = sum(manifest.files[name].bytes for name in graphs)
    known = [size for name in graphs if (size := shared[name]) is not None]
    complete = len(known) == len(graphs)
    unet = [size for name in graphs[:3] if (size := shared[name]) is not None]
    once = sum(known) - sum(unet) + max(unet, default=0)
    return {
        "height": target.height,
        "width": target.width,
        "scale": list(manifest.scale_of(target)),
        "latent": _latent(bundle, target),
        "weights_bytes": own + sum(known) if complete else None,
        "weights_bytes_low_memory": own + once if complete else None,
        "native_attention": _native_attention(bundle, target.step),
    }


def _native_attention(bundle: Bundle, graph: str) -> Document:
    """What *store* and *replay* keep for one picture, a step and at the default number of steps."""
    from fam_runtime.native_attention import stored_bytes, tap_specs

    manifest = bundle.manifest
    steps = manifest.defaults.num_inference_steps
    stored = stored_bytes(tap_specs(manifest, graph), {"B": 1}, 1)
    channels, height, width = _latent(bundle, manifest.native)
    replayed = channels * height * width * 4  # latents are float32 in every bundle
    return {
        "steps": steps,
        "stored_bytes_per_step": stored,
        "stored_bytes": stored * steps,
        "replayed_bytes_per_step": replayed,
        "replayed_bytes": replayed * steps,
    }


def _unet_weights(bundle: Bundle, shared: dict[str, int | None]) -> Document | None:
    record = bundle.manifest.files.get("unet/weights.bin")
    if record is None:
        return None
    users = [size for name, size in shared.items() if name.startswith("unet/") and size]
    return {"bytes": record.bytes, "graphs": len(users), "bytes_without_sharing": sum(users)}


def _graph(bundle: Bundle, name: str, shared: int | None) -> Document:
    check = bundle.manifest.graphs[name].check
    return {
        "file": name,
        "bytes": bundle.manifest.files[name].bytes,
        "shared_bytes": shared,
        "max_relative_error": _figure(check.get("max_relative_error")),
        "tolerance": _figure(check.get("tolerance")),
    }


def _figure(value: object) -> float | None:
    """A number out of the free-form `check` of a graph."""
    return float(value) if isinstance(value, (int, float)) and value is not True else None


def _print(text: str) -> None:
    """Print, also where the terminal cannot show every character of a name."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


if __name__ == "__main__":
    raise SystemExit(main())
