"""NVIDIA's `perf_analyzer`: asks a server for so many pictures, and says how long each took."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fam_bench.tritonserver import TritonEnvironment, TritonUnavailable

Protocol = Literal["grpc", "http"]

PARTS = {
    "network": "Network+Server Send/Recv",
    "queue": "Server Queue",
    "compute_input": "Server Compute Input",
    "compute_infer": "Server Compute Infer",
    "compute_output": "Server Compute Output",
    "client_send": "Client Send",
    "client_receive": "Client Recv",
}
"""What a request's time is made of, and the columns that say so in microseconds, on average."""

SECONDS_PER_REQUEST = 60
"""Far more than a picture of the demo takes; a run that hangs ends so."""

_LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
"""What the program loads, and how the server's wheel calls it."""

_BEGIN = re.compile(rb'\{"timestamp":(\d+),"request_inputs":')
_END = re.compile(rb'"response_timestamps":\[(\d+)\]')


class PerfAnalyzerError(Exception):
    """It failed, or wrote something else than was expected."""


@dataclass(frozen=True)
class ServedRequests:
    """Requests of one run.

    Attributes:
        seconds: of each request, from sending it to its answer.
        span_seconds: from the first request to the last answer.
        parts: seconds by name of :data:`PARTS`, on average.
    """

    seconds: list[float]
    span_seconds: float
    parts: dict[str, float]


class PerfAnalyzer:
    """The program in a server's environment.

    Args:
        environment: of the server; the client's package brings the program.
        folder: an empty folder of its own, for its libraries and reports.

    Raises:
        TritonUnavailable: it is not there, or does not start.
    """

    def __init__(self, environment: TritonEnvironment, folder: Path) -> None:
        self._program, self._folder = environment.bin / "perf_analyzer", folder
        own = str(_libraries_folder(environment.packages, folder))
        self._variables = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join([own, os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(":"),
        }
        self.version = self._version()

    def measure(
        self,
        model: str,
        address: str,
        inputs: Mapping[str, Any],
        *,
        requests: int,
        concurrency: int = 1,
        protocol: Protocol = "grpc",
    ) -> ServedRequests:
        """Ask for `requests` pictures, `concurrency` at a time, all with the same inputs.

        Raises:
            PerfAnalyzerError: it failed, or took far too long.
        """
        data, table, export = (self._folder / name for name in ("in.json", "out.csv", "out.json"))
        data.write_text(json.dumps(input_document(inputs)), encoding="utf-8")
        for report in (table, export):
            report.unlink(missing_ok=True)
        command = [
            *(str(self._program), "-m", model, "-u", address, "-i", protocol),
            *("--input-data", str(data), "--request-count", str(requests)),
            *("--concurrency-range", str(concurrency)),
            *("-f", str(table), "--verbose-csv", "--profile-export-file", str(export)),
        ]
        text = self._run(command, SECONDS_PER_REQUEST * requests)
        if not (table.exists() and export.exists()):
            raise PerfAnalyzerError(f"perf_analyzer wrote no report:\n{text}")
        parts = seconds_of_parts(table.read_text(encoding="utf-8"))
        measured = served_requests(export.read_bytes(), parts)
        if len(measured.seconds) != requests:
            raise PerfAnalyzerError(f"{len(measured.seconds)} of {requests} requests:\n{text}")
        return measured

    def _run(self, command: Sequence[str], timeout_s: float) -> str:
        try:
            done = subprocess.run(
                command, env=self._variables, capture_output=True, text=True, timeout=timeout_s
            )
        except subprocess.TimeoutExpired:
            raise PerfAnalyzerError(f"perf_analyzer took over {timeout_s:.0f} s") from None
        text = done.stdout + done.stderr
        if done.returncode:
            raise PerfAnalyzerError(f"perf_analyzer ended with {done.returncode}:\n{text}")
        return text

    def _version(self) -> str:
        try:
            text = self._run([str(self._program), "--version"], 30)
        except (PerfAnalyzerError, OSError) as error:
            raise TritonUnavailable(
                "perf_analyzer does not start",
                got=str(error),
                expected="the program of tritonclient, libb64.so.0d and libcudart.so.12",
                fix="remove .venv-triton and run `make triton-env`",
            ) from None
        return text.strip()


def input_document(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """One request of one picture, as `--input-data` takes it."""
    tensors = {name: {"content": [value], "shape": [1]} for name, value in inputs.items()}
    return {"data": [tensors]}


def served_requests(export: bytes, parts: dict[str, float]) -> ServedRequests:
    """From a profile export, which is not JSON: pictures stand in it as raw bytes.

    Raises:
        PerfAnalyzerError: it has no request, or one without an answer.
    """
    begins, ends = ([int(found) for found in one.findall(export)] for one in (_BEGIN, _END))
    if not begins or len(begins) != len(ends):
        raise PerfAnalyzerError(f"{len(begins)} requests and {len(ends)} answers in the export")
    seconds = [(end - begin) / 1e9 for begin, end in zip(begins, ends, strict=True)]
    return ServedRequests(seconds, (max(ends) - min(begins)) / 1e9, parts)


def seconds_of_parts(table: str) -> dict[str, float]:
    """What a request is made of, on average, from a verbose CSV.

    Raises:
        PerfAnalyzerError: it is not the report of one concurrency.
    """
    rows = list(csv.DictReader(line for line in table.splitlines() if line.strip()))
    try:
        [row] = rows
        return {name: float(row[column]) / 1e6 for name, column in PARTS.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise PerfAnalyzerError(f"no report of one run ({error!r}):\n{table}") from None


def _libraries_folder(packages: Path, folder: Path) -> Path:
    """A folder with the libraries that the server's wheel has under other names."""
    place = folder / "libraries"
    place.mkdir()
    for wanted, pattern in _LIBRARIES.items():
        found = sorted(packages.glob(f"nvidia_pytriton.libs/{pattern}"))
        if found:
            (place / wanted).symlink_to(found[0])
    return place
