"""What a client is told when a request fails, and what the server's log is told."""

from __future__ import annotations

import secrets
import traceback
from typing import Any

from fam_runtime.errors import Cancelled, InvalidRequest, NumericError, OutOfMemory

_FOR_CLIENTS: tuple[tuple[type[Exception], str], ...] = (
    (InvalidRequest, "INVALID_ARG"),
    (Cancelled, "CANCELLED"),
    (NumericError, "INTERNAL"),
)
"""Errors whose text says what a client may do, and whose text holds nothing of the server."""


def triton_error(utilities: Any, error: Exception) -> Any:
    """The ``TritonError`` for `error`: a code by whose fault it is, and a text.

    The text of any other error may name files of the server, so the client gets a number, under
    which the log has the error.

    Args:
        utilities: the module ``triton_python_backend_utils``.
        error: what ended the request.
    """
    codes = utilities.TritonError
    for kind, code in _FOR_CLIENTS:
        if isinstance(error, kind):
            return codes(str(error), getattr(codes, code))
    incident = secrets.token_hex(4)
    utilities.Logger.log_error(f"incident {incident}: {described(error)}")
    if isinstance(error, (OutOfMemory, MemoryError)):
        return codes(_message("the server ran out of memory", incident), codes.UNAVAILABLE)
    return codes(_message("the server failed", incident), codes.INTERNAL)


def described(error: Exception) -> str:
    """`error` with where it comes from."""
    return "".join(traceback.format_exception(error)).strip()


def _message(what: str, incident: str) -> str:
    return (
        f"{what} | got incident {incident} | expected a picture | "
        "who runs the server finds the reason under this number in its log"
    )
