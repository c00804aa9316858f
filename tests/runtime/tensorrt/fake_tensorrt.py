"""A TensorRT whose engines run in ONNX Runtime on the memory of a fake device.

Only what the runtime calls is there, under the library's own names. A "plan" says which graph it
is of; a context refuses to run before every tensor has an address and its scratch memory is set.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from fam_runtime.backends.checks import bind_shape, shape_from_symbols
from fam_runtime.backends.tensorrt.build import BuildRequest, BuiltPlan
from fam_runtime.bundle import Bundle, TensorSpec
from fam_runtime.device.tensor import DeviceTensor
from tests.runtime.device.fake_device import FakeDeviceApi, OnnxGraph

SCRATCH_BYTES = 4096
"""Of the smallest engine; others take more."""
NAMES_OF_DTYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16", "int64": "INT64"}


class Severity(Enum):
    INTERNAL_ERROR = 0
    ERROR = 1


class ILogger:
    Severity = Severity


class TensorIOMode(Enum):
    INPUT = 0
    OUTPUT = 1


class Strategy(Enum):
    STATIC = 0
    USER_MANAGED = 1
    DISABLED = 2
    EAGER = 3


class DataType(Enum):
    FLOAT = 0
    HALF = 1
    BF16 = 2
    INT64 = 3


def fake_build(request: BuildRequest, **_: object) -> BuiltPlan:
    """A plan that says what it was built from; graphs are found by the bundle's folder."""
    root = Path(str(request.path).removesuffix(request.graph))
    ranges = {symbol: list(span) for symbol, span in request.ranges.items()}
    plan = {"root": str(root), "graph": request.graph, "ranges": ranges}
    return BuiltPlan(json.dumps({**plan, "flags": request.flags}).encode(), 1.0)


@dataclass
class FakeTensorrt:
    """The module.

    Args:
        api: the device.
        rename_output: the engines' first output has another name.
        refuse_plans, fail_runs: what the library then does.
        refuse: ``"shapes"``, ``"addresses"``, ``"weights"`` or ``"contexts"``.
    """

    api: FakeDeviceApi
    rename_output: bool = False
    refuse_plans: bool = False
    fail_runs: bool = False
    refuse: str = ""
    refitted: list[str] = field(default_factory=list)
    alive: list[Context] = field(default_factory=list)
    kernels_given: list[bytes] = field(default_factory=list)

    ILogger = ILogger
    TensorIOMode = TensorIOMode
    ExecutionContextAllocationStrategy = Strategy
    CudaGraphStrategy = Strategy
    DynamicShapesKernelSpecializationStrategy = Strategy

    def Runtime(self, logger: Any) -> Any:
        return FakeRuntime(self, logger)

    def Refitter(self, engine: Engine, logger: Any) -> Refitter:
        return Refitter(self, engine)

    def OnnxParserRefitter(self, refitter: Refitter, logger: Any) -> Refitter:
        return refitter


@dataclass
class FakeRuntime:
    trt: FakeTensorrt
    logger: Any

    def deserialize_cuda_engine(self, data: Any) -> Engine | None:
        if self.trt.refuse_plans:
            self.logger.log(Severity.ERROR, "a plan of another\nversion")
            return None
        return Engine(self.trt, json.loads(bytes(data)), self.logger)


class Engine:
    def __init__(self, trt: FakeTensorrt, plan: dict[str, Any], logger: Any) -> None:
        self.trt, self.plan, self.logger = trt, plan, logger
        self.bundle = Bundle.unchecked(plan["root"])
        self.spec = self.bundle.manifest.graphs[plan["graph"]]
        self.tensors = [*self.spec.outputs, *self.spec.inputs]  # in an order of its own
        self.stripped = "STRIP_PLAN" in plan["flags"]

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    @property
    def device_memory_size_v2(self) -> int:
        """The wider target needs most."""
        return SCRATCH_BYTES * len(self.tensors) * (100 if "128x256" in self.plan["graph"] else 1)

    def get_tensor_name(self, index: int) -> str:
        name = self.tensors[index].name
        return "renamed" if self.trt.rename_output and index == 0 else name

    def _of(self, name: str) -> TensorSpec:
        return next((t for t in self.tensors if t.name == name), self.tensors[0])

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[NAMES_OF_DTYPES[self._of(name).dtype]]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if self._of(name) in self.spec.inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """-1 for what has a range."""
        low, high = ({s: span[i] for s, span in self.plan["ranges"].items()} for i in (0, 2))
        shape = self._of(name).shape
        pairs = zip(shape_from_symbols(shape, low), shape_from_symbols(shape, high), strict=True)
        return tuple(a if a == b else -1 for a, b in pairs)

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self.trt)

    def create_execution_context(self, choice: Any) -> Context | None:
        if self.trt.refuse == "contexts":
            return None
        assert choice is Strategy.USER_MANAGED or choice.strategy is Strategy.USER_MANAGED
        assert not self.stripped or self.plan["graph"] in self.trt.refitted, "it has no weights"
        context = Context(self)
        self.trt.alive.append(context)
        return context


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.runs = engine, 0
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.scratch: tuple[int, int] | None = None
        self.shape_version = 0
        self._graph = OnnxGraph(
            engine.trt.api,
            engine.bundle,
            engine.plan["graph"],
            every_output=True,
            capturable=True,
        )

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        self.scratch = address, size

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        self.shape_version += 1
        return self.engine.trt.refuse != "shapes"

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        known = name in {t.name for t in self.engine.tensors}
        return known and self.engine.trt.refuse != "addresses"

    def is_stream_capturable(self, stream: int) -> bool:
        return self.runs > 0

    def execute_async_v3(self, stream: int) -> bool:
        engine = self.engine
        if engine.trt.fail_runs:
            engine.logger.log(Severity.ERROR, "an illegal memory access")
            return False
        assert stream == engine.trt.api.stream
        assert self.scratch is not None, "no scratch memory"
        engine.trt.api.view(*self.scratch)  # still allocated
        sizes: dict[str, int] = {}
        for spec in engine.spec.inputs:
            given = self.shapes.get(spec.name, engine.get_tensor_shape(spec.name))
            assert bind_shape(spec.shape, given, sizes), f"{spec.name} has no shape"
        for symbol, (low, _, high) in engine.plan["ranges"].items():
            assert low <= sizes.get(symbol, low) <= high
        version = self.shape_version

        def refuse_stale(call: Any, action: Any) -> None:
            def checked() -> None:
                assert self.shape_version == version, "captured at other shapes"
                action()

            submit(call, checked)

        api, submit = engine.trt.api, engine.trt.api.submit
        api.submit = refuse_stale  # type: ignore[method-assign]
        try:
            self._run(sizes)
        finally:
            api.submit = submit  # type: ignore[method-assign]
        self.runs += 1
        return True

    def _run(self, sizes: dict[str, int]) -> None:
        engine = self.engine
        self._graph.enqueue(
            {
                t.name: DeviceTensor(
                    self.addresses[t.name], shape_from_symbols(t.shape, sizes), t.dtype
                )
                for t in engine.tensors
            }
        )


class RuntimeConfig:
    def __init__(self, trt: FakeTensorrt) -> None:
        self.trt = trt
        self.strategy: Strategy | None = None

    def set_execution_context_allocation_strategy(self, strategy: Strategy) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache(self.trt)

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        return True


@dataclass
class RuntimeCache:
    trt: FakeTensorrt

    def deserialize(self, data: bytes) -> bool:
        self.trt.kernels_given.append(bytes(data))
        return True

    def serialize(self) -> bytes:
        return b"kernels compiled in this run"


@dataclass
class Refitter:
    trt: FakeTensorrt
    engine: Engine

    def refit_from_file(self, path: str) -> bool:
        assert path.endswith(self.engine.plan["graph"])
        self.trt.refitted.append(self.engine.plan["graph"])
        return True

    def refit_cuda_engine(self) -> bool:
        return True

    def get_missing_weights(self) -> list[str]:
        return ["conv_in.weight"] if self.trt.refuse == "weights" else []

    @property
    def num_errors(self) -> int:
        return 0
