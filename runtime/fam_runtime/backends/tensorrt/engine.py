"""A plan, deserialised: an engine with the one context that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fam_runtime.backends.tensorrt.cache import CachedPlan, EngineCache
from fam_runtime.backends.tensorrt.library import TensorrtLibrary
from fam_runtime.backends.tensorrt.messages import Messages
from fam_runtime.backends.tensorrt.monitor import stop_on_interrupt
from fam_runtime.backends.tensorrt.network import (
    check_tensors,
    dtype_name,
    expected_tensors,
    parser_errors,
)
from fam_runtime.backends.tensorrt.scratch import Scratch
from fam_runtime.backends.tensorrt.shapes import SymbolRanges
from fam_runtime.errors import BackendError, OutOfMemory

if TYPE_CHECKING:
    from fam_runtime.bundle import GraphSpec
    from fam_runtime.device.tensor import DeviceTensor

_TRY = (
    "end other programs that use the GPU; if it stays in every new process, try another version of "
    "the library or the onnxruntime backend"
)


class Engine:
    """An engine that runs on one stream, one call at a time.

    Args:
        library: who built it.
        plan: from the cache, whose bytes were verified.
        graph: name of the graph's file, for messages.
        spec: its inputs and outputs.
        ranges: sizes of the symbols that it was built for.
        onnx: the graph's file, for the weights of a stripped plan; None: the plan has them.
        cache: keeps the kernels that TensorRT for RTX compiles when it first runs.
        scratch: memory for the tensors inside the graph.

    Raises:
        BackendError: the library refuses the plan, or it is not of this graph.
    """

    def __init__(
        self,
        library: TensorrtLibrary,
        plan: CachedPlan,
        graph: str,
        spec: GraphSpec,
        ranges: SymbolRanges,
        onnx: Path | None,
        cache: EngineCache,
        scratch: Scratch,
    ) -> None:
        self.graph, self.ranges = graph, ranges
        self._library, self._cache, self._plan_name = library, cache, plan.name
        self._scratch, self._messages = scratch, Messages(library)
        self._runtime: Any = library.module.Runtime(self._messages.logger)
        self._kernels: Any = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._has_run = False
        with stop_on_interrupt() as stop:
            self._engine: Any = self._runtime.deserialize_cuda_engine(plan.data)
            if self._engine is None:
                raise self._error("cannot be loaded", fix=self._build_again)
            self._check_tensors(spec)
            if onnx is not None:
                self._refit(onnx)
            self._context = self._new_context()
        stop.raise_if_any(f"loading the engine of {graph}")
        scratch.join(self._context, int(self._engine.device_memory_size_v2))

    def capturable(self, stream: int) -> bool:
        """Whether its work can be captured in a CUDA graph: hoped for until it has run once."""
        asked = getattr(self._context, "is_stream_capturable", None)
        return True if asked is None or not self._has_run else bool(asked(stream))

    def enqueue(self, values: Mapping[str, DeviceTensor], stream: int) -> None:
        """Put one run on `stream`, without waiting.

        Args:
            values: every input and every output, by name.
            stream: a CUDA stream's handle.

        Raises:
            BackendError: the library refuses.
        """
        self._scratch.check()
        context = self._context
        self._set_shapes(values)
        for name, tensor in values.items():
            if not context.set_tensor_address(name, tensor.address):
                raise self._error(f"refuses the memory of {name}")
        if self._has_run:
            done = context.execute_async_v3(stream)
        else:  # TensorRT for RTX compiles kernels now
            with stop_on_interrupt() as stop:
                done = context.execute_async_v3(stream)
            stop.raise_if_any(f"the first run of {self.graph}")
        if not done:
            raise self._error("failed")
        self._has_run = True

    def _set_shapes(self, values: Mapping[str, DeviceTensor]) -> None:
        shapes = {name: values[name].shape for name in self._dynamic_inputs}
        if shapes == self._shapes:
            return
        if self._shapes:
            self._scratch.before_moving()  # what was captured relies on the context as it was
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise self._error(f"refuses the shape {shape} of {name}")
        self._shapes = shapes

    def close(self) -> None:
        """Keep the kernels compiled meanwhile, and free the engine's memory."""
        kernels = b"" if self._kernels is None else bytes(self._kernels.serialize() or b"")
        self._scratch.leave(self._context)
        # In this order: a context belongs to its engine, an engine to its runtime.
        self._context = self._kernels = None
        self._engine = None
        self._runtime = None
        self._cache.keep_kernels(self._plan_name, kernels)

    def _check_tensors(self, spec: GraphSpec) -> None:
        engine, trt = self._engine, self._library.module
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {
            name: (name, dtype_name(engine.get_tensor_dtype(name)), tuple(shape))
            for name in names
            for shape in [engine.get_tensor_shape(name)]
        }
        modes = {name: engine.get_tensor_mode(name) for name in names}
        for kind, expected, mode in (
            ("input", spec.inputs, trt.TensorIOMode.INPUT),
            ("output", spec.outputs, trt.TensorIOMode.OUTPUT),
        ):
            order = [s.name for s in expected]
            tensors = [found[n] for n in order if n in found and modes[n] == mode]
            tensors += [found[n] for n in names if n not in order and modes[n] == mode]
            what = f"engine of {self.graph}: an {kind}"
            check_tensors(what, expected_tensors(expected, self.ranges), tensors, self._build_again)
        inputs = {s.name for s in spec.inputs}
        self._dynamic_inputs = {name for name in inputs if -1 in found[name][2]}

    def _refit(self, onnx: Path) -> None:
        """Give a stripped plan the weights of the graph, from the bundle's own files."""
        trt = self._library.module
        refitter = trt.Refitter(self._engine, self._messages.logger)
        parser = trt.OnnxParserRefitter(refitter, self._messages.logger)
        done = parser.refit_from_file(str(onnx)) and refitter.refit_cuda_engine()
        missing = refitter.get_missing_weights()
        if not done or missing:
            raise self._error(
                f"cannot be filled with weights; missing: {missing[:5]}; {parser_errors(parser)}",
                fix="leave --strip-weights out",
            )

    def _new_context(self) -> Any:
        """TensorRT for RTX compiles kernels for the shapes in use; those of earlier runs help."""
        trt = self._library.module
        by_us = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._library.builds_ahead_of_time:
            context = self._engine.create_execution_context(by_us)
        else:
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(by_us)
            # Specialised kernels at once: a capture would keep the general ones for ever.
            strategy = trt.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
            config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # we capture ourselves
            self._kernels = config.create_runtime_cache()
            if self._kernels is not None:
                if kept := self._cache.kernels(self._plan_name):
                    self._kernels.deserialize(kept)  # False: of another driver; compiled anew
                config.set_runtime_cache(self._kernels)
            context = self._engine.create_execution_context(config)
        if context is None:
            raise self._error(
                "has no memory to run",
                fix="use a smaller target or batch, or free memory on the GPU",
            )
        return context

    @property
    def _build_again(self) -> str:
        return f"delete {self._cache.store.root / self._plan_name}, and it is built again"

    def _error(self, what: str, fix: str = _TRY) -> BackendError:
        said = self._messages.last().lower().replace(" ", "")
        kind = OutOfMemory if "outofmemory" in said else BackendError
        return kind(
            f"{self._library.title}: the engine of {self.graph} {what}",
            got=self._messages.last(),
            expected="a working engine",
            fix=fix,
        )
