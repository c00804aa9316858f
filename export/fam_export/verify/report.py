"""What a verification found: every figure beside its bound, as a table, as JSON, as an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fam_export.verify.choice import BackendChoice
from fam_export.verify.figures import Figure
from fam_export.verify.table import table_of
from fam_export.verify.tolerances import AT_LEAST, Arithmetic, Kind, bounds_of
from fam_runtime.errors import BackendError, FamError, NumericError, ParityError


@dataclass(frozen=True)
class Comparison:
    """One thing that a contestant and PyTorch both computed.

    Attributes:
        kind: what is compared, which decides the bounds.
        what: a graph and its output, a stage, what is left after one, or the picture.
        arithmetic: what the contestant computes it in.
        figures: how far it is off.
        target: size in pixels; empty for graphs.
        step: index in the stage, from 0.
    """

    kind: Kind
    what: str
    arithmetic: Arithmetic
    figures: Mapping[Figure, float]
    target: str = ""
    step: int | None = None

    @property
    def bounds(self) -> dict[Figure, float]:
        """What figures may be at most, or at least."""
        return bounds_of(self.kind, self.arithmetic)

    @property
    def exceeded(self) -> tuple[Figure, ...]:
        """Figures beyond their bound."""
        return tuple(figure for figure in self.bounds if not self._share(figure) <= 1)

    @property
    def share(self) -> float:
        """The worst figure as a share of its bound; above 1 it is exceeded."""
        return max(self._share(figure) for figure in self.bounds)

    @property
    def title(self) -> str:
        """``256x256, target stage, step 3``."""
        return title_of(self.target, self.what, self.step)

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON types."""
        return {**vars(self), "figures": dict(self.figures), "bounds": self.bounds}

    def _share(self, figure: Figure) -> float:
        value, bound = self.figures[figure], self.bounds[figure]
        return bound / max(value, 1e-9) if figure in AT_LEAST else value / bound


def title_of(target: str, what: str, step: int | None = None) -> str:
    """``256x256, target stage, step 3``; steps count from 0, as callbacks count them."""
    last = "" if step is None else f"step {step}"
    return ", ".join(part for part in (target, what, last) if part)


@dataclass(eq=False)
class ContestantReport:
    """How a backend did.

    Attributes:
        choice: the backend.
        described: name, versions and device, once it was opened.
        comparisons: in the order they were made.
        stopped: why it did not run, or not to the end.
    """

    choice: BackendChoice
    described: dict[str, str] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    stopped: FamError | None = None

    @property
    def failures(self) -> list[Comparison]:
        """Comparisons that exceed a bound."""
        return [comparison for comparison in self.comparisons if comparison.exceeded]

    @property
    def ran(self) -> bool:
        """Whether it computed anything; a backend that fails before cannot run here."""
        return bool(self.comparisons) or isinstance(self.stopped, NumericError)

    @property
    def verdict(self) -> str:
        """``ok``, ``failed``, ``stopped`` (in between) or ``not run``."""
        if self.stopped is not None and not self.ran:
            return "not run"
        if self.failures or isinstance(self.stopped, NumericError):
            return "failed"
        return "ok" if self.stopped is None else "stopped"

    def error(self) -> FamError | None:
        """Why the verification fails because of this backend; None: it does not."""
        if self.stopped is not None and isinstance(self.stopped, NumericError):
            return self.stopped
        if self.failures:
            return self._parity_error()
        return self.stopped if self.ran or self.choice.asked else None

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {
            "backend": self.choice.name,
            "options": {name: str(value) for name, value in self.choice.options.items()},
            "asked": self.choice.asked,
            "described": dict(self.described),
            "verdict": self.verdict,
            "stopped": None if self.stopped is None else str(self.stopped),
            "comparisons": [comparison.as_dict() for comparison in self.comparisons],
        }

    def _parity_error(self) -> ParityError:
        first, others = self.failures[0], len(self.failures) - 1
        figure = first.exceeded[0]
        limit = "at least" if figure in AT_LEAST else "at most"
        more = f" (and {others} more comparisons)" if others else ""
        return ParityError(
            f"{self.choice.label}: {first.title} is not what PyTorch computes{more}",
            got=f"{figure} {first.figures[figure]:.2g}",
            expected=f"{limit} {first.bounds[figure]:g} in {first.arithmetic}",
            fix="try another version of the library, or --dtype fp32; if that does not help, "
            "please report it",
        )


@dataclass(frozen=True, eq=False)
class VerifyReport:
    """What :func:`fam_export.verify.verify_bundle` found.

    Attributes:
        bundle: its name and the hash of its manifest.
        targets: sizes that were compared.
        task: prompt, seed, and steps of each stage.
        reference: what PyTorch says about itself; empty if nobody could run beside it.
        contestants: a report per backend.
    """

    bundle: Mapping[str, str]
    targets: tuple[str, ...]
    task: Mapping[str, Any]
    reference: Mapping[str, str]
    contestants: tuple[ContestantReport, ...]

    @property
    def passed(self) -> bool:
        """Whether :meth:`check` has nothing to say."""
        return self._error() is None

    def check(self) -> None:
        """Let the verification fail, if it has to.

        Raises:
            ParityError: a figure exceeds its tolerance.
            NumericError: something became NaN or infinite.
            BackendError, InvalidRequest: a backend that was asked for cannot run, or none can.
        """
        error = self._error()
        if error is not None:
            raise error

    def lines(self) -> list[str]:
        """A table for people; every step is in :meth:`as_dict`."""
        return table_of(self)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON types."""
        return {
            "bundle": dict(self.bundle),
            "targets": list(self.targets),
            "task": dict(self.task),
            "reference": dict(self.reference),
            "passed": self.passed,
            "contestants": [contestant.as_dict() for contestant in self.contestants],
        }

    def _error(self) -> FamError | None:
        errors = [error for one in self.contestants if (error := one.error()) is not None]
        if errors:
            return errors[0]
        if any(one.ran for one in self.contestants):
            return None
        return BackendError(
            "nothing was compared with PyTorch",
            got=", ".join(one.choice.label for one in self.contestants),
            expected="one backend that runs on this machine",
            fix="install one, or see above why these do not run",
        )
