"""Which backends a verification asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fam_runtime.backends import Backend, open_backend
from fam_runtime.backends.registry import BACKENDS


@dataclass(frozen=True)
class BackendChoice:
    """A backend to compare with PyTorch.

    Attributes:
        name: as ``--backend`` takes it.
        options: of :func:`fam_runtime.backends.open_backend`, such as ``{"provider": "cuda"}``.
        asked: it was asked for by name, so that it cannot run is a failure.
    """

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    asked: bool = True

    @property
    def label(self) -> str:
        """What the report calls it: ``tensorrt``, ``onnxruntime cuda``."""
        provider = self.options.get("provider")
        return self.name if provider is None else f"{self.name} {provider}"

    def open(self) -> Backend:
        """The backend.

        Raises:
            InvalidRequest: its name or an option is unknown.
            BackendError: its library or its device is missing.
        """
        return open_backend(self.name, **self.options)


def every_backend() -> tuple[BackendChoice, ...]:
    """All there are, with their own defaults; those that cannot run here are only reported."""
    return tuple(BackendChoice(name, asked=False) for name in BACKENDS)
