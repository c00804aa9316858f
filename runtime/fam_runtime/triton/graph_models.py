"""The models that hold one graph each (layout `engines`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from fam_runtime.errors import BackendError
from fam_runtime.triton.bundle_parts import graphs_of_pictures
from fam_runtime.triton.config_text import Comment, Field, Keyword, text_from_message
from fam_runtime.triton.graph_config import BATCH, GraphTensor, can_batch, graph_io
from fam_runtime.triton.graph_names import model_names
from fam_runtime.triton.model_head import GRAPH_ROLE, ModelHead
from fam_runtime.triton.picture_config import instance_group, parameter_fields, version_policy
from fam_runtime.triton.runtime_parameters import runtime_parameters
from fam_runtime.triton.served_files import BUNDLE_FOLDER, ModelFolder, program
from fam_runtime.triton.warmup import graph_samples, warmup_fields

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle, GraphSpec
    from fam_runtime.triton.options import RepositoryOptions
    from fam_runtime.triton.other_versions import OtherVersions

_HEAD = """\
Written by fam-triton: the graph {graph} of a bundle, called by the model {base}."""

_NOT_BATCHED = """\
A step graph takes scalars, and two rows of text for each picture: only its caller can batch it."""


def graph_models(
    bundle: Bundle, options: RepositoryOptions, beside: OtherVersions
) -> tuple[ModelFolder, ...]:
    """A model for every graph that pictures need; see :func:`.models.models_of_bundle`.

    Raises:
        BackendError: the platform cannot run the bundle.
    """
    if bundle.manifest.model.dtype == "bf16":
        raise BackendError(
            "the layout engines cannot serve a bundle in bf16",
            got="bf16",
            expected="fp16 or fp32, which travel between models as NumPy arrays",
            fix="use the layout pipeline, or export with --dtype fp16",
        )
    names = model_names(options.name, graphs_of_pictures(bundle.manifest))
    make = {"python": _python_model, "onnxruntime": _onnxruntime_model}[options.engine_platform]
    return tuple(
        make(GraphPlan(bundle, options, beside, name, graph)) for graph, name in names.items()
    )


@dataclass(frozen=True)
class GraphPlan:
    """What decides a graph's model.

    Attributes:
        bundle: of the new version.
        options: of the repository.
        beside: versions that are served with the new one.
        name: of the model.
        graph: name of the graph's file.
    """

    bundle: Bundle
    options: RepositoryOptions
    beside: OtherVersions
    name: str
    graph: str

    @property
    def spec(self) -> GraphSpec:
        """Inputs and outputs."""
        return self.bundle.manifest.graphs[self.graph]

    @property
    def head(self) -> ModelHead:
        """Whose the model is."""
        return ModelHead.of(self.options, f"{GRAPH_ROLE} {self.graph}")

    @property
    def max_batch_size(self) -> int:
        """How many requests Triton joins; 0 where it joins none."""
        pictures = self.options.pictures_per_batch
        return pictures if pictures > 1 and can_batch(self.spec) else 0

    def fixed_sizes(self) -> dict[str, int]:
        """Symbols that have one size, whatever a client asks: memory is bounded by it."""
        sizes = {BATCH: 1} if self.options.pictures_per_batch == 1 else {}
        if self.graph == self.bundle.manifest.vae.decoder:
            tiles = self.beside.all_tiles(self.bundle.manifest, low_memory=self.options.low_memory)
            if len(tiles) == 1:
                sizes["h"], sizes["w"] = tiles[0]
        return sizes

    def warmup_sizes(self) -> tuple[dict[str, int], ...]:
        """Sizes of symbols that every version is run at."""
        if self.graph != self.bundle.manifest.vae.decoder:
            return ({BATCH: 1},)
        tiles = self.beside.common_tiles(self.bundle.manifest, low_memory=self.options.low_memory)
        return tuple({BATCH: 1, "h": height, "w": width} for height, width in tiles)


def _python_model(plan: GraphPlan) -> ModelFolder:
    """The thin Python model, on a part of the bundle that it verifies."""
    parameters = {
        "graph": plan.graph,
        "bundle": BUNDLE_FOLDER,
        "verify": plan.options.verify,
        **runtime_parameters(plan.options),
    }
    return ModelFolder(
        plan.name,
        plan.head,
        _config(plan, [("backend", "python")], parameters),
        version_files=program("graph_model"),
        bundle_part=plan.bundle.files_of_graph(plan.graph),
    )


def _onnxruntime_model(plan: GraphPlan) -> ModelFolder:
    """Triton's own backend, on the graph's files as they are."""
    files = {file: PurePosixPath(file).name for file in plan.bundle.files_of_graph(plan.graph)}
    backend: list[Field] = [
        ("backend", "onnxruntime"),
        ("default_model_filename", PurePosixPath(plan.graph).name),
    ]
    threads = plan.options.threads
    parameters = {} if threads is None else {"intra_op_thread_count": str(threads)}
    return ModelFolder(plan.name, plan.head, _config(plan, backend, parameters), bundle_files=files)


def _config(plan: GraphPlan, backend: list[Field], parameters: dict[str, str]) -> str:
    options, batch = plan.options, plan.max_batch_size
    message: list[Field] = [
        Comment(plan.head.comment),
        Comment(_HEAD.format(graph=plan.graph, base=options.name)),
        ("name", plan.name),
        *backend,
        *([] if can_batch(plan.spec) else [Comment(_NOT_BATCHED)]),
        ("max_batch_size", batch),
        *_tensors(plan),
        ("instance_group", instance_group(options, options.engine_instances, computes=True)),
    ]
    if batch:
        delay: list[Field] = [("max_queue_delay_microseconds", options.batch_delay_us)]
        message.append(("dynamic_batching", delay))
    if options.warmup:
        samples = graph_samples(plan.spec, plan.warmup_sizes(), batched=batch > 0)
        message += warmup_fields(samples)
    # One more than of the sampler: the newest sampler is loaded after the models that it calls.
    message += [version_policy(options.keep_versions + 1), *parameter_fields(parameters)]
    return text_from_message(message)


def _tensors(plan: GraphPlan) -> list[Field]:
    batched = plan.max_batch_size > 0
    inputs, outputs = graph_io(plan.spec, batched=batched, sizes=plan.fixed_sizes())
    return [
        *(("input", _tensor(tensor)) for tensor in inputs),
        *(("output", _tensor(tensor)) for tensor in outputs),
    ]


def _tensor(tensor: GraphTensor) -> list[Field]:
    return [
        ("name", tensor.name),
        ("data_type", Keyword(tensor.data_type)),
        *(("dims", size) for size in tensor.dims),
    ]
