"""The results file: what was measured, where and of what, as JSON types."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fam_bench.latency.feeds import PROMPT, SEED
from fam_bench.latency.floor.ceilings import measure_ceilings
from fam_bench.latency.floor.floor import FloorKind, bundle_entries, floor_rows
from fam_bench.latency.libraries.backends import uses_tf32
from fam_bench.latency.plan import Circumstances, target_at
from fam_bench.latency.results.figures import figures_of
from fam_bench.latency.results.parts import parts_of
from fam_bench.latency.results.protocol import protocol_rows
from fam_bench.latency.results.report import markdown
from fam_bench.latency.results.results_file import RESULTS_FORMAT
from fam_bench.latency.results.scaling import slopes_of
from fam_bench.latency.rounds import Line
from fam_bench.machine import describe_machine
from fam_bench.nvml import Gpu
from fam_runtime._version import __version__
from fam_runtime.bundle import write_atomically

RESULTS, REPORT = "results.json", "report.md"
REPORTED_FLOORS: tuple[FloorKind, ...] = ("native", "target", "plain", "picture")


def facts_of(
    here: Circumstances, gpu: Gpu | None, name: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The machine, the bundle and the settings.

    Args:
        here: the bundle, and where it is measured.
        gpu: if there is one.
        name: of the bundle.
        settings: that the user chose: `steps`, `rounds`, `threads`, `scales`, and others.
    """
    manifest = here.bundle.manifest
    return {
        "format": RESULTS_FORMAT,
        "made_by": f"fam-bench {__version__}",
        "when": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": describe_machine(),
        "gpu": None if gpu is None else asdict(gpu.facts),
        "no_gpu": here.no_gpu,
        "device": here.device,
        "bundle": {
            "name": name,
            "hash": here.bundle.hash,
            "family": manifest.model.family,
            "dtype": manifest.model.dtype,
            "tf32": uses_tf32(manifest),
            "native": f"{manifest.native.height}x{manifest.native.width}",
        },
        "settings": {
            **settings,
            "seed": SEED,
            "prompt": PROMPT,
            "scheduler": manifest.defaults.scheduler,
            "guidance_scale": manifest.defaults.guidance_scale,
        },
    }


def document_of(
    facts: Mapping[str, Any], here: Circumstances, lines: Sequence[Line], others_busy: float
) -> dict[str, Any]:
    """All that is known so far.

    Args:
        facts: of :func:`facts_of`.
        here: the bundle.
        lines: of all units that were tried.
        others_busy: share of the processors that other programs took.
    """
    manifest = here.bundle.manifest
    pixels = {1.0: manifest.native.height * manifest.native.width}
    for scale in facts["settings"]["scales"]:
        pixels[scale] = round(pixels[1.0] * scale * scale)
    figures = figures_of(lines, pixels)
    document = {
        **facts,
        "others_busy": others_busy,
        "figures": figures,
        "parts": parts_of(lines),
        "protocol": protocol_rows(figures),
        "not_run": [{**asdict(own.unit), "reason": own.reason} for own in lines if own.reason],
    }
    return {**document, "slopes": slopes_of(document)}


def floor_facts(
    here: Circumstances, settings: Mapping[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """What the machine can do at most, and what steps and pictures need at least.

    It is measured when all contestants have ended; empty where it cannot be.

    Args:
        here: the bundle, and where it is measured.
        settings: as in :func:`facts_of`.
        say: tells what goes on.
    """
    say("measuring what the machine can do at most")
    manifest = here.bundle.manifest
    dtype, tf32 = manifest.model.dtype, uses_tf32(manifest)
    targets = [scale for scale in settings["scales"] if target_at(here.bundle, scale) is not None]
    try:
        ceilings = measure_ceilings(here.device, dtype, settings["threads"], tf32=tf32)
        entries = bundle_entries(here.bundle, targets, settings["steps"], REPORTED_FLOORS)
    except Exception as error:  # whatever a library raises, what was measured stays
        say(f"no floor: {type(error).__name__}: {' '.join(str(error).split())}")
        return {}
    return {"ceilings": asdict(ceilings), "floor": floor_rows(entries, ceilings)}


def write(output: Path, document: dict[str, Any]) -> None:
    """The results so far, lest a later crash take them along."""
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / RESULTS, (json.dumps(document, indent=1) + "\n").encode())
    write_atomically(output / REPORT, markdown(document).encode())
