"""The model's counters on the server's metrics port."""

from __future__ import annotations

from typing import Any

from fam_runtime.triton.interface import METRICS


class Counters:
    """What :data:`~fam_runtime.triton.interface.METRICS` names; silent where metrics are off.

    Args:
        utilities: the module ``triton_python_backend_utils``.
        model, version: labels.
    """

    def __init__(self, utilities: Any, model: str, version: str) -> None:
        self._families: list[Any] = []  # a metric ends with its family
        self._metrics: dict[str, Any] = {}
        for name, description in METRICS.items():
            try:
                family = utilities.MetricFamily(
                    name=name, description=description, kind=utilities.MetricFamily.COUNTER
                )
                self._metrics[name] = family.Metric(labels={"model": model, "version": version})
            except Exception as error:  # --allow-metrics=false, or a server without this interface
                utilities.Logger.log_warn(f"no metric {name}: {error}")
                return
            self._families.append(family)

    def count(self, name: str, amount: int = 1) -> None:
        """Add `amount` to the counter `name`."""
        if name in self._metrics:
            self._metrics[name].increment(amount)
