"""A request's tensors as arguments of the pipeline, one set per picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fam_runtime.errors import InvalidRequest
from fam_runtime.triton.interface import INPUTS, PROMPT, SEED, ServedTensor

Array = npt.NDArray[Any]
Arguments = dict[str, Any]


def arguments_from_tensors(tensors: Mapping[str, Array]) -> list[Arguments]:
    """Arguments of :meth:`FamPipeline.__call__` for every picture of a request.

    Values are converted, not judged: the pipeline refuses what it cannot use.

    Args:
        tensors: the inputs that the request has, by name, each ``[B, …]`` as in
            :data:`~fam_runtime.triton.interface.INPUTS`; texts are bytes objects.

    Raises:
        InvalidRequest: tensors disagree about `B`, or a text is not UTF-8.
    """
    pictures = _picture_count(tensors)
    rows: list[Arguments] = [{} for _ in range(pictures)]
    for served in INPUTS:
        values = tensors.get(served.name)
        if values is None:
            continue
        read = _READERS[served.type]
        for row, value in zip(rows, values.reshape(pictures, -1), strict=True):
            row[served.argument] = _one(served, value, read)
    for index, row in enumerate(rows):
        row.setdefault(SEED, index)  # as one call of the pipeline does for several prompts
    return rows


def _picture_count(tensors: Mapping[str, Array]) -> int:
    """`B`: every tensor's first dimension."""
    counts = {name: array.shape[0] if array.ndim else 0 for name, array in tensors.items()}
    pictures = counts.get(PROMPT, 0)
    if pictures < 1 or any(count != pictures for count in counts.values()):
        raise InvalidRequest(
            "the inputs do not belong to the same pictures",
            got=", ".join(f"{name} of {count}" for name, count in counts.items()),
            expected="every input with the number of pictures as its first dimension",
            fix="give each input the shape [1, 1] for one picture",
        )
    return pictures


def _one(served: ServedTensor, value: Array, read: Callable[[str, Any], Any]) -> Any:
    """What one picture's `value`, ``[n]``, of an input means."""
    most = 2 if -1 in served.shape else 1  # a scale is one factor, or height's and width's
    if not 1 <= value.size <= most:
        raise InvalidRequest(
            f"{served.name} has a wrong number of values",
            got=value.size,
            expected="1" if most == 1 else "1 or 2",
            fix="leave it out for the default",
        )
    values = [read(served.name, item) for item in value]
    return values[0] if len(values) == 1 else tuple(values)


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")  # type: ignore[call-overload]  # bytes by the protocol
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{name} is not valid UTF-8",
            got=str(error),
            expected="text as UTF-8 bytes",
            fix="encode it as UTF-8",
        ) from error


def _whole(name: str, value: Any) -> int:
    return int(value)


def _real(name: str, value: Any) -> float:
    # The shortest decimal that means this float32 is the number that the client wrote: 7.1, and
    # not 7.099999904632568, which the picture's settings would show and no other run could match.
    return float(str(np.float32(value)))


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "STRING": _text,
    "UINT64": _whole,
    "INT32": _whole,
    "FP32": _real,
}
