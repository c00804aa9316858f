"""Tensors of a request as arguments of the pipeline."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from fam_runtime.errors import InvalidRequest
from fam_runtime.pipeline import FamPipeline
from fam_runtime.triton.interface import INPUTS
from fam_runtime.triton.request_reading import arguments_from_tensors


def texts(*values: str) -> Any:
    tensor = np.empty((len(values), 1), np.object_)
    tensor[:, 0] = [value.encode() for value in values]
    return tensor


def test_every_input_is_an_argument_of_the_pipeline() -> None:
    known = set(inspect.signature(FamPipeline.__call__).parameters)
    assert {served.argument for served in INPUTS} <= known


def test_each_picture_gets_its_own_arguments_and_nothing_that_was_left_out() -> None:
    rows = arguments_from_tensors(
        {
            "prompt": texts("a red circle", "ein grüner Kreis"),
            "seed": np.array([[1], [2**64 - 1]], np.uint64),
            "steps": np.array([[5], [6]], np.int32),
            "scale": np.array([[2, 4], [3, 3]], np.float32),
        }
    )
    assert rows == [
        {"prompt": "a red circle", "seed": 1, "num_inference_steps": 5, "scale": (2.0, 4.0)},
        {
            "prompt": "ein grüner Kreis",
            "seed": 2**64 - 1,
            "num_inference_steps": 6,
            "scale": (3.0, 3.0),
        },
    ]
    assert type(rows[0]["seed"]) is int


@pytest.mark.parametrize("written", [7.1, 0.7, 1.625, 1e-3, 4 / 3])
def test_a_float32_means_the_number_that_the_client_wrote(written: float) -> None:
    [row] = arguments_from_tensors(
        {"prompt": texts("x"), "guidance_scale": np.array([[written]], np.float32)}
    )
    assert row["guidance_scale"] == pytest.approx(written, rel=1e-7)
    assert str(row["guidance_scale"]) == str(np.float32(written))


def test_nan_reaches_the_pipeline_which_refuses_it() -> None:
    [row] = arguments_from_tensors(
        {"prompt": texts("x"), "guidance_scale": np.array([[np.nan]], np.float32)}
    )
    assert np.isnan(row["guidance_scale"])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"prompt": texts("a"), "seed": np.zeros((2, 1), np.uint64)}, "same pictures"),
        ({"prompt": np.empty((0, 1), np.object_)}, "same pictures"),
        ({"seed": np.zeros((1, 1), np.uint64)}, "same pictures"),
        ({"prompt": texts("a"), "scale": np.ones((1, 3), np.float32)}, "got 3 .* 1 or 2"),
        ({"prompt": texts("a"), "steps": np.ones((1, 2), np.int32)}, "got 2 .* expected 1"),
        ({"prompt": np.array([[b"\xff\xfe"]], np.object_)}, "prompt is not valid UTF-8"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        arguments_from_tensors(tensors)
