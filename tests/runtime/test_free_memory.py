"""Free memory, from files as Linux writes them."""

from __future__ import annotations

import sys

import pytest

from fam_runtime.free_memory import (
    free_memory_bytes,
    give_back_freed_memory,
    resident_bytes,
)
from fam_runtime.native_attention import default_memory_budget_bytes

KIB = 1024
MEMINFO = "MemTotal:  4000 kB\nMemFree:  100 kB\nMemAvailable:  2000 kB\nCached:  1900 kB\n"


def machine(root, files):
    for name, content in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, "ascii")
    return root


def v2(folder, limit, used, cached=0):
    place = f"sys/fs/cgroup/{folder}"
    return {
        f"{place}memory.max": f"{limit}\n",
        f"{place}memory.current": f"{used}\n",
        f"{place}memory.stat": f"anon 5\ninactive_file {cached}\n",
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 2000 * KIB),
        ({"proc/self/cgroup": "0::/\n"}, 2000 * KIB),
        ({"proc/self/cgroup": "0::/\n", **v2("", 900, 300)}, 600),
        ({"proc/self/cgroup": "0::/\n", **v2("", 900, 300, cached=200)}, 800),
        ({"proc/self/cgroup": "0::/a/b\n", **v2("a/", 900, 300), **v2("a/b/", "max", 1)}, 600),
        ({"proc/self/cgroup": "0::/a\n", **v2("a/", 10**9, 300)}, 2000 * KIB),
        ({"proc/self/cgroup": "0::/a\n", **v2("a/", 900, 901)}, 0),
        (
            {
                "proc/self/cgroup": "5:cpu,memory:/docker/x\n1:name=systemd:/y\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "700",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "100",
            },
            600,
        ),
        ({"proc/self/cgroup": "nonsense\n", "sys/fs/cgroup/memory.max": "x"}, 2000 * KIB),
    ],
)
def test_the_smallest_limit_counts(tmp_path, files, expected):
    assert free_memory_bytes(machine(tmp_path, files)) == expected


def test_without_linux_files_the_system_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", {"SC_AVPHYS_PAGES": 3, "SC_PAGE_SIZE": 10}.__getitem__)
    assert free_memory_bytes(tmp_path) == 30
    monkeypatch.setattr("os.sysconf", _unknown)
    assert free_memory_bytes(tmp_path) is None


def _unknown(name):
    raise ValueError(name)


def test_the_budget_is_a_quarter_or_a_gibibyte(monkeypatch):
    monkeypatch.setattr("fam_runtime.native_attention.free_memory_bytes", lambda: 4000)
    assert default_memory_budget_bytes() == 1000
    monkeypatch.setattr("fam_runtime.native_attention.free_memory_bytes", lambda: None)
    assert default_memory_budget_bytes() == 1 << 30


def test_what_the_process_takes(tmp_path):
    status = "Name:\tx\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\n"
    assert resident_bytes(machine(tmp_path, {"proc/self/status": status})) == 200 * KIB
    assert resident_bytes(tmp_path / "elsewhere") is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, needs glibc")
def test_freed_memory_goes_back_to_the_system():
    """Small blocks, every tenth of which stays in use: the C library keeps their pages."""
    blocks = [bytes(100_000) for _ in range(1_000)]
    kept = blocks[::10]
    del blocks
    before = resident_bytes()
    give_back_freed_memory()
    assert before - resident_bytes() > 50_000_000
    assert len(kept) == 100
