"""`fam-inspect`: what is in a bundle, is it intact, what does generating with it need."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from fam_runtime.cli.errors import run_cli
from fam_runtime.errors import BundleDamaged, BundleError

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle

Document = dict[str, Any]
"""What `--json` prints; :func:`description` makes it and :func:`report` lays it out."""

_FIX = "get the bundle again or export it again with fam-export"
_MAX_NAMED_FILES = 5
_WEIGHTS_TEXTS = {
    "fp32": "fp32",
    "fp16": "fp16",
    "bf16": "bf16 (the onnxruntime backend cannot run it)",
}


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
        fix=_FIX,
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


def report(document: Document) -> str:
    """The document as text for people."""
    sections = [
        _heading,
        _model_section,
        _parts_section,
        _targets_section,
        _attention_section,
        _taps_section,
        _parity_section,
    ]
    return "\n\n".join(section(document) for section in sections)


def _heading(document: Document) -> str:
    count, size = document["files"], bytes_text(document["bytes"])
    how = "hashes agree" if document["verified"] == "contents" else "sizes agree, nothing hashed"
    state = f"yes: {count} files, {size}, {how}"
    if not document["intact"]:
        state = f"NO: {len(document['damage'])} of {count} files are damaged; {_FIX}"
    generator = document["generator"]
    rows = [
        ("bundle", document["bundle"]),
        ("hash", document["hash"]),
        ("format", f"version {document['format_version']}"),
        ("written by", f"{generator['name']} {generator['version']}"),
        ("intact", state),
        *(("", text) for text in document["damage"].values()),
    ]
    return table(rows, indent="")


def _model_section(document: Document) -> str:
    model, native, defaults = document["model"], document["native"], document["defaults"]
    reading, upsample = document["frequency_modulation"], document["upsample"]
    rows = [
        ("name", model["name"]),
        ("family", model["family"]),
        ("weights", _WEIGHTS_TEXTS[model["dtype"]]),
        *(("LoRA", _lora_text(lora)) for lora in model["loras"]),
        ("guidance", _guidance_text(model)),
        ("native size", f"{_size(native)}, latent {_cross(native['latent'])}"),
        ("sizes", f"multiples of {model['size_multiple']} pixels (a target needs an export)"),
        ("predicts", document["noise_schedule"]["prediction_type"]),
        ("FM", _fm_text(reading)),
        ("upsampler", f"{upsample['mode']} in {upsample['space']} space"),
    ]
    if document["size_conditions"]:
        rows.append(("time_ids", f"sizes of the {document['size_conditions']}"))
    rows.append(
        (
            "defaults",
            f"{defaults['scheduler']}, {defaults['num_inference_steps']} steps, "
            f"guidance scale {defaults['guidance_scale']:g}, "
            f"AM strength {defaults['am_strength']:g}",
        )
    )
    return "model\n" + table(rows)


def _guidance_text(model: Document) -> str:
    if model["guidance_embedding"]:
        return "as a condition of the UNet: one pass a step, no negative prompt"
    return "yes" if model["guidance"] else "no: the checkpoint runs without it"


def _lora_text(lora: Document) -> str:
    return f"{lora['name']}, strength {lora['strength']:g}, SHA-256 {lora['sha256'][:12]}"


def _fm_text(reading: Document) -> str:
    inside = {"rho": "rho", "one_minus_rho": "1 - rho"}[reading["inside_box"]]
    return (
        f"cutoff from the {reading['cutoff_reference']} size, "
        f"constant {reading['cutoff_constant']:g}, inside the box {inside}"
    )


def _parts_section(document: Document) -> str:
    rows = [(part, bytes_text(size)) for part, size in document["parts"].items()]
    text = "parts\n" + table(rows, right=(1,))
    weights = document["unet_weights"]
    if weights is None:
        return text
    return (
        f"{text}\n  {bytes_text(weights['bytes'])} of UNet weights serve {weights['graphs']} "
        f"graphs; apart they would take {bytes_text(weights['bytes_without_sharing'])}"
    )


def _targets_section(document: Document) -> str:
    from fam_runtime.bundle import scale_text

    if not document["targets"]:
        return f"targets\n  none: add one with {document['add_target_command']}"
    rows = [("size", "scale", "latent", "weights to load", "with --low-memory")]
    for target in document["targets"]:
        height, width = target["scale"]
        rows.append(
            (
                _size(target),
                scale_text((height, width)),
                _cross(target["latent"]),
                bytes_text(target["weights_bytes"]),
                bytes_text(target["weights_bytes_low_memory"]),
            )
        )
    return "targets\n" + table(rows, right=(3, 4))


def _attention_section(document: Document) -> str:
    """Every target takes the same taps: one line for all."""
    if not document["targets"]:
        return "native attention\n  not needed without targets"
    need = document["targets"][0]["native_attention"]
    rows = [("for one picture", "a step", f"{need['steps']} steps", "costs")]
    for name, key, cost in (
        ("store", "stored_bytes", "memory"),
        ("replay", "replayed_bytes", "a second run of the native graph"),
    ):
        sizes = bytes_text(need[f"{key}_per_step"]), bytes_text(need[key])
        rows.append((name, *sizes, cost))
    return "native attention\n" + table(rows, right=(1, 2))


def _taps_section(document: Document) -> str:
    taps = document["taps"]
    rows = [("layer", "tokens", "heads", "channels")]
    rows += [
        (layer["name"], _cross(layer["tokens"]), str(layer["heads"]), str(layer["channels"]))
        for layer in taps["layers"]
    ]
    form = "queries and keys" if taps["form"] == "qk" else "attention maps"
    return f"taps: {form} of {len(taps['layers'])} layers\n" + table(rows, right=(2, 3))


def _parity_section(document: Document) -> str:
    rows = [("graph", "size", "worst error", "tolerance", "")]
    for graph in document["graphs"]:
        error, tolerance = graph["max_relative_error"], graph["tolerance"]
        verdict = ""
        if error is not None and tolerance is not None:
            verdict = "ok" if error <= tolerance else "OVER"
        figures = ("-" if value is None else f"{value:.1e}" for value in (error, tolerance))
        rows.append((graph["file"], bytes_text(graph["bytes"]), *figures, verdict))
    return "parity with PyTorch\n" + table(rows, right=(1, 2, 3))


def table(rows: Sequence[Sequence[str]], *, indent: str = "  ", right: Sequence[int] = ()) -> str:
    """Rows in columns, two spaces apart; the columns in `right` end at the same place."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells: list[str] = []
        for index, cell in enumerate(row):
            align: Callable[[int], str] = cell.rjust if index in right else cell.ljust
            cells.append(align(widths[index]))
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def bytes_text(size: int | None) -> str:
    """`26.4 MB`; `?` for what is not known."""
    if size is None:
        return "?"
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


def _size(size: Document) -> str:
    return f"{size['height']}x{size['width']}"


def _cross(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))


def _print(text: str) -> None:
    """Print, also where the terminal cannot show every character of a name."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


if __name__ == "__main__":
    raise SystemExit(main())
