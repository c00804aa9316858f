"""The backend interface: checks of feeds, life of runners, the registry, lazy imports."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fam_runtime.backends import BACKENDS, Runner, open_backend
from fam_runtime.backends.checks import shape_from_symbols
from fam_runtime.backends.pool import RunnerPool
from fam_runtime.errors import BackendError, InvalidRequest


def spec(name, dtype, *shape):
    return SimpleNamespace(name=name, dtype=dtype, shape=shape)


SPEC = SimpleNamespace(
    inputs=(
        spec("latent", "float32", "B", 4, "h", "w"),
        spec("prompt_embeds", "float32", "2B", 77, 5),
        spec("image", "float32", "B", 3, "8h", "8w"),
        spec("timestep", "float32"),
    ),
    outputs=(spec("next", "float32", "B"), spec("tap", "float32", "B")),
)


class Recorder(Runner):
    closed = 0

    def infer_impl(self, feeds, outputs):
        return {name: np.zeros(1, np.float32) for name in outputs}

    def close_impl(self):
        self.closed += 1


def feeds(**changes):
    shapes = {
        "latent": (3, 4, 2, 5),
        "prompt_embeds": (6, 77, 5),
        "image": (3, 3, 16, 40),
        "timestep": (),
    }
    return {name: np.zeros(changes.get(name, shape), np.float32) for name, shape in shapes.items()}


def test_good_feeds_pass_and_outputs_are_chosen():
    runner = Recorder("g.onnx", SPEC)
    assert set(runner.run(feeds())) == {"next", "tap"}
    assert set(runner.run(feeds(), ["tap"])) == {"tap"}


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        (
            "latent",
            (3, 4, 2),
            r"latent has the wrong shape \| got \(3, 4, 2\) \| expected \[B, 4, h, w\]",
        ),
        ("latent", (3, 5, 2, 5), "latent has the wrong shape"),
        ("latent", (0, 4, 2, 5), "latent has the wrong shape"),
        ("prompt_embeds", (3, 77, 5), r"got \(3, 77, 5\) .* \[2B, 77, 5\] with B = 3"),
        ("prompt_embeds", (5, 77, 5), "prompt_embeds has the wrong shape"),
        ("image", (3, 3, 16, 41), r"\[B, 3, 8h, 8w\] with B = 3, h = 2, w = 5"),
        ("timestep", (1,), r"timestep has the wrong shape \| got \(1,\) \| expected \[\]"),
    ],
)
def test_wrong_shapes_are_named(name, shape, text):
    with pytest.raises(BackendError, match=text):
        Recorder("g.onnx", SPEC).run(feeds(**{name: shape}))


def test_wrong_names_and_dtypes_are_named():
    runner = Recorder("g.onnx", SPEC)
    some = feeds()
    del some["latent"]
    with pytest.raises(BackendError, match=r"g.onnx: wrong inputs .* got .missing \['latent'\]"):
        runner.run(some)
    with pytest.raises(BackendError, match=r"unknown \['extra'\]"):
        runner.run({**feeds(), "extra": np.zeros(1)})
    with pytest.raises(BackendError, match=r"timestep has the wrong dtype .* 'float64' .* float32"):
        runner.run({**feeds(), "timestep": np.zeros(())})
    with pytest.raises(BackendError, match=r"unknown outputs .* \['nope'\]"):
        runner.run(feeds(), ["nope"])


def test_a_closed_runner_says_so_and_closes_once():
    runner = Recorder("g.onnx", SPEC)
    with runner:
        pass
    runner.close()
    assert runner.closed == 1
    with pytest.raises(BackendError, match=r"g.onnx was closed"):
        runner.run(feeds())


def test_symbols_become_sizes():
    assert shape_from_symbols(("2B", 77, "8h"), {"B": 3, "h": 2}) == (6, 77, 16)
    with pytest.raises(BackendError, match="has no size"):
        shape_from_symbols(("2B",), {})
    with pytest.raises(BackendError, match="cannot be read"):
        shape_from_symbols(("B+1",), {"B": 1})


def pool(*, keep):
    loads = []

    def load(bundle, graph):
        loads.append(graph)
        return Recorder(graph, SPEC)

    return RunnerPool(SimpleNamespace(load=load), SimpleNamespace(), keep=keep), loads


def test_a_pool_keeps_runners():
    runners, loads = pool(keep=True)
    for _ in range(2):
        with runners.borrow("a") as runner:
            pass
    assert loads == ["a"]
    runners.close()
    assert runner.closed == 1


def test_a_pool_short_of_memory_closes_a_runner_when_nobody_holds_it():
    runners, loads = pool(keep=False)
    with runners.borrow("a") as outer:
        with runners.borrow("a") as inner:
            assert inner is outer
        assert outer.closed == 0
    assert outer.closed == 1
    with runners.borrow("a") as again:
        assert again is not outer
    assert loads == ["a", "a"]


def test_unknown_backends_and_options_are_messages():
    with pytest.raises(InvalidRequest, match=r"unknown backend .* got 'cuda' .* onnxruntime"):
        open_backend("cuda")
    with pytest.raises(InvalidRequest, match=r"num_threads is too small .* got 0"):
        open_backend("onnxruntime", num_threads=0)
    with pytest.raises(InvalidRequest, match=r"unknown provider .* got 'tpu'"):
        open_backend("onnxruntime", provider="tpu")


BARE = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked by the test")

sys.meta_path.insert(0, Blocked())
import fam_runtime
for module in pkgutil.walk_packages(fam_runtime.__path__, "fam_runtime."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert fam_runtime.FamPipeline and fam_runtime.Bundle and fam_runtime.FamError
"""

HEAVY = ("torch", "diffusers", "transformers", "onnx", "fam_graph", "fam_export", "fam_bench")
LAZY = ("onnxruntime", "tokenizers", "PIL", "safetensors", "tqdm", "tensorrt", "cuda")


def test_every_module_imports_with_numpy_alone():
    script = BARE.format(blocked=set(HEAVY + LAZY))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_missing_onnxruntime_says_what_to_install():
    script = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from fam_runtime.backends import open_backend\n"
        "from fam_runtime.errors import BackendError\n"
        "try:\n    open_backend('onnxruntime')\n"
        "except BackendError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "pip install fam-diffusion[cpu]" in done.stdout


def test_registered_backends_exist():
    for name, where in BACKENDS.items():
        module, _, attribute = where.partition(":")
        assert getattr(importlib.import_module(module), attribute).name == name


def test_an_option_of_another_backend_is_refused():
    with pytest.raises(InvalidRequest, match="onnxruntime backend has no such option.*strip_weig"):
        open_backend("onnxruntime", strip_weights=True)
