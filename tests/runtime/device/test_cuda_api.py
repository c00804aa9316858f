"""The CUDA calls, without a GPU: against the installed package's signatures, and its own errors."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fam_runtime.device.cuda_api import CudaApi, open_cuda, use_device
from fam_runtime.device.staging import HALF_BYTES
from fam_runtime.errors import BackendError
from tests.runtime.device.stub_cuda import StubCuda

runtime = pytest.importorskip("cuda.bindings.runtime")


@pytest.fixture
def cuda():
    return StubCuda(runtime)


@pytest.fixture
def api(cuda):
    api = CudaApi(cuda)
    yield api
    api.close()
    assert not cuda.alive, "something was not destroyed"


def test_the_device_is_described(api):
    assert (api.device_name, api.compute_capability) == ("NVIDIA Stub", (8, 9))
    assert api.memory_bytes() == (3 << 20, 8 << 30)


def test_the_stream_is_one_and_not_the_legacy_one(api, cuda):
    assert api.stream == api.stream
    assert cuda.named("cudaStreamCreateWithFlags") == [(runtime.cudaStreamNonBlocking,)]
    api.close()
    assert not cuda.alive
    assert api.stream  # it may be used again


def test_arrays_travel_through_pinned_memory_and_back(api, cuda):
    """Larger than both halves of the staging memory, so that they are used in turn."""
    array = np.random.default_rng(0).integers(0, 256, 2 * HALF_BYTES + 5, np.uint8)
    address = api.allocate(array.nbytes)
    for content in (array, array[::-1].copy()):
        api.copy_to_device(address, content)
        back = np.empty_like(content)
        api.copy_to_host(back, address)
        assert np.array_equal(back, content)
    kinds = [arguments[3] for arguments in cuda.named("cudaMemcpyAsync")]
    up, down = (
        runtime.cudaMemcpyKind.cudaMemcpyHostToDevice,
        runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost,
    )
    assert kinds == [up, up, up, down] * 2
    sources = [arguments[1] for arguments in cuda.named("cudaMemcpyAsync")][:3]
    assert sources[0] == sources[2] != sources[1]
    assert len(cuda.named("cudaMallocHost")) == 1
    names = [name for name, _ in cuda.calls]
    # A half is written again only when the device has read it.
    assert len(cuda.named("cudaEventSynchronize")) == 4
    assert names.index("cudaEventSynchronize") > names.index("cudaEventRecord")
    assert names[len(names) - names[::-1].index("cudaMemcpyAsync") :] == ["cudaStreamSynchronize"]
    api.free(address)


def test_scalars_and_nothing_can_be_copied(api):
    address = api.allocate(256)
    api.copy_to_device(address, np.array(1.5, np.float32))
    back = np.zeros((), np.float32)
    api.copy_to_host(back, address)
    assert back == 1.5
    api.copy_to_device(address, np.zeros(0, np.float32))
    api.copy_to_host(np.zeros(0, np.float32), address)
    api.free(address)


def test_memory_is_copied_and_cleared_in_place(api, cuda):
    address = api.allocate(8)
    api.copy_to_device(address, np.arange(8, dtype=np.uint8))
    back = np.empty(8, np.uint8)
    api.copy_to_host(back, address)
    assert back.tolist() == list(range(8))
    api.fill_zero(address, 4)
    api.copy_to_host(back, address)
    assert back.tolist() == [0, 0, 0, 0, 4, 5, 6, 7]
    for name in ("cudaMemcpyAsync", "cudaMemsetAsync", "cudaEventRecord"):
        assert all(arguments[-1] == api.stream for arguments in cuda.named(name))
    api.free(address)


def test_work_is_captured_launched_and_timed(api, cuda):
    start = api.record_event()
    api.begin_capture()
    graph = api.end_capture()
    api.launch(graph)
    end = api.record_event()
    api.wait_for_event(end)
    assert api.elapsed_ms(start, end) == 1.5
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    assert cuda.named("cudaStreamBeginCapture") == [(api.stream, mode)]
    assert not [
        kind for kind, _ in cuda.alive if kind == "graph"
    ]  # only what can be launched stays
    api.destroy_graph(graph)
    api.destroy_event(start)  # the other one is left to close


@pytest.mark.parametrize("failing", ["cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_a_failed_capture_leaves_nothing(cuda, failing):
    cuda.fail[failing] = "cudaErrorStreamCaptureInvalidated"
    api = CudaApi(cuda)
    api.begin_capture()
    with pytest.raises(BackendError, match="capture.* 'cudaErrorStreamCaptureInvalidated: "):
        api.end_capture()
    api.close()
    assert not cuda.alive


def test_too_little_memory_says_what_was_asked_and_what_is_free(cuda):
    cuda.fail["cudaMalloc"] = "cudaErrorMemoryAllocation"
    api = CudaApi(cuda)
    with pytest.raises(
        BackendError,
        match=r"NVIDIA Stub has not enough memory left \| got '5 MiB were asked for' "
        r"\| expected at most 3 MiB, of 8192 \| low_memory=True, native_attention='replay'",
    ):
        api.allocate(5 << 20)
    assert cuda.named("cudaGetLastError")  # a later call would report it again


FALLIBLE = {
    "cudaFree": lambda api: api.free(api.allocate(8)),
    "cudaMalloc": lambda api: api.allocate(8),
    "cudaMallocHost": lambda api: api.copy_to_device(0, np.zeros(1)),
    "cudaMemcpyAsync": lambda api: api.copy_to_host(np.zeros(1), 8),
    "cudaMemsetAsync": lambda api: api.fill_zero(0, 8),
    "cudaStreamCreateWithFlags": lambda api: api.stream,
    "cudaStreamSynchronize": lambda api: (api.stream, api.synchronize()),
    "cudaStreamBeginCapture": lambda api: api.begin_capture(),
    "cudaGraphLaunch": lambda api: api.launch(1),
    "cudaGraphExecDestroy": lambda api: api.destroy_graph(1),
    "cudaEventCreate": lambda api: api.record_event(),
    "cudaEventRecord": lambda api: api.record_event(),
    "cudaEventSynchronize": lambda api: api.wait_for_event(1),
    "cudaEventElapsedTime": lambda api: api.elapsed_ms(1, 2),
    "cudaEventDestroy": lambda api: api.destroy_event(api.record_event()),
    "cudaMemGetInfo": lambda api: api.memory_bytes(),
}


@pytest.mark.parametrize("name", FALLIBLE)
def test_every_failure_is_a_message(cuda, name):
    api = CudaApi(cuda)
    cuda.fail[name] = "cudaErrorIllegalAddress"
    with pytest.raises(BackendError, match=r"the GPU could not .* 'cudaErrorIllegalAddress: an il"):
        FALLIBLE[name](api)
    cuda.fail.clear()
    api.close()
    assert not [kind for kind, _ in cuda.alive if kind != "memory"]


def test_closing_goes_on_where_cuda_repeats_an_error(cuda):
    """After an illegal address every call of the process fails; all is let go all the same."""
    api = CudaApi(cuda)
    held = api.memory.block(8)
    api.copy_to_device(held.address, np.zeros(1, np.float32))
    api.record_event()
    api.begin_capture()
    api.end_capture()
    for name in (*FALLIBLE, "cudaFreeHost", "cudaStreamDestroy", "cudaSetDevice"):
        cuda.fail[name] = "cudaErrorIllegalAddress"
    with pytest.raises(BackendError, match="start a new process"):
        api.close()
    tried = {name for name, _ in cuda.calls}
    assert {"cudaFree", "cudaFreeHost", "cudaEventDestroy", "cudaGraphExecDestroy"} <= tried
    assert "cudaStreamDestroy" in tried
    cuda.fail.clear()
    api.close()  # nothing is held any more


def test_the_device_is_made_current_in_every_thread(api, cuda):
    before = len(cuda.named("cudaSetDevice"))
    api.activate()
    assert cuda.named("cudaSetDevice")[before:] == [(0,)]


def test_no_driver_or_no_gpu_is_a_message(cuda):
    cuda.fail["cudaGetDeviceCount"] = "cudaErrorNoDevice"
    with pytest.raises(
        BackendError, match="no GPU that CUDA can use .* no CUDA-capable device .*CPU"
    ):
        CudaApi(cuda)
    if runtime.cudaGetDeviceCount()[0] != runtime.cudaError_t.cudaSuccess:
        with pytest.raises(
            BackendError, match="no GPU that CUDA can use .*install or update the dr"
        ):
            open_cuda()


def test_a_missing_package_says_what_to_install():
    script = (
        "import sys; sys.modules['cuda'] = None\n"
        "from fam_runtime.device.cuda_api import open_cuda\n"
        "from fam_runtime.errors import BackendError\n"
        "try:\n    open_cuda()\n"
        "except BackendError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "needs the cuda-python package" in done.stdout
    assert 'pip install "fam-diffusion[tensorrt]"' in done.stdout


def test_another_gpu_is_chosen_for_this_thread_or_refused(cuda):
    use_device(3, cuda)
    assert cuda.named("cudaSetDevice")[-1] == (3,)
    cuda.fail["cudaSetDevice"] = "cudaErrorInvalidDevice"
    with pytest.raises(BackendError, match="GPU 4 cannot be used .*invalid device ordinal"):
        use_device(4, cuda)
