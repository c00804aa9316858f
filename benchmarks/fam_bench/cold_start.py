"""From nothing to a picture on the disk: the C++ runtime beside the Python one.

``python -m fam_bench.cold_start BUNDLE`` starts `fam_generate` (built by ``make cpp``) and Python's
`fam-generate` in turn, each as a fresh process that opens the bundle, makes one picture and writes
its PNG. Seconds are those of the whole process, peak memory is the kernel's own record of it. The
files are in the system's cache, since the round before has read them. With one step it is mostly
loading.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from fam_bench.machine import describe_machine
from fam_bench.process_memory import MemoryPeaks
from fam_runtime.cli.errors import run_cli
from fam_runtime.errors import BackendError, InvalidRequest

CPP, PYTHON = "C++, libfam", "Python, fam_runtime"
PROMPT = "a red circle on a white background"
LOOK_EVERY_S = 0.002

Figures = dict[str, float]


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The two programs with the same options."""
    shared = [str(arguments.bundle), PROMPT, "--scale", f"{arguments.scale:g}", "--seed", "0"]
    shared += ["--steps", str(arguments.steps), "--threads", str(arguments.threads), "--quiet"]
    shared += ["--low-memory"] * arguments.low_memory + ["--no-verify"] * arguments.no_verify
    python = [sys.executable, "-m", "fam_runtime.cli.generate"]
    return {CPP: [str(arguments.program), *shared], PYTHON: [*python, *shared]}


def measure(command: Sequence[str]) -> Figures:
    """Seconds and peak memory in bytes of one run of `command`.

    Raises:
        BackendError: it failed.
    """
    peaks = MemoryPeaks()
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            peaks.look(process.pid)
            time.sleep(LOOK_EVERY_S)
        seconds = time.perf_counter() - begun
        assert process.stderr is not None
        if process.returncode:
            words = process.stderr.read().decode(errors="replace").strip()
            raise BackendError(f"{command[0]} failed", got=words, expected="a picture")
    return {
        "seconds": seconds,
        "peak_bytes": peaks.resident,
        "allocated_bytes": peaks.anonymous,
        "mapped_bytes": peaks.file_backed,
    }


def measure_rounds(arguments: argparse.Namespace) -> list[dict[str, Figures]]:
    """Both contestants in turn, `arguments.rounds` times, after a round that does not count."""
    contestants = commands(arguments)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "picture.png")
        for _ in tqdm(range(1 + arguments.rounds), desc="rounds"):
            found.append(
                {name: measure([*command, "-o", output]) for name, command in contestants.items()}
            )
    return found[1:]


def summary(rounds: Sequence[dict[str, Figures]]) -> dict[str, dict[str, float]]:
    """Medians of every contestant's figures, and of C++'s over Python's in the same round."""
    names = rounds[0][CPP]
    found = {
        contestant: {name: median(r[contestant][name] for r in rounds) for name in names}
        for contestant in (CPP, PYTHON)
    }
    found["ratio"] = {
        name: median(r[CPP][name] / r[PYTHON][name] for r in rounds) for name in names
    }
    return found


def table(figures: dict[str, dict[str, float]]) -> str:
    """The summary as Markdown."""
    lines = ["| runtime | seconds | peak MB | of that allocated / mapped |", "|---|---|---|---|"]
    for name in (CPP, PYTHON):
        row = figures[name]
        megabytes = [row[key] / 1e6 for key in ("peak_bytes", "allocated_bytes", "mapped_bytes")]
        lines.append(
            f"| {name} | {row['seconds']:.2f} | {megabytes[0]:.0f} | "
            f"{megabytes[1]:.0f} / {megabytes[2]:.0f} |"
        )
    ratio = figures["ratio"]
    lines.append(f"| ratio | {ratio['seconds']:.2f} | {ratio['peak_bytes']:.2f} | |")
    return "\n".join(lines)


def argument_parser() -> argparse.ArgumentParser:
    """The options of this module as a command."""
    parser = argparse.ArgumentParser(
        prog="python -m fam_bench.cold_start", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("bundle", type=Path, help="bundle that is measured")
    parser.add_argument(
        "--program", type=Path, default=Path("build/cpp/fam_generate"), help="default: %(default)s"
    )
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=1, help="default: 1, which is mostly loading")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--low-memory", action="store_true")
    parser.add_argument("--no-verify", action="store_true", help="do not hash the bundle's files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Measure and print the table."""
    if not arguments.program.exists():
        raise InvalidRequest(
            "the C++ program is not built",
            got=str(arguments.program),
            expected="fam_generate",
            fix="run make cpp, or give --program",
        )
    rounds = measure_rounds(arguments)
    figures = summary(rounds)
    if arguments.json is not None:
        asked = {key: str(value) for key, value in vars(arguments).items() if key != "json"}
        content: dict[str, Any] = {
            "machine": describe_machine(), "arguments": asked, "summary": figures, "rounds": rounds,
        }  # fmt: skip
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(table(figures))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_cli(run, argument_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
