"""What can go wrong with a server that is started here."""

from __future__ import annotations

from fam_runtime.errors import BackendError


class TritonUnavailable(BackendError):
    """There is no server to start, or nothing to measure it with."""


class TritonServerError(Exception):
    """The server ended or was not ready in time; shows the end of its log."""


class PortTaken(TritonServerError):
    """Another process took one of the ports meanwhile."""
