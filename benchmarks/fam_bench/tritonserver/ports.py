"""Ports of a server, for this machine only."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

LOCALHOST = "127.0.0.1"


@dataclass(frozen=True)
class Ports:
    """Of one server, all on 127.0.0.1."""

    http: int
    grpc: int
    metrics: int


def free_ports() -> Ports:
    """Three ports that were free a moment ago, chosen by the kernel."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind((LOCALHOST, 0))
        return Ports(*(one.getsockname()[1] for one in sockets))
