"""A real server gives the picture that the Python runtime makes, pixel for pixel."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fam_bench.tritonserver import TritonEnvironment, TritonServer
from fam_runtime import FamPipeline
from fam_runtime.picture import settings_from_png
from fam_runtime.triton.options import RepositoryOptions
from fam_runtime.triton.repository import write_repository
from tests.triton.clients import PROTOCOLS, Answer, ClientProcess, ServedError
from tests.triton.conftest import StartTriton

Ask = Callable[..., Answer]

LAYOUTS = {"whole": "pipeline", "split": "engines"}
"""Names of models, and the layout of each."""

CACHED, BATCHED, LIMITED = "cached", "batched", "limited"

REQUESTS: tuple[dict[str, Any], ...] = (
    {"prompt": "a red circle"},
    {
        "prompt": "ein grüner Kreis \N{EARTH GLOBE EUROPE-AFRICA}",
        "negative_prompt": "blue",
        "seed": 2**64 - 1,
        "steps": 3,
        "guidance_scale": 7.1,
        "scale": 2.0,
        "method": "fm",
        "scheduler": "euler-a",
    },
    {"prompt": "a square", "seed": 5, "steps": 2, "height": 256, "width": 256, "am_strength": 0.3},
)


@pytest.fixture(scope="module")
def server(
    start_triton: StartTriton, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> TritonServer:
    root = tmp_path_factory.mktemp("served") / "models"
    for name, layout in LAYOUTS.items():
        options = RepositoryOptions(layout=layout, variant="both", name=name, threads=1)  # type: ignore[arg-type]
        write_repository(tiny_bundle, root, options)
    write_repository(
        tiny_bundle, root, RepositoryOptions(name=CACHED, response_cache_bytes=1 << 20, threads=1)
    )
    batched = RepositoryOptions(
        name=BATCHED, pictures_per_batch=3, batch_delay_us=500_000, threads=1
    )
    write_repository(tiny_bundle, root, batched)
    limited = RepositoryOptions(name=LIMITED, queue_size=1, max_steps=50, threads=1)
    write_repository(tiny_bundle, root, limited)
    return start_triton(root)


@pytest.fixture(scope="module")
def pipe(tiny_bundle: Path) -> Iterator[FamPipeline]:
    options = {"progress": False, "num_threads": 1}
    with FamPipeline.from_pretrained(tiny_bundle, **options) as opened:  # type: ignore[arg-type]
        yield opened


@pytest.fixture(scope="module")
def ask(server: TritonServer, triton_environment: TritonEnvironment) -> Iterator[Ask]:
    client = ClientProcess(triton_environment.bin / "python")
    yield partial(client.ask, server)
    client.close()


def expected(pipe: FamPipeline, request: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Pixels and settings from the runtime in this process."""
    arguments = dict(request)
    if "steps" in arguments:
        arguments["num_inference_steps"] = arguments.pop("steps")
    result = pipe(**arguments)
    return np.asarray(result.images[0])[None], result.settings[0]


def without_programs(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "made_with"}


@pytest.mark.parametrize("request_index", range(len(REQUESTS)))
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", LAYOUTS)
def test_every_protocol_and_layout_gives_the_runtimes_picture(
    ask: Ask, pipe: FamPipeline, model: str, protocol: str, request_index: int
) -> None:
    request = REQUESTS[request_index]
    pixels, settings = expected(pipe, request)
    answer = ask(request, protocol=protocol, model=model)
    np.testing.assert_array_equal(answer.images, pixels)
    assert without_programs(answer.settings[0]) == without_programs(settings)
    assert answer.settings[0]["made_with"].keys() >= {"fam_runtime", "numpy", "backend"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_png_is_the_picture_and_carries_its_settings(
    ask: Ask, tmp_path: Path, protocol: str
) -> None:
    outputs = ("image", "png", "settings")
    answer = ask(REQUESTS[1], protocol=protocol, model="whole", outputs=outputs)
    [png] = answer.pngs
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png)))[None], answer.images)
    (tmp_path / "picture.png").write_bytes(png)
    assert settings_from_png(tmp_path / "picture.png") == answer.settings[0]


def test_only_what_was_asked_for_comes_back(ask: Ask) -> None:
    answer = ask(REQUESTS[0], protocol="grpc", model="whole", outputs=("settings",))
    assert answer.images is None and answer.pngs == [] and len(answer.settings) == 1


@pytest.mark.parametrize("model", LAYOUTS)
def test_a_stream_tells_every_step_in_order(ask: Ask, model: str) -> None:
    answer = ask({**REQUESTS[0], "steps": 3}, protocol="stream", model=model)
    seen = [(one["stage"], one["step"], one["steps"]) for one in answer.progress]
    native = [("native", step, 3) for step in (1, 2, 3)]
    target = [("target 256x256", step, 3) for step in (1, 2, 3)]
    assert seen == [*native, *target, ("decode target", 1, 1)]


@pytest.mark.parametrize("model", LAYOUTS)
def test_eight_clients_get_what_they_asked_for(ask: Ask, pipe: FamPipeline, model: str) -> None:
    """40 requests at once, each with its own seed: all are answered, and none with another's."""
    requests = [{"prompt": f"picture {i % 4}", "seed": i, "steps": 2} for i in range(40)]

    def one_client(client: int) -> list[Any]:
        protocol = PROTOCOLS[client % len(PROTOCOLS)]
        mine = requests[client * 5 : (client + 1) * 5]
        return [ask(one, protocol=protocol, model=model).images for one in mine]

    with ThreadPoolExecutor(8) as clients:
        answers = [image for images in clients.map(one_client, range(8)) for image in images]
    assert len({image.tobytes() for image in answers}) == len(requests)
    for request, image in zip(requests, answers, strict=True):
        np.testing.assert_array_equal(image, expected(pipe, request)[0])


CLIENT_ERRORS = {"http": "400", "grpc": "StatusCode.INVALID_ARGUMENT", "stream": "None"}
"""A stream's errors are messages of a healthy connection, without a code."""

BAD_REQUESTS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"prompt": ""}, "the prompt is empty"),
    ({"prompt": "x" * 1_000_000}, r"the prompt is too long .* at most 20000"),
    ({"prompt": "a", "guidance_scale": float("nan")}, "guidance_scale is out of range .* nan"),
    ({"prompt": "a", "steps": 0}, "num_inference_steps is out of range .* 0"),
    ({"prompt": "a", "steps": 10_000}, "num_inference_steps is out of range .* 10000"),
    ({"prompt": "a", "scale": 3.0}, "no target for scale 3 .*ask for one of these sizes"),
    ({"prompt": "a", "height": 256}, "half of a size"),
    ({"prompt": "a", "method": "magic"}, "unknown method"),
    ({"prompt": "a", "scheduler": "magic"}, "scheduler"),
    ({"prompt": "a", "am_strength": 2.0}, "am_strength is out of range"),
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", LAYOUTS)
def test_a_bad_request_is_the_clients_error_and_no_others(
    ask: Ask, server: TritonServer, pipe: FamPipeline, model: str, protocol: str
) -> None:
    for request, message in BAD_REQUESTS:
        with pytest.raises(ServedError, match=message) as caught:
            ask(request, protocol=protocol, model=model)
        assert caught.value.status == CLIENT_ERRORS[protocol]
        assert str(server.repository) not in str(caught.value)
    np.testing.assert_array_equal(
        ask(REQUESTS[2], protocol=protocol, model=model).images,
        expected(pipe, REQUESTS[2])[0],
    )


def test_wrong_types_and_shapes_are_refused(server: TritonServer) -> None:
    def tensor(name: str, kind: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
        return {"name": name, "datatype": kind, "shape": shape, "data": data}

    prompt = tensor("prompt", "BYTES", [1, 1], ["a"])
    bad: tuple[list[dict[str, Any]], ...] = (
        [],
        [tensor("prompt", "FP32", [1, 1], [1.0])],
        [tensor("prompt", "BYTES", [1, 2], ["a", "b"])],
        [tensor("prompt", "BYTES", [2, 1], ["a", "b"])],
        [prompt, tensor("steps", "FP32", [1, 1], [2.0])],
        [prompt, tensor("scale", "FP32", [1, 3], [2.0, 2.0, 2.0])],
        [prompt, tensor("magic", "FP32", [1, 1], [2.0])],
    )
    for inputs in bad:
        status, answer = server.infer("whole", {"inputs": inputs})
        assert status == 400, (inputs, answer)
    assert server.infer("whole", {"inputs": [prompt], "outputs": [{"name": "settings"}]})[0] == 200


def test_equal_requests_are_made_together(
    ask: Ask, server: TritonServer, pipe: FamPipeline
) -> None:
    """Three that differ in text and seed share their runs; the fourth has another step count."""
    requests = [{"prompt": f"picture {i}", "seed": i, "steps": 2} for i in range(3)]
    requests.append({"prompt": "alone", "seed": 9, "steps": 3})
    steps = server.metric("fam_steps_total", model=BATCHED)
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda one: ask(one, model=BATCHED), requests))
    for request, answer in zip(requests, answers, strict=True):
        difference = answer.images.astype(int) - expected(pipe, request)[0]
        assert np.abs(difference).max() <= 1  # a batch may change the last bits, not the picture
        assert answer.settings[0]["prompt"] == request["prompt"]
    made = server.metric("fam_steps_total", model=BATCHED) - steps
    together = 2 + 2 + 3  # steps of both stages, and each picture's decoding
    alone = 3 + 3 + 1
    assert made in (together + alone, together + alone + 4)  # the first may have gone ahead


def test_a_request_may_hold_several_pictures(server: TritonServer, pipe: FamPipeline) -> None:
    def column(name: str, kind: str, data: list[Any]) -> dict[str, Any]:
        return {"name": name, "datatype": kind, "shape": [2, 1], "data": data}

    inputs = [column("prompt", "BYTES", ["a", "b"]), column("seed", "UINT64", [3, 4])]
    inputs.append(column("steps", "INT32", [2, 2]))
    outputs = [{"name": "settings"}, {"name": "image"}]
    status, answer = server.infer(BATCHED, {"inputs": inputs, "outputs": outputs})
    assert status == 200, answer
    by_name = {output["name"]: output for output in answer["outputs"]}
    assert by_name["image"]["shape"] == [2, 256, 256, 3]
    assert [json.loads(text)["seed"] for text in by_name["settings"]["data"]] == [3, 4]
    images = np.reshape(by_name["image"]["data"], [2, 256, 256, 3])
    for index, prompt in enumerate("ab"):
        pixels, _ = expected(pipe, {"prompt": prompt, "seed": 3 + index, "steps": 2})
        assert np.abs(images[index] - pixels.astype(int)).max() <= 1


def test_the_cache_answers_for_the_same_seed_only_and_never_with_an_error(
    ask: Ask,
    server: TritonServer,
) -> None:
    def steps_for(request: dict[str, Any]) -> tuple[float, Any]:
        before = server.metric("fam_steps_total", model=CACHED)
        image = ask(request, model=CACHED).images
        return server.metric("fam_steps_total", model=CACHED) - before, image

    request = {"prompt": "a", "steps": 2, "seed": 1}
    first, picture = steps_for(request)
    again, same = steps_for({**request, "scale": 2.0})  # the default, said aloud
    other, another = steps_for({**request, "seed": 2})
    assert (first, again, other) == (5, 0, 5)
    np.testing.assert_array_equal(picture, same)
    assert not np.array_equal(picture, another)
    outputs = ("image", "png", "settings")
    assert ask(request, model=CACHED, outputs=outputs).pngs[0].startswith(b"\x89PNG")
    for _ in range(2):
        with pytest.raises(ServedError, match="the prompt is empty"):
            ask({**request, "prompt": " "}, model=CACHED)


def test_a_server_can_limit_steps_and_its_queue(ask: Ask, server: TritonServer) -> None:
    with pytest.raises(ServedError, match="above what this server allows .* at most 50"):
        ask({"prompt": "a", "steps": 51}, model=LIMITED)
    requests = [{"prompt": "a", "seed": i, "steps": 50} for i in range(6)]

    def outcome(request: dict[str, Any]) -> str:
        try:
            ask(request, model=LIMITED)
        except ServedError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(requests)) as clients:
        outcomes = list(clients.map(outcome, requests))
    refused = [text for text in outcomes if text]
    assert 1 <= len(refused) < len(requests)
    assert all(re.search("[Ee]xceeds maximum queue size", text) for text in refused)
    assert outcome(requests[0]) == ""
