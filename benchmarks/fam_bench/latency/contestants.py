"""Who computes: the contestants of the benchmark, and what each of them can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fam_runtime.backends.registry import ENGINE_BACKENDS

Device = Literal["cpu", "cuda"]
Kind = Literal[
    "native",
    "native_plain",
    "target",
    "target_at_zero",
    "without_am",
    "plain",
    "picture",
    "direct",
]
"""What is timed: a step, or a whole picture.

`native` is the native step with its taps and `native_plain` the same without; `target` the step
with FM and AM, `target_at_zero` the same graph with both weights 0, `without_am` one with FM alone
and `plain` one with neither; `picture` is both stages, and `direct` a picture by direct inference.
"""

Way = Literal["runtime", "torch", "literal", "openvino", "cpp", "triton"]
"""By what a contestant is driven."""

NATIVE_STEPS: tuple[Kind, ...] = ("native", "native_plain")
"""They are the same for all targets of a bundle; their scale is 1."""

TARGET_STEPS: tuple[Kind, ...] = ("target", "plain", "without_am", "target_at_zero")
"""Steps, in the order in which they are loaded: what is compared lies side by side."""

STEP_KINDS = (*NATIVE_STEPS, *TARGET_STEPS)
PICTURE_KINDS: tuple[Kind, ...] = ("picture", "direct")
EVERY_KIND = (*STEP_KINDS, *PICTURE_KINDS)


@dataclass(frozen=True)
class Contestant:
    """Who computes.

    Attributes:
        name: as ``--contestants`` takes it.
        title: in tables.
        way: by what it is driven.
        devices: of the benchmark, on which it takes part.
        backend: of the runtime; empty for others.
        provider: of ONNX Runtime.
        kinds: what it does.
        needs_checkpoint: it computes with the checkpoint's modules, not with the bundle's graphs.
    """

    name: str
    title: str
    way: Way
    devices: tuple[Device, ...]
    backend: str = ""
    provider: str = ""
    kinds: tuple[Kind, ...] = EVERY_KIND
    needs_checkpoint: bool = False

    @property
    def builds_engines(self) -> bool:
        """Whether it takes minutes, and memory, to build what it then loads from a cache."""
        return self.backend in ENGINE_BACKENDS

    def is_slow_beside_a_gpu(self, device: Device) -> bool:
        """Whether its results are wanted and its time is lost: the CPU on a machine with a GPU."""
        return device == "cuda" and self.provider == "cpu"


LITERAL, EAGER, COMPILED = "torch-literal", "torch-eager", "torch-compile"
ONNXRUNTIME_CPU = "onnxruntime-cpu"
ANYWHERE: tuple[Device, ...] = ("cpu", "cuda")
WHOLE_PICTURES: tuple[Kind, ...] = ("picture",)
COMPILED_KINDS = tuple(kind for kind in EVERY_KIND if kind not in ("target_at_zero", "without_am"))
"""What FM costs apart is known from PyTorch as it is; a module more takes a minute to compile."""

CONTESTANTS: tuple[Contestant, ...] = (
    Contestant(
        LITERAL,
        "literal reference, fp32",
        "literal",
        ANYWHERE,
        kinds=("native", "target", "picture"),
        needs_checkpoint=True,
    ),
    Contestant(EAGER, "PyTorch eager", "torch", ANYWHERE, needs_checkpoint=True),
    Contestant(
        COMPILED, "torch.compile", "torch", ANYWHERE, kinds=COMPILED_KINDS, needs_checkpoint=True
    ),
    Contestant(
        ONNXRUNTIME_CPU, "ONNX Runtime, CPU", "runtime", ANYWHERE, "onnxruntime", provider="cpu"
    ),
    Contestant("openvino", "OpenVINO, CPU", "openvino", ("cpu",)),
    Contestant(
        "onnxruntime-cuda", "ONNX Runtime, CUDA", "runtime", ("cuda",), "onnxruntime", "cuda"
    ),
    Contestant("tensorrt", "TensorRT", "runtime", ("cuda",), "tensorrt"),
    Contestant("tensorrt-rtx", "TensorRT for RTX", "runtime", ("cuda",), "tensorrt-rtx"),
    Contestant("cpp", "libfam (C++)", "cpp", ANYWHERE, kinds=WHOLE_PICTURES),
    Contestant("triton", "Triton server", "triton", ("cpu",), kinds=WHOLE_PICTURES),
)
"""In the order of tables; results are compared with those of the first that has them."""

BY_NAME = {contestant.name: contestant for contestant in CONTESTANTS}
