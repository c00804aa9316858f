"""Bundles and pipelines: one on the CPU, which is the oracle, and one on a fake device."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from fam_runtime import FamPipeline
from fam_runtime.bundle import Bundle
from tests.runtime.device.fake_device import FakeDeviceApi, FakeDeviceBackend
from tests.runtime.fake_bundle import write_bundle


@pytest.fixture(scope="session")
def bundle_root(tmp_path_factory):
    """Writes a bundle once for each set of options."""
    made = {}

    def root(**options):
        key = tuple(sorted(options.items()))
        if key not in made:
            made[key] = write_bundle(tmp_path_factory.mktemp("bundle") / "it", **options)
        return made[key]

    return root


@pytest.fixture
def on_device(bundle_root):
    """Opens a pipeline on a fake device, and sees that closing it leaves nothing there."""
    with contextlib.ExitStack() as opened:

        def pipeline(root=None, *, progress=None, low_memory=False, total_bytes=1 << 30, **options):
            backend = FakeDeviceBackend(FakeDeviceApi(total_bytes), **options)
            bundle = Bundle.open(bundle_root() if root is None else root)
            pipe = FamPipeline(bundle, backend, progress=progress, low_memory=low_memory)
            opened.callback(backend.api.assert_empty)
            opened.callback(pipe.close)
            return SimpleNamespace(pipe=pipe, api=backend.api, backend=backend)

        yield pipeline


@pytest.fixture(scope="session")
def on_cpu(bundle_root):
    """A pipeline on the CPU."""
    made = {}

    def pipeline(root=None):
        root = bundle_root() if root is None else root
        if root not in made:
            made[root] = FamPipeline.from_pretrained(root, progress=False)
        return made[root]

    yield pipeline
    for pipe in made.values():
        pipe.close()


class SeenProgress:
    """A bar that somebody looks at: it remembers what it was told."""

    def __init__(self):
        self.events = []

    def start(self, stage, total):
        self.events.append((stage, total))

    def advance(self):
        self.events.append("step")

    def close(self):
        pass


def latents(pipe, prompt="a red ring", **options):
    return pipe(prompt, output_type="latent", **options).latents


def same(first, second):
    return np.isfinite(first).all() and np.array_equal(first, second)
