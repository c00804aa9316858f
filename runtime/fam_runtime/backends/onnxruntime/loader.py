"""From a graph file to an ONNX Runtime session."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fam_runtime.bundle import TENSOR_DTYPE_BYTES
from fam_runtime.errors import BackendError, BundleDamaged, InvalidRequest, OutOfMemory
from fam_runtime.free_memory import free_large_blocks_at_once

if TYPE_CHECKING:
    import onnxruntime

    from fam_runtime.bundle.manifest_parts import ModelDtype

Provider = Literal["cpu", "cuda"]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
LOG_NOTHING_BUT_CRASHES = 4
"""Errors reach the caller as exceptions; the library would print them as well."""

COPYING_OPTIMIZERS = ("NchwcTransformer", "FuseFp16InitializerToFp32NodeTransformer")
"""Optimizers of ONNX Runtime that copy weights: convolutions' into a blocked layout (with 240 MB of
them the process took 510 MB instead of 330), and every float16 weight into a float32 one."""

_TENSOR_ALIGNMENT_BYTES = 64
_MAX_SHARED_TENSORS = 1_000_000


def import_onnxruntime() -> Any:
    """The onnxruntime module.

    Raises:
        BackendError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            "the onnxruntime backend needs the onnxruntime package",
            got=f"{type(error).__name__}: {error}",
            expected="an installed onnxruntime",
            fix="pip install fam-diffusion[cpu] (or fam-diffusion[cuda] for a GPU)",
        ) from error
    onnxruntime.set_default_logger_severity(LOG_NOTHING_BUT_CRASHES)
    return onnxruntime


def new_run_options() -> Any:
    """Options of a run: silent, and, where the build can, without work for unwanted outputs.

    Raises:
        BackendError: onnxruntime is not installed.
    """
    options = import_onnxruntime().RunOptions()
    options.log_severity_level = LOG_NOTHING_BUT_CRASHES
    # A replayed native step wants the taps only. Builds for training skip what comes after them;
    # those for inference, which all packages are, compute it all the same.
    options.only_execute_path_to_fetches = True
    return options


@dataclass(frozen=True)
class SessionSettings:
    """How sessions are made.

    Attributes:
        provider: where the graphs run.
        num_threads: threads of an operator; None leaves it to ONNX Runtime (one per core).
        low_memory: weights stay in one memory-mapped file, shared by all sessions, without the
            copies in a faster layout that ONNX Runtime would make; memory is given back after
            each run. Less memory, and slower; products are summed in another order, so a colour
            may differ by 1 of 255 here and there. float16 weights are converted to float32 one at
            a time, where they are used, and not all at once.
    """

    provider: Provider = "cpu"
    num_threads: int | None = None
    low_memory: bool = False

    def __post_init__(self) -> None:
        if self.provider not in _PROVIDERS:
            raise InvalidRequest(
                "unknown provider of the onnxruntime backend",
                got=self.provider,
                expected=" or ".join(_PROVIDERS),
                fix="use cpu, the default",
            )
        if self.num_threads is not None and self.num_threads < 1:
            raise InvalidRequest(
                "num_threads is too small",
                got=self.num_threads,
                expected="at least 1, or None for one per core",
                fix="leave it out",
            )


def checked_provider(settings: SessionSettings) -> str:
    """ONNX Runtime's name of the provider.

    Raises:
        BackendError: onnxruntime is missing, or has no such provider.
    """
    runtime, provider = import_onnxruntime(), _PROVIDERS[settings.provider]
    if settings.provider == "cuda" and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()  # of NVIDIA's wheels, which no loader would find by itself
    available = runtime.get_available_providers()
    if provider not in available:
        raise BackendError(
            f"this onnxruntime has no {provider}",
            got=", ".join(available),
            expected=provider,
            fix="pip install fam-diffusion[cuda], or use provider='cpu'",
        )
    return provider


class SharedWeights:
    """Every tensor of ``unet/weights.bin`` as an ONNX Runtime value over one memory map.

    Args:
        weights: the file of tensors.
        index: ``weights.json``: name to dtype, shape, offset and bytes.

    Raises:
        BundleDamaged: the index cannot be read, or does not fit the file.
    """

    def __init__(self, weights: Path, index: Path) -> None:
        runtime = import_onnxruntime()
        try:
            entries = json.loads(index.read_text("utf-8"))
            self._memory = np.memmap(weights, dtype=np.uint8, mode="r")
        except (ValueError, RecursionError) as error:  # no JSON; an empty file cannot be mapped
            raise _bad_index(index, str(error)) from error
        if not isinstance(entries, dict) or len(entries) > _MAX_SHARED_TENSORS:
            raise _bad_index(index, type(entries).__name__)
        self._values = {
            name: runtime.OrtValue.ortvalue_from_numpy(self._tensor(index, name, entry))
            for name, entry in entries.items()
        }

    def add_to(self, options: onnxruntime.SessionOptions) -> None:
        """Make a session use these tensors instead of reading its own; unused ones are ignored."""
        for name, value in self._values.items():
            options.add_initializer(name, value)

    def _tensor(self, index: Path, name: str, entry: dict[str, Any]) -> np.ndarray[Any, Any]:
        try:
            if entry["dtype"] not in TENSOR_DTYPE_BYTES:
                raise ValueError("unknown dtype")
            dtype, shape = np.dtype(entry["dtype"]), tuple(map(int, entry["shape"]))
            offset, size = int(entry["offset"]), int(entry["bytes"])
            if (
                min(offset, size) < 0
                or offset % _TENSOR_ALIGNMENT_BYTES
                or offset + size > self._memory.size
            ):
                raise ValueError("outside of the file")
            return self._memory[offset : offset + size].view(dtype).reshape(shape)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _bad_index(index, f"{name}: {entry}") from error


def _bad_index(index: Path, got: str) -> BundleDamaged:
    return BundleDamaged(
        f"{index.name} does not describe the weights beside it",
        got=got,
        expected="name to dtype, shape, offset and bytes",
        fix="export the bundle again",
    )


class SessionFromOnnx:
    """Makes a session from a graph file when it is called.

    Args:
        path: the graph.
        settings: provider, threads, memory.
        weights: shared tensors for a UNet graph in low-memory mode.
        dtype: what the graph computes in.
        provider_options: of the provider, such as the device and the stream.
    """

    def __init__(
        self,
        path: Path,
        settings: SessionSettings,
        weights: SharedWeights | None = None,
        dtype: ModelDtype = "fp32",
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        self.path, self.settings, self.weights, self.dtype = path, settings, weights, dtype
        self.provider_options = dict(provider_options or {})

    def __call__(self) -> onnxruntime.InferenceSession:
        """Load the graph.

        Raises:
            BackendError: onnxruntime is missing or refuses the graph, or has no such provider.
        """
        runtime, provider = import_onnxruntime(), checked_provider(self.settings)
        try:
            session = runtime.InferenceSession(
                str(self.path),
                self._options(runtime),
                providers=[(provider, self.provider_options)],
                disabled_optimizers=COPYING_OPTIMIZERS if self.settings.low_memory else None,
                enable_fallback=0,  # it would be the CPU, without a word
            )
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise error_from_onnxruntime(
                f"onnxruntime cannot load {self.path.name}", error
            ) from error

        if provider not in session.get_providers():
            raise BackendError(
                f"onnxruntime lists {provider}, and cannot load it",
                got=", ".join(session.get_providers()),
                expected=provider,
                fix="install the CUDA and cuDNN libraries it was built for: pip install "
                "'onnxruntime-gpu[cuda,cudnn]'; or use provider='cpu'",
            )
        return session

    def _options(self, runtime: Any) -> onnxruntime.SessionOptions:
        options = runtime.SessionOptions()
        options.log_severity_level = LOG_NOTHING_BUT_CRASHES
        # Fixed, because the level decides which operators are fused and so the last bits.
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        # Threads that spin while they wait win a little on an idle machine and lose much on a busy
        # one (a demo step on 2 busy cores: 250 ms spinning, 150 ms waiting, 135 ms on one thread).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.settings.num_threads is not None:
            options.intra_op_num_threads = self.settings.num_threads
        if self.settings.low_memory:
            options.enable_cpu_mem_arena = False
            options.add_session_config_entry("session.disable_prepacking", "1")
            free_large_blocks_at_once()
            if self.dtype == "fp16":
                # By default all conversions of float16 weights run first, and their results wait:
                # measured with 120 MB of weights, 420 MB in that order and 200 MB in this one.
                # Not for others: the VAE's decoder took 1100 MB instead of 840.
                options.execution_order = runtime.ExecutionOrder.PRIORITY_BASED
            if self.weights is not None:
                self.weights.add_to(options)
        return options


def error_from_onnxruntime(what: str, error: Exception) -> BackendError:
    """What onnxruntime said, on one line, with advice where there is some."""
    text = " ".join(str(error).split())
    memory = any(word in text.lower() for word in ("alloc", "out of memory"))
    fix = (
        "use low_memory=True, a smaller size or a smaller tile"
        if memory
        else ("run fam-inspect on the bundle; if it is intact, try another onnxruntime version")
    )
    kind = OutOfMemory if memory else BackendError
    return kind(what, got=text[:500], expected="a successful call", fix=fix)
