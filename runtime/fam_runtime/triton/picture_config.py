"""`config.pbtxt` of the models that clients ask for pictures."""

from __future__ import annotations

from fam_runtime.triton.config_text import Comment, Field, Keyword, text_from_message
from fam_runtime.triton.interface import INPUTS, OUTPUTS, STREAMED, ServedTensor
from fam_runtime.triton.model_head import ModelHead
from fam_runtime.triton.options import MAX_QUEUE_TIMEOUT_S, RepositoryOptions
from fam_runtime.triton.warmup import WarmupSample, warmup_fields

MEMORY_RESOURCE = "gpu_memory_mib"
"""What the rate limiter counts; the server is told how much of it a GPU has."""

_HEAD = """\
Written by fam-triton. docs/triton.md of the toolkit explains every section; write the repository
again with other options rather than editing this file."""

_BATCHING = """\
Requests wait here for an instance. Those that are equal but for texts and seeds go through the
graphs together, up to max_batch_size."""

_QUEUE_POLICY = """\
The queue policy costs up to half a second between queued pictures in servers of 2.51: with one, the
server hands the next request over only when it looks again."""

_RESPONSE_CACHE = """\
Triton's own response_cache stays off: it would answer a repeated mistake with an empty success.
The model keeps finished pictures itself (parameter response_cache_bytes)."""


def picture_config(
    name: str,
    head: ModelHead,
    options: RepositoryOptions,
    samples: tuple[WarmupSample, ...],
    *,
    decoupled: bool,
    parameters: dict[str, str],
) -> str:
    """The configuration of a picture model.

    Args:
        name: of the model.
        head: whose it is.
        options: of the repository.
        samples: requests that are made before the model is ready.
        decoupled: it streams its progress.
        parameters: read by the model.
    """
    message: list[Field] = [
        Comment(head.comment),
        Comment(_HEAD),
        ("name", name),
        ("backend", "python"),
        ("max_batch_size", options.pictures_per_batch),
        *(("input", _tensor(tensor, optional=tensor.optional)) for tensor in INPUTS),
        *(("output", _tensor(tensor)) for tensor in OUTPUTS),
    ]
    if decoupled:
        message += [("output", _tensor(tensor)) for tensor in STREAMED]
        message.append(("model_transaction_policy", [("decoupled", True)]))
    computes = options.layout == "pipeline"
    message += [
        ("instance_group", instance_group(options, options.instances, computes=computes)),
        Comment(_BATCHING),
        ("dynamic_batching", _dynamic_batching(options)),
        version_policy(options.keep_versions),
        *warmup_fields(samples),
        Comment(_RESPONSE_CACHE),
        *parameter_fields(parameters),
    ]
    return text_from_message(message)


def instance_group(options: RepositoryOptions, count: int, *, computes: bool) -> list[Field]:
    """Where instances are, how many on each device, and what a run takes of the rate limiter."""
    on_gpu = computes and options.on_gpu
    fields: list[Field] = [
        ("count", count),
        ("kind", Keyword("KIND_GPU" if on_gpu else "KIND_CPU")),
    ]
    if on_gpu:
        fields += [("gpus", gpu) for gpu in options.gpus]
    if computes and options.memory_per_run_mib:
        resource: list[Field] = [
            ("name", MEMORY_RESOURCE),
            ("count", options.memory_per_run_mib),
        ]
        fields.append(("rate_limiter", [("resources", resource)]))
    return fields


def version_policy(count: int) -> Field:
    """The newest `count` versions are served; older ones may stay in the repository."""
    return ("version_policy", [("latest", [("num_versions", count)])])


def parameter_fields(parameters: dict[str, str]) -> list[Field]:
    """Parameters, which the backend passes to the model as text."""
    return [
        ("parameters", [("key", key), ("value", [("string_value", value)])])
        for key, value in parameters.items()
    ]


def _tensor(tensor: ServedTensor, *, optional: bool = False) -> list[Field]:
    fields: list[Field] = [
        ("name", tensor.name),
        ("data_type", Keyword(f"TYPE_{tensor.type}")),
        *(("dims", size) for size in tensor.shape),
    ]
    return [*fields, ("optional", True)] if optional else fields


def _dynamic_batching(options: RepositoryOptions) -> list[Field]:
    fields: list[Field] = []
    if options.pictures_per_batch > 1:
        fields = [
            ("preferred_batch_size", options.pictures_per_batch),
            ("max_queue_delay_microseconds", options.batch_delay_us),
        ]
    if options.queue_size is None and options.queue_timeout_s is None:
        return fields
    policy: list[Field] = [
        ("timeout_action", Keyword("REJECT")),
        # A client's own time counts only where it is shorter than this, and 0 has nothing below.
        (
            "default_timeout_microseconds",
            round((options.queue_timeout_s or MAX_QUEUE_TIMEOUT_S) * 1e6),
        ),
        ("allow_timeout_override", True),
        ("max_queue_size", options.queue_size or 0),
    ]
    return [*fields, Comment(_QUEUE_POLICY), ("default_queue_policy", policy)]
