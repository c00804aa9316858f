"""What the benchmark of the served models makes of perf_analyzer's reports and of its windows."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fam_bench.perf_analyzer import (
    PARTS,
    PerfAnalyzerError,
    input_document,
    seconds_of_parts,
    served_requests,
)
from fam_bench.triton_figures import IN_PROCESS, Contestant, Window, figures_of, markdown
from fam_bench.triton_latency import CONTESTANTS, SERVERS, argument_parser
from fam_bench.tritonserver import Process

TABLE = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,\
Server Compute Input,Server Compute Infer,Server Compute Output,Client Recv,p50 latency,\
p90 latency,p95 latency,p99 latency,request/response,response wait
1,0.74987,11,571,83406,45,1186479,486,5,1189208,1752218,1752218,1752218,16,1270937
"""
"""What perf_analyzer 2.51 wrote of the demo; an empty line follows."""

EXPORT = (
    b'{"experiments":[{"experiment":{"mode":"concurrency","value":2},"requests":['
    b'{"timestamp":1000000000,"request_inputs":{"seed":7,"prompt":"a red circle"},'
    b'"response_timestamps":[2500000000],"response_outputs":[{"png":"\x89PNG\r\n\x1a\n\xff","image":"'
    b'\x00\x01\xfe"}]},'
    b'{"timestamp":1200000000,"request_inputs":{"seed":7,"prompt":"a red circle"},'
    b'"response_timestamps":[3200000000],"response_outputs":[{"image":"\xc3\x28"}]}'
    b'],"window_boundaries":[]}]}'
)


def test_requests_are_read_from_an_export_with_raw_pictures() -> None:
    with pytest.raises(UnicodeDecodeError):
        json.loads(EXPORT)
    served = served_requests(EXPORT, {"queue": 0.5})
    assert served.seconds == pytest.approx([1.5, 2.0])
    assert served.span_seconds == pytest.approx(2.2)
    assert served.parts == {"queue": 0.5}


@pytest.mark.parametrize("export", [b"{}", EXPORT.replace(b"[3200000000]", b"[]")])
def test_a_request_without_an_answer_is_no_measurement(export: bytes) -> None:
    with pytest.raises(PerfAnalyzerError, match=r"\d requests and \d answers"):
        served_requests(export, {})


def test_parts_of_a_request_are_seconds() -> None:
    parts = seconds_of_parts(TABLE + "\n")
    assert parts.keys() == PARTS.keys()
    assert parts["queue"] == pytest.approx(0.083406)
    assert sum(parts.values()) == pytest.approx(1.271003)


@pytest.mark.parametrize(
    "table",
    ["", TABLE + TABLE.splitlines()[1], TABLE.replace("Server Queue", "Queue"), TABLE[:-90]],
    ids=["empty", "two runs", "other columns", "cut short"],
)
def test_another_report_is_refused(table: str) -> None:
    with pytest.raises(PerfAnalyzerError, match="no report of one run"):
        seconds_of_parts(table)


def test_a_request_holds_one_value_per_input() -> None:
    document = input_document({"prompt": "ein grüner Kreis", "seed": 7})
    assert document == {
        "data": [
            {
                "prompt": {"content": ["ein grüner Kreis"], "shape": [1]},
                "seed": {"content": [7], "shape": [1]},
            }
        ]
    }


def windows(*rounds: list[float], parts: dict[str, float] | None = None) -> list[Window]:
    return [Window(times, sum(times), 2 * sum(times), parts or {}) for times in rounds]


def test_ratios_are_of_each_window_to_its_neighbours() -> None:
    """The machine is half as fast in the second round; the overhead of a tenth stays one."""
    near = [
        before + after
        for before, after in zip(windows([1.0], [2.0]), windows([1.0], [2.0]), strict=True)
    ]
    own = windows([1.1, 1.1, 5.0], [2.2, 2.2, 2.2])
    row = figures_of(Contestant("s", "grpc"), own, near)
    assert row["time_ratio"] == pytest.approx({"median": 1.1, "min": 1.1, "max": 1.1})
    assert row["cpu_ratio"]["min"] == pytest.approx(1.1)
    assert row["cpu_ratio"]["max"] == pytest.approx(7.2 / 3)
    assert row["rate_ratio"]["max"] == pytest.approx(1 / 1.1)
    assert row["rate_ratio"]["min"] == pytest.approx(3 / 7.2)
    assert (row["min_seconds"], row["p50_seconds"]) == pytest.approx((1.1, 2.2))
    assert row["p95_seconds"] == pytest.approx(2.2 + 0.75 * 2.8)


def test_pictures_at_a_time_count_by_the_time_of_all() -> None:
    together = Window([2.0, 2.0], 2.0, 4.0)
    row = figures_of(Contestant("s", "grpc", 2), [together], windows([1.0, 1.0]))
    assert row["pictures_per_second"] == 1
    assert row["rate_ratio"]["median"] == 1
    assert row["time_ratio"]["median"] == 2


def test_the_tables() -> None:
    alone = windows([1.0, 1.0], [1.0, 1.0])
    parts = dict.fromkeys(PARTS, 0.001) | {"compute_infer": 1.02, "queue": 0.0832}
    served = windows([1.03, 1.03], [1.01, 1.01], parts=parts)
    rows = [
        figures_of(Contestant(IN_PROCESS), alone, alone),
        figures_of(Contestant("`pipeline`", "grpc"), served, alone),
        figures_of(Contestant("`engines`", "http", 2), served, alone),
    ]
    text = markdown(rows)
    assert "| in process | 1.000 | 1.000 | 1.000 | 1 | 1 |" in text
    assert "| `pipeline`, gRPC | 1.010 | 1.020 | 1.030 | 1.020 (1.010 – 1.030) | " in text
    assert "| `pipeline`, gRPC | 83.2 | 1.0 | 1020.0 | 1.0 | 3.0 |" in text
    assert "| 2, `engines`, HTTP | 1.020 | 1.030 | 0.980 | 0.980 (0.971 – 0.990) |" in text
    for table in text.strip().split("\n\n"):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_every_contestant_has_a_server() -> None:
    assert {contestant.server for contestant in CONTESTANTS} == SERVERS.keys()
    assert len(set(CONTESTANTS)) == len(CONTESTANTS)


@pytest.mark.parametrize("arguments", [["--requests", "3"], ["--rounds", "0"]])
def test_numbers_that_cannot_be_measured(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        argument_parser().parse_args(["bundle", *arguments])


def test_processor_time_is_that_of_the_process() -> None:
    spin = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        process = Process.of(child.pid)
        assert process is not None and child.stdout is not None
        child.stdout.readline()
        assert 0.4 < process.cpu_seconds() < 5
        child.kill()
        child.wait()
        assert process.cpu_seconds() == 0
