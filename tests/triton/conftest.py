"""A real Triton server for the tests that need one; each module starts its own, and few."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fam_bench.tritonserver import TritonEnvironment, TritonServer, TritonUnavailable

REQUIRED = "FAM_REQUIRE_TRITON"
"""Set where a missing server is a failure, as in continuous integration."""

StartTriton = Callable[..., TritonServer]


def environment_or_outcome() -> TritonEnvironment:
    """The environment; without one the test is skipped, or fails where a server is required."""
    try:
        return TritonEnvironment.find()
    except TritonUnavailable as error:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{error} ({REQUIRED} is set)", pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def triton_environment() -> TritonEnvironment:
    """What the servers are started from."""
    return environment_or_outcome()


@pytest.fixture(scope="module")
def start_triton(
    triton_environment: TritonEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartTriton]:
    """Starts a server on a model repository, with the options of :class:`TritonServer`.

    It runs until the module's last test, unless a test stops it.
    """
    with ExitStack() as running:

        def start(repository: Path, **options: Any) -> TritonServer:
            folder = tmp_path_factory.mktemp("triton")
            server = TritonServer(triton_environment, repository, folder, **options)
            return running.enter_context(server)

        yield start
