"""The served picture model without a server: batches, cancelled requests, and what fails alone."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fam_runtime.errors import BackendError, OutOfMemory
from fam_runtime.triton.served import picture_service
from fam_runtime.triton.served.numpy_check import check_numpy
from fam_runtime.triton.served.picture_model import TritonPythonModel
from tests.runtime.fake_bundle import write_bundle
from tests.triton.fake_clients import FINAL, Request
from tests.triton.fake_pb_utils import MODULE, FakeServer, InferenceResponse, TritonError


class Metric:
    values: dict[str, float]

    def __init__(self, values: dict[str, float], name: str) -> None:
        self.increment = lambda amount: values.update({name: values.get(name, 0) + amount})


class Served:
    """The model on a bundle, with parameters; `steps` counts what was computed."""

    def __init__(self, folder: Path, *, decoupled: bool = False, **parameters: str) -> None:
        config = {
            "model_transaction_policy": {"decoupled": decoupled},
            "parameters": {key: {"string_value": text} for key, text in parameters.items()},
        }
        self.model = TritonPythonModel()
        self.model.initialize(
            {
                "model_config": json.dumps(config),
                "model_repository": str(folder),
                "model_version": "1",
                "model_name": folder.name,
                "model_instance_kind": "CPU",
            }
        )

    def __call__(self, *requests: Request) -> list[InferenceResponse]:
        responses = self.model.execute(requests)
        if responses is not None:
            return responses
        for request in requests:
            assert request.sent[-1] == (None, FINAL)
        return [request.sent[-2][0] for request in requests]


Serve = Callable[..., Served]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository") / "fam_diffusion"
    (root / "1").mkdir(parents=True)
    write_bundle(root / "1/bundle")
    return root


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the model counted, by metric."""
    values: dict[str, float] = {}

    def family(name: str, description: str, kind: str) -> Any:
        return SimpleNamespace(Metric=lambda labels: Metric(values, name))

    family.COUNTER = "counter"  # type: ignore[attr-defined]
    utilities = FakeServer().utilities
    utilities.MetricFamily = family
    utilities.TRITONSERVER_RESPONSE_COMPLETE_FINAL = FINAL
    utilities.get_input_tensor_by_name = lambda request, name: request.tensor(name)
    monkeypatch.setitem(sys.modules, MODULE, utilities)
    return values


@pytest.fixture
def serve(folder: Path, counted: dict[str, float]) -> Iterator[Serve]:
    opened: list[Served] = []

    def start(**options: Any) -> Served:
        opened.append(Served(folder, **options))
        return opened[-1]

    yield start
    for one in opened:
        one.model.finalize()


def image_of(response: InferenceResponse) -> np.ndarray:
    assert not response.has_error(), response.error().message()  # type: ignore[union-attr]
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}["image"]


def code_of(response: InferenceResponse) -> int:
    error = response.error()
    assert error is not None
    return error.code()


def test_requests_that_differ_in_text_and_seed_share_a_run(
    serve: Serve, counted: dict[str, float]
) -> None:
    requests = [Request(prompt=f"p{i}", seed=i, steps=2) for i in range(3)]
    alone = [image_of(serve()(request)[0]) for request in requests]
    counted.clear()
    together = serve(pictures_per_batch="2")
    others = [Request(prompt="p", steps=3), Request(prompt="p", steps=2, height=128, width=256)]
    answers = together(requests[0], others[0], requests[1], others[1], requests[2])
    for index, answer in zip((0, 1, 2), (answers[0], answers[2], answers[4]), strict=True):
        # A batch may change a picture's last bits.
        assert np.abs(image_of(answer).astype(int) - alone[index]).max() <= 1
    decodings, runs = 5, 2 * (2 + 3 + 2 + 2)  # the third equal request is one too many for a batch
    assert counted["fam_steps_total"] == runs + decodings
    assert counted["fam_pictures_total"] == 5


def test_what_is_wrong_with_a_request_is_its_own(serve: Serve, counted: dict[str, float]) -> None:
    good, bad = Request(prompt="a", steps=2), Request(prompt=" ", steps=2)
    mixed = Request(prompt=["a", "b"], steps=[2, 2], seed=[1])
    answers = serve(pictures_per_batch="4")(good, bad, mixed)
    assert image_of(answers[0]).shape == (1, 128, 128, 3)
    assert [code_of(answer) for answer in answers[1:]] == [TritonError.INVALID_ARG] * 2
    assert counted["fam_refused_total"] == 2


def test_pictures_of_one_request_have_one_size(serve: Serve) -> None:
    sizes = {"height": [128, 128], "width": [128, 256]}
    [answer] = serve()(Request(prompt=["a", "b"], **sizes))
    assert "differ in size" in answer.error().message()  # type: ignore[union-attr]


def test_a_defect_is_the_servers_error_and_ends_no_other(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = picture_service.answer_from_pictures

    def fails_once(*arguments: Any) -> Any:
        monkeypatch.setattr(picture_service, "answer_from_pictures", made)
        raise RuntimeError("a defect")

    monkeypatch.setattr(picture_service, "answer_from_pictures", fails_once)
    answers = serve()(Request(prompt="a", steps=1), Request(prompt="b", steps=1))
    assert code_of(answers[0]) == TritonError.INTERNAL
    assert image_of(answers[1]).shape == (1, 128, 128, 3)


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_run_stops_at_the_step_after_its_last_client_left(
    serve: Serve, counted: dict[str, float], decoupled: bool
) -> None:
    served = serve(decoupled=decoupled)
    [answer] = served(Request(prompt="a", steps=9, patience=4))
    assert code_of(answer) == TritonError.CANCELLED
    # It was looked at once before the run, and once after each step: the fifth look saw it.
    assert counted["fam_steps_total"] == 4
    assert counted["fam_cancelled_total"] == 1
    assert image_of(served(Request(prompt="a", steps=1))[0]).shape == (1, 128, 128, 3)


def test_a_batch_goes_on_while_one_of_its_clients_waits(
    serve: Serve, counted: dict[str, float]
) -> None:
    served = serve(pictures_per_batch="2")
    stays, leaves = (Request(prompt="a", steps=3, patience=n) for n in (10**6, 2))
    assert image_of(served(leaves, stays)[1]).shape == (1, 128, 128, 3)
    assert counted["fam_steps_total"] == 3 + 3 + 2


def test_a_request_that_was_cancelled_in_the_queue_costs_nothing(
    serve: Serve, counted: dict[str, float]
) -> None:
    [answer] = serve()(Request(prompt="a", patience=0))
    assert code_of(answer) == TritonError.CANCELLED
    assert "fam_steps_total" not in counted


def test_a_stream_ends_once_whether_it_went_well_or_not(serve: Serve) -> None:
    served = serve(decoupled=True)
    outputs = ("image", "progress")
    good = Request(outputs, prompt="a", steps=2)
    bad = Request(outputs, prompt="")
    served(good, bad)
    assert [flags for _, flags in good.sent] == [0] * 6 + [FINAL]
    assert [flags for _, flags in bad.sent] == [0, FINAL]
    told = [json.loads(one.output_tensors()[0].as_numpy().item()) for one, _ in good.sent[:-2]]
    assert [(one["stage"], one["step"]) for one in told] == [
        ("native", 1),
        ("native", 2),
        ("target 128x128", 1),
        ("target 128x128", 2),
        ("decode target", 1),
    ]
    quiet = Request(("image",), prompt="a", steps=2)
    served(quiet)
    assert len(quiet.sent) == 2


def test_a_picture_that_cannot_be_sent_is_an_error_of_its_client_alone(serve: Serve) -> None:
    requests = [
        Request(("image", "progress"), prompt="a", steps=1, cannot_receive=what)
        for what in ("", "image", "progress", "")
    ]
    answers = serve(decoupled=True)(*requests)
    assert code_of(answers[1]) == TritonError.INTERNAL
    for index in (0, 2, 3):
        assert image_of(answers[index]).shape == (1, 128, 128, 3)


def test_a_batch_that_fails_is_made_one_by_one(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(pictures_per_batch="3")
    pipe = served.model._service.pipe

    def call(**arguments: Any) -> Any:
        if "c" in arguments["prompt"]:
            raise OutOfMemory("no memory for c in /srv/models")
        return pipe(**arguments)

    monkeypatch.setattr(served.model._service, "pipe", Replaced(pipe, call))
    answers = served(*(Request(prompt=text, steps=1) for text in "abc"))
    assert code_of(answers[2]) == TritonError.UNAVAILABLE
    assert "/srv" not in answers[2].error().message()  # type: ignore[union-attr]
    for answer in answers[:2]:
        assert image_of(answer).shape == (1, 128, 128, 3)


class Replaced:
    """The pipeline with another `__call__`."""

    def __init__(self, pipe: Any, call: Callable[..., Any]) -> None:
        self.__dict__.update(_pipe=pipe, _call=call)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._pipe, name, value)

    def __call__(self, **arguments: Any) -> Any:
        return self._call(**arguments)


def warnings_of(response: InferenceResponse) -> list[str]:
    tensors = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
    settings: dict[str, Any] = json.loads(tensors["settings"].item())
    return list(settings.get("warnings", ()))


def test_warnings_reach_the_client_whom_they_are_about(serve: Serve) -> None:
    served = serve(pictures_per_batch="3", response_cache_bytes="1000000")
    requests = [
        Request(prompt=f"{'secret ' * 100}", steps=1),
        Request(prompt="short", steps=1, seed=1),
    ]
    for _ in range(2):  # the second time out of the cache
        long, short = served(*requests)
        [warning] = warnings_of(long)
        assert "the model does not see" in warning and "secret" in warning
        assert warnings_of(short) == []


def test_equal_requests_are_made_once_where_pictures_are_kept(
    serve: Serve, counted: dict[str, float]
) -> None:
    served = serve(response_cache_bytes="1000000")
    first, second = served(*(Request(prompt="a", steps=1, seed=4) for _ in range(2)))
    np.testing.assert_array_equal(image_of(first), image_of(second))
    assert counted["fam_pictures_total"] == 1


def test_seeds_of_a_request_count_up_as_in_a_call_of_the_pipeline(serve: Serve) -> None:
    [answer] = serve()(Request(prompt=["a", "a"], steps=[1, 1]))
    [alone] = serve()(Request(prompt="a", steps=1, seed=1))
    np.testing.assert_array_equal(image_of(answer)[1:], image_of(alone))


def test_who_leaves_a_batch_is_told_so_and_counted(serve: Serve, counted: dict[str, float]) -> None:
    leaves, stays = Request(prompt="a", steps=3, patience=2), Request(prompt="b", steps=3)
    answers = serve(pictures_per_batch="2")(leaves, stays)
    assert code_of(answers[0]) == TritonError.CANCELLED
    assert image_of(answers[1]).shape == (1, 128, 128, 3)
    assert counted["fam_cancelled_total"] == 1


def test_a_batchs_clients_hear_of_the_decoding_of_their_own_picture(serve: Serve) -> None:
    requests = [Request(("progress",), prompt=text, steps=1) for text in "ab"]
    serve(decoupled=True, pictures_per_batch="2")(*requests)
    for request in requests:
        told = [one for one, _ in request.sent[:-2]]
        stages = [json.loads(one.output_tensors()[0].as_numpy().item())["stage"] for one in told]
        assert stages == ["native", "target 128x128", "decode target"]


def test_errors_of_the_server_are_in_its_log_and_not_in_the_answer(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    logged: list[str] = []
    monkeypatch.setattr(sys.modules[MODULE].Logger, "log_error", logged.append)

    def broken(**_: Any) -> Any:
        raise FileNotFoundError("/srv/secret/weights.bin")

    pipe = served.model._service.pipe
    monkeypatch.setattr(served.model._service, "pipe", Replaced(pipe, broken))
    [answer] = served(Request(prompt="a"))
    message = answer.error().message()  # type: ignore[union-attr]
    incident = re.search("incident ([0-9a-f]{8})", message)
    assert incident and "/srv" not in message
    assert incident[0] in logged[0] and "/srv/secret/weights.bin" in logged[0]
    assert "Traceback" in logged[0]


def test_metrics_may_be_off(folder: Path, counted: dict[str, float]) -> None:
    def refused(**_: object) -> None:
        raise RuntimeError("metrics are disabled")

    refused.COUNTER = 0  # type: ignore[attr-defined]
    sys.modules[MODULE].MetricFamily = refused  # type: ignore[attr-defined]
    [answer] = Served(folder)(Request(prompt="a", steps=1))
    assert image_of(answer).shape == (1, 128, 128, 3)


@pytest.mark.parametrize("parameters", [{"bundle": ".."}, {"max_steps": "many"}, {"verify": "no"}])
def test_a_configuration_that_cannot_be_refuses_to_load(
    folder: Path, counted: dict[str, float], parameters: dict[str, str]
) -> None:
    utilities: Any = sys.modules[MODULE]
    with pytest.raises(utilities.TritonModelException):
        Served(folder, **parameters)


def test_numpy_2_under_an_old_backend_is_refused(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"\x7fELF\0numpy.core.multiarray\0")
    new.write_bytes(b"\x7fELF\0numpy._core\0numpy.core\0multiarray\0")
    with pytest.raises(BackendError, match=r"built before NumPy 2 .*pip install 'numpy<2'"):
        check_numpy("2.1.0", old)
    check_numpy("1.26.4", old)
    check_numpy("2.1.0", new)
    check_numpy("2.1.0", tmp_path / "absent")
