"""A real Triton Inference Server out of a Python environment, on this machine only.

Tests and benchmarks start one here: bound to 127.0.0.1 on free ports, ready when the call returns,
and gone with its processes and shared memory at the end. It is no way to serve anybody else.
"""

from fam_bench.tritonserver.api import ServerApi
from fam_bench.tritonserver.environment import ROOT, TritonEnvironment
from fam_bench.tritonserver.errors import PortTaken, TritonServerError, TritonUnavailable
from fam_bench.tritonserver.ports import LOCALHOST, Ports, free_ports
from fam_bench.tritonserver.processes import Process, children_of, wait_until
from fam_bench.tritonserver.server import TritonServer

__all__ = [
    "LOCALHOST",
    "ROOT",
    "PortTaken",
    "Ports",
    "Process",
    "ServerApi",
    "TritonEnvironment",
    "TritonServer",
    "TritonServerError",
    "TritonUnavailable",
    "children_of",
    "free_ports",
    "wait_until",
]
