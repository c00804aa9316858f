"""A real server goes from one version to the next, and no request is lost on the way."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fam_bench.tritonserver import TritonEnvironment, TritonServer
from fam_runtime.bundle import Bundle
from fam_runtime.triton.options import RepositoryOptions
from fam_runtime.triton.repository import write_repository
from tests.runtime.fake_bundle import write_bundle
from tests.triton.clients import ClientProcess
from tests.triton.conftest import StartTriton
from tests.triton.test_existing_models import with_manifest

REQUEST: dict[str, Any] = {"prompt": "a circle", "seed": 3, "steps": 2}
LAYOUTS = {"whole": "pipeline", "split": "engines"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models with the same tensors."""
    folder = tmp_path_factory.mktemp("bundles")
    new = write_bundle(folder / "new")
    with_manifest(new, lambda m: dataclasses.replace(m.model, name="new"), "model")
    return write_bundle(folder / "old"), new


@pytest.fixture(scope="module")
def server(
    start_triton: StartTriton,
    bundles: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> TritonServer:
    root = tmp_path_factory.mktemp("repository") / "models"
    for name, layout in LAYOUTS.items():
        write_repository(bundles[0], root, options(name, layout, 1))
    return start_triton(root)


@pytest.fixture(scope="module")
def client(triton_environment: TritonEnvironment) -> Iterator[ClientProcess]:
    process = ClientProcess(triton_environment.bin / "python")
    yield process
    process.close()


def options(name: str, layout: Any, version: int) -> RepositoryOptions:
    return RepositoryOptions(name=name, layout=layout, version=version, threads=1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_update_loses_no_request(
    server: TritonServer, client: ClientProcess, bundles: tuple[Path, Path], name: str
) -> None:
    """Graphs first, then the sampler that calls them: with --keep-versions 1, the default."""
    old, new = (Bundle.unchecked(bundle).hash for bundle in bundles)
    answered: list[object] = []
    stop = threading.Event()

    def bundle_that_answers() -> object:
        return client.ask(server, REQUEST, model=name).settings[0]["bundle"]["hash"]

    def keep_asking() -> None:
        while not stop.is_set():
            try:
                answered.append(bundle_that_answers())
            except Exception as error:
                answered.append(error)

    assert bundle_that_answers() == old
    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        written = write_repository(bundles[1], server.repository, options(name, LAYOUTS[name], 2))
        *graphs, sampler = written.models
        assert (sampler, len(graphs)) == (name, 0 if name == "whole" else 7)
        for graph in graphs:
            assert server.load(graph) == (200, "")
            document = server.request(f"/v2/models/{graph}")[1]
            assert '"versions":["1","2"]' in document
        assert bundle_that_answers() == old
        assert server.load(sampler) == (200, "")
        assert bundle_that_answers() == new
    finally:
        stop.set()
        asking.join(60)
    assert bundle_that_answers() == new
    assert '"versions":["2"]' in server.request(f"/v2/models/{name}")[1]
    assert set(answered) == {old, new}, [one for one in answered if one not in (old, new)]
    assert answered == sorted(answered, key=[old, new].index)
