"""Values on a device: memory that frees itself, types that NumPy lacks, runs without a wait."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest

from fam_runtime import FamPipeline, contract
from fam_runtime.bundle import NATIVE_GRAPH, Bundle
from fam_runtime.device.place import DevicePlace
from fam_runtime.device.runner import DeviceRunner
from fam_runtime.device.tensor import DeviceTensor
from fam_runtime.errors import BackendError
from fam_runtime.sampler import PictureNoise, Sampling, native_program
from fam_runtime.schedulers import NoiseSchedule, make_plan
from fam_runtime.stage_program import ReplayedAttention, Unwatched
from tests.runtime.device.conftest import latents, same
from tests.runtime.device.fake_device import FakeDeviceApi, FakeDeviceBackend
from tests.runtime.fake_bundle import LAYER

DECODER = "vae_decoder/model.onnx"


def test_memory_is_kept_for_the_next_and_given_back():
    api = FakeDeviceApi()
    first = api.memory.tensor((3,), "float32")
    address = first.address
    del first
    assert api.memory.cached_bytes == 256
    again, other = api.memory.tensor((5, 5), "float16"), api.memory.tensor((1,), "int64")
    assert again.address == address != other.address
    assert api.memory.cached_bytes == 0
    del again
    api.memory.trim()
    assert list(api.sizes) == [other.address]
    api.close()  # frees what is still held, and what is given back later is no memory any more
    api.assert_empty()
    del other
    assert api.memory.cached_bytes == 0


def test_memory_that_nobody_uses_is_given_up_before_there_is_too_little():
    api = FakeDeviceApi(total_bytes=1024)
    api.memory.tensor((256,), "bool")
    assert api.memory.cached_bytes == 256
    large = api.memory.tensor((1024,), "bool")
    with pytest.raises(BackendError, match="out of memory"):
        api.memory.tensor((1,), "bool")
    del large


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
def test_arrays_come_back_as_they_went(dtype):
    place = DevicePlace(FakeDeviceApi)
    for array in (
        np.arange(24).reshape(2, 3, 4)[:, ::2],
        np.array(3),
        np.asfortranarray(np.eye(3)),
    ):
        array = array.astype(dtype)
        value = place.upload(array)
        assert (value.shape, value.dtype) == (array.shape, dtype)
        back = place.download(value)
        assert back.dtype == dtype
        assert np.array_equal(back, array)
    assert not place.download(place.zeros((3, 2), dtype)).any()
    assert place.download(array) is array


def test_bfloat16_stays_on_the_device():
    api = FakeDeviceApi()
    place = DevicePlace(lambda: api)
    zeros = place.zeros((2, 3), "bfloat16")
    assert isinstance(zeros, DeviceTensor)
    assert (zeros.dtype, zeros.nbytes) == ("bfloat16", 12)
    assert not api.view(zeros.address, 12).any()
    with pytest.raises(BackendError, match="brought to the host .* 'bfloat16' .* NumPy"):
        place.download(zeros)


def test_bundles_in_bfloat16_run(on_device, on_cpu, bundle_root):
    """The taps are bfloat16: rounded from what the same bundle in float32 gives."""
    device = on_device(bundle_root(dtype="bf16"))
    stored, replayed = (latents(device.pipe, native_attention=m) for m in ("store", "replay"))
    exact = latents(on_cpu(bundle_root(dtype="fp32")))
    assert same(stored, replayed)
    assert 0 < abs(stored - exact).max() < 1e-2
    assert same(latents(device.pipe, method="fm"), latents(on_cpu(), method="fm"))  # uses no tap

    latents(device.pipe, native_attention="store")
    native = device.api.runs(NATIVE_GRAPH)[-1]
    feeds = {
        spec.name: device.api.read(native.values[spec.name])
        for spec in device.pipe.bundle.manifest.graphs[NATIVE_GRAPH].inputs
    }
    taps = contract.tap_names(LAYER, "qk")
    cpu = on_cpu(bundle_root(dtype="fp32"))
    with cpu._pool.borrow(NATIVE_GRAPH) as runner:
        for name, exact in runner.run(feeds, taps).items():
            tap = native.values[name]
            assert tap.dtype == "bfloat16"
            halves = device.api.view(tap.address, tap.nbytes).view(np.uint16).astype(np.uint32)
            widened = (halves << 16).view(np.float32).reshape(tap.shape)
            assert abs(widened - exact).max() <= abs(exact).max() * 2**-8
            assert widened.any()


def test_a_runner_uploads_arrays_and_waits_for_nobody(bundle_root):
    bundle, backend = Bundle.open(bundle_root()), FakeDeviceBackend()
    api = backend.api
    latent = np.random.default_rng(0).standard_normal((1, 4, 6, 5)).astype(np.float32)
    with FamPipeline.from_pretrained(bundle_root(), progress=False) as cpu:
        expected = cpu._pool.backend.load(bundle, DECODER).run({contract.LATENT: latent})
    runner = backend.load(bundle, DECODER)
    first = runner.run({contract.LATENT: latent})[contract.IMAGE]
    second = runner.run({contract.LATENT: backend.upload(2 * latent)})[contract.IMAGE]
    assert not api.named("synchronize", "wait_for_event", "copy_to_host")
    assert first.address != second.address  # the first one's values belong to the caller
    assert np.array_equal(backend.download(first), expected[contract.IMAGE])
    with pytest.raises(BackendError, match="latent has the wrong shape"):
        runner.run({contract.LATENT: backend.zeros((1, 5, 6, 5), "float32")})
    with pytest.raises(BackendError, match="latent has the wrong dtype .* 'bfloat16'"):
        runner.run({contract.LATENT: backend.zeros((1, 4, 6, 5), "bfloat16")})
    api.calls.clear()
    runner.close()
    assert api.named("synchronize")  # an engine must not be freed at work
    assert runner.device_graph.closed
    backend.close()
    api.assert_empty()


def test_values_that_are_dropped_do_not_pile_up(on_device):
    device, sizes = on_device(), []
    for seed in range(4):
        device.pipe("a red ring", seed=seed)
        gc.collect()
        sizes.append(sum(device.api.sizes.values()))
    assert len(set(sizes[1:])) == 1  # in the first call buffers grow, and what is cached goes


def test_what_does_not_fit_a_step_graph_is_named(bundle_root):
    """Addresses are bound without a look: the first step is checked like any run."""
    bundle, backend = Bundle.open(bundle_root()), FakeDeviceBackend()
    plan = make_plan("ddim", NoiseSchedule.from_config(bundle.manifest.noise_schedule), 2)

    class Noise:
        def normal(self, shape):
            return np.zeros(shape, np.float32)

    def program(**conditions):
        sampling = Sampling(plan, PictureNoise([Noise()]), Unwatched())
        return native_program(sampling, runner, conditions, (4, 8, 8))

    runner = backend.load(bundle, NATIVE_GRAPH)
    assert isinstance(runner, DeviceRunner)
    scale = {contract.GUIDANCE_SCALE: np.float32(2)}
    with pytest.raises(BackendError, match="wrong inputs .*missing .*prompt_embeds.*, unknown"):
        backend.stage_loop().run(program(**scale))
    wrong = {**scale, contract.PROMPT_EMBEDS: np.zeros((2, 76, 6), np.float32)}
    with pytest.raises(BackendError, match="prompt_embeds has the wrong shape"):
        backend.stage_loop().run(program(**wrong))
    assert not backend.api.runs()

    right = {**scale, contract.PROMPT_EMBEDS: np.zeros((2, 77, 6), np.float32)}
    first, second = program(**right), program(**right)
    result = backend.stage_loop().run(first)
    backend.stage_loop().run(second)
    replay = ReplayedAttention(first, result.latents, contract.tap_names(LAYER, "qk"))
    with pytest.raises(RuntimeError, match="not the last native stage"):
        backend.stage_loop().run(replace(second, stage="target", attention=replay))
    runner.close()
    backend.close()
