"""What a worker process does: a file per kind of work, all behind :class:`~.base.Work`."""

from fam_bench.latency.work.base import Work
from fam_bench.latency.work.open import open_work

__all__ = ["Work", "open_work"]
