"""A server's HTTP port, asked with a deadline for the whole answer; the standard library only."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from fam_runtime.errors import FamError, InvalidRequest

DEFAULT_URL = "http://127.0.0.1:8000"

RESTART = "restart the server, and remove its /dev/shm/fam_diffusion_* before it starts"
"""What brings a server back; Triton leaves shared memory behind when it is killed."""

_CHUNK_BYTES = 1 << 16
_MAX_ANSWER_BYTES = 1 << 29
_LEAST_TIMEOUT_S = 0.1


class ServerDead(FamError):
    """The server cannot be reached, or its model answers without a picture."""

    exit_code: ClassVar[int] = 9


class NoAnswer(Exception):
    """No answer by the deadline, or a refusal that is about the moment and not the request."""


@dataclass(frozen=True)
class Answer:
    """Status, headers and body of an answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens; `path` comes before every path of the protocol."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def from_url(cls, url: str) -> Endpoint:
        """The endpoint of an http or https URL.

        Raises:
            InvalidRequest: it is of another kind, or carries more than a place.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:  # a port that is no number, a broken IPv6 address
            parts, port = urlsplit(""), None
        extra = parts.username is not None or parts.query or parts.fragment
        if parts.scheme not in ("http", "https") or not parts.hostname or extra:
            raise InvalidRequest(
                "the URL cannot be used",
                got=url,
                expected="http:// or https://, a host and perhaps a port and a path",
                fix=f"use one such as {DEFAULT_URL}",
            )
        default = 443 if parts.scheme == "https" else 80
        path = parts.path.rstrip("/")
        return cls(parts.scheme, parts.hostname, default if port is None else port, path)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    def ask(
        self,
        method: str,
        path: str,
        deadline: float,
        document: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request, without proxies and redirects: the server itself is meant.

        Raises:
            ServerDead: nothing listens, or the connection broke.
            NoAnswer: the deadline passed, while connecting or later.
        """
        secure = self.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        seconds = max(_LEAST_TIMEOUT_S, deadline - time.monotonic())
        connection = kind(self.host, self.port, timeout=seconds)
        body = None if document is None else json.dumps(document).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        try:
            connection.connect()
            connection.request(method, self.path + path, body, sent)
            return _received(connection, deadline)
        except TimeoutError:
            raise NoAnswer(f"no answer within {seconds:.1f} s") from None
        # A ValueError is a host that no name can have.
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _unreachable(self, error) from None
        finally:
            connection.close()


def _received(connection: http.client.HTTPConnection, deadline: float) -> Answer:
    """The whole answer to the request that was sent.

    Raises:
        TimeoutError: the deadline passed.
        OSError, HTTPException: the connection broke, or what comes is no answer.
    """
    socket = connection.sock  # the connection forgets it where the answer ends with it
    response = connection.getresponse()
    received = bytearray()
    while not response.isclosed():
        # The socket's timeout is for each packet, and a stream sends many.
        socket.settimeout(_remaining_s(deadline))
        part = response.read1(_CHUNK_BYTES)
        received += part
        if len(received) > _MAX_ANSWER_BYTES:
            raise http.client.HTTPException(f"more than {_MAX_ANSWER_BYTES} bytes")
        if not part:
            break
    return Answer(response.status, response.headers, bytes(received))


def _remaining_s(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining


def _unreachable(endpoint: Endpoint, error: Exception) -> ServerDead:
    return ServerDead(
        f"the server at {endpoint} cannot be reached",
        got=str(error) or type(error).__name__,
        expected="tritonserver listening there",
        fix=f"check the URL; a server that has ended is started again: {RESTART}",
    )
