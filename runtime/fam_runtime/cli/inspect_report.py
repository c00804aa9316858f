"""What `fam-inspect` found, as text for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Document = dict[str, Any]
"""What `fam-inspect --json` prints."""

FIX = "get the bundle again or export it again with fam-export"
_WEIGHTS_TEXTS = {
    "fp32": "fp32",
    "fp16": "fp16",
    "bf16": "bf16 (the onnxruntime backend cannot run it)",
}


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
        state = f"NO: {len(document['damage'])} of {count} files are damaged; {FIX}"
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
