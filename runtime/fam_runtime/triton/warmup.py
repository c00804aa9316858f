"""Requests that Triton makes before a model is ready: a one-step picture of every size.

They load the graphs, and find out whether the largest size fits in memory, before a client waits.
In the layout `engines` they are made by the models of the graphs instead: a server of 2.51 ends
when a model calls another one while it is being warmed up.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fam_runtime.triton.config_text import Field, Keyword
from fam_runtime.triton.graph_config import TRITON_TYPES, dims_of_shape
from fam_runtime.triton.interface import PROMPT, STEPS

if TYPE_CHECKING:
    from fam_runtime.bundle import GraphSpec, Target

WARMUP_FOLDER = "warmup"
"""Below the model's folder, where Triton looks for `input_data_file`."""

_PROMPT = b"a photograph"


@dataclass(frozen=True)
class WarmupTensor:
    """An input of a warm-up request, without the batch dimension.

    Attributes:
        name: as in the configuration.
        data_type: such as ``TYPE_INT32``.
        dims: sizes.
        file: with the value, below :data:`WARMUP_FOLDER`; empty for zeros.
        data: the file's bytes as the protocols write them: little endian, texts after their length.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    file: str = ""
    data: bytes = b""


@dataclass(frozen=True)
class WarmupSample:
    """A request; `count` of the same at once make a batch."""

    name: str
    count: int
    tensors: tuple[WarmupTensor, ...]


def picture_samples(targets: Sequence[Target], pictures_per_batch: int) -> tuple[WarmupSample, ...]:
    """One request for every target, alone and, where there are batches, in the largest one."""
    batches = sorted({1, pictures_per_batch})
    return tuple(
        WarmupSample(f"{target.size} pixels, {count} at once", count, _picture_tensors(target))
        for target in targets
        for count in batches
    )


def graph_samples(
    spec: GraphSpec, sizes: Sequence[Mapping[str, int]], *, batched: bool
) -> tuple[WarmupSample, ...]:
    """One request with zeros for each of `sizes`.

    Args:
        spec: the graph's inputs.
        sizes: of all its symbols.
        batched: Triton adds the batch dimension.
    """
    return tuple(
        WarmupSample(
            ", ".join(f"{symbol} {size}" for symbol, size in known.items()),
            1,
            tuple(
                WarmupTensor(
                    tensor.name,
                    TRITON_TYPES[tensor.dtype],
                    dims_of_shape(tensor.shape[int(batched) :], known),
                )
                for tensor in spec.inputs
            ),
        )
        for known in sizes
    )


def warmup_fields(samples: Sequence[WarmupSample]) -> list[Field]:
    """Requests as fields of a configuration."""
    return [("model_warmup", _warmup(sample)) for sample in samples]


def warmup_files(samples: Sequence[WarmupSample]) -> dict[str, bytes]:
    """Values of requests, by their files' names below the model's folder."""
    return {
        f"{WARMUP_FOLDER}/{tensor.file}": tensor.data
        for sample in samples
        for tensor in sample.tensors
        if tensor.file
    }


def _picture_tensors(target: Target) -> tuple[WarmupTensor, ...]:
    numbers = {STEPS: 1, "height": target.height, "width": target.width}
    prompt = struct.pack("<I", len(_PROMPT)) + _PROMPT
    return (
        WarmupTensor(PROMPT, "TYPE_STRING", (1,), PROMPT, prompt),
        *(
            WarmupTensor(name, "TYPE_INT32", (1,), f"{name}-{number}", struct.pack("<i", number))
            for name, number in numbers.items()
        ),
    )


def _warmup(sample: WarmupSample) -> list[Field]:
    inputs: list[Field] = []
    for tensor in sample.tensors:
        data: Field = ("input_data_file", tensor.file) if tensor.file else ("zero_data", True)
        value: list[Field] = [
            ("data_type", Keyword(tensor.data_type)),
            *(("dims", size) for size in tensor.dims),
            data,
        ]
        inputs.append(("inputs", [("key", tensor.name), ("value", value)]))
    return [("name", sample.name), ("batch_size", sample.count), *inputs]
