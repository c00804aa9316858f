"""What the library says while it works: kept for error messages, not printed."""

from __future__ import annotations

from collections import deque
from typing import Any

from fam_runtime.backends.tensorrt.library import TensorrtLibrary

_KEPT = 20


class Messages:
    """A logger for the library that keeps the last errors.

    Args:
        library: whose logger.
    """

    def __init__(self, library: TensorrtLibrary) -> None:
        self._errors: deque[str] = deque(maxlen=_KEPT)
        self.logger = _logger(library.module, self._errors)

    def last(self) -> str:
        """The last error, or "no reason given"."""
        return self._errors[-1] if self._errors else "no reason given"


def _logger(trt: Any, errors: deque[str]) -> Any:
    severities = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class KeepErrors(trt.ILogger):  # type: ignore[misc]  # a class of the imported library
        """Keeps errors, drops the rest."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in severities:
                errors.append(" ".join(text.split()))

    return KeepErrors()
