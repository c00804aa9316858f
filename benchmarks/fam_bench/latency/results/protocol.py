"""The paper's protocol: what FAM adds to direct inference, beside the paper's Table 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PAPER_STEPS = 50
PAPER_SCALES = (2.0, 3.0, 4.0)
PAPER_MINUTES: Mapping[float, tuple[float, float]] = {
    2.0: (0.8, 1.0),
    3.0: (2.2, 2.5),
    4.0: (5.4, 6.1),
}
"""Table 1, SDXL on an A40: minutes of direct inference and of FAM, by scale."""


def protocol_rows(figures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Direct inference and FAM of every contestant and scale, as JSON types.

    `overhead` is that of the whole picture: FAM's native stage is a part of it.

    Args:
        figures: rows of kinds `picture` and `direct`.
    """
    by_key = {(row["contestant"], row["kind"], row["scale"]): row for row in figures}
    rows = []
    for (contestant, kind, scale), fam in by_key.items():
        direct = by_key.get((contestant, "direct", scale))
        if kind != "picture" or direct is None:
            continue
        paper = PAPER_MINUTES.get(scale)
        rows.append(
            {
                "contestant": contestant,
                "title": fam["title"],
                "scale": scale,
                "direct_seconds": direct["median_seconds"],
                "fam_seconds": fam["median_seconds"],
                "overhead": overhead(direct["median_seconds"], fam["median_seconds"]),
                "native_share": _share(fam, "native"),
                "paper_direct_minutes": None if paper is None else paper[0],
                "paper_fam_minutes": None if paper is None else paper[1],
                "paper_overhead": None if paper is None else overhead(*paper),
            }
        )
    return rows


def overhead(direct: float, fam: float) -> float:
    """What FAM adds, as a share of direct inference."""
    return fam / direct - 1


def _share(row: Mapping[str, Any], stage: str) -> float | None:
    """Of a stage in a picture."""
    seconds = row["stage_seconds"].get(stage)
    return None if seconds is None else float(seconds / row["median_seconds"])
