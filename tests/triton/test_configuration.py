"""Triton's own definition of a configuration reads what fam-triton writes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fam_bench.tritonserver import TritonEnvironment, TritonServerError
from fam_runtime.triton.options import RepositoryOptions
from fam_runtime.triton.repository import write_repository
from tests.runtime.fake_bundle import write_bundle
from tests.triton.conftest import StartTriton

READ = """\
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

def read(path):
    with open(path) as file:
        config = text_format.Parse(file.read(), model_config_pb2.ModelConfig())
    return json_format.MessageToDict(config, preserving_proto_field_name=True)

print(json.dumps({path: read(path) for path in sys.argv[1:]}))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "fake", family="sdxl", dtype="fp16")


def configurations(
    environment: TritonEnvironment, bundle: Path, root: Path, options: RepositoryOptions
) -> dict[str, dict[str, Any]]:
    """By model, as NVIDIA's client reads them."""
    write_repository(bundle, root, options)
    files = sorted(root.glob("*/config.pbtxt"))
    done = subprocess.run(
        [environment.bin / "python", "-c", READ, *files], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return {Path(path).parent.name: config for path, config in json.loads(done.stdout).items()}


def texts(model: dict[str, Any]) -> dict[str, str]:
    """A model's parameters."""
    return {key: value["string_value"] for key, value in model["parameters"].items()}


def test_every_option_is_where_triton_looks_for_it(
    triton_environment: TritonEnvironment, bundle: Path, tmp_path: Path
) -> None:
    options = RepositoryOptions(
        variant="both",
        instances=2,
        gpus=(0, 3),
        provider="cuda",
        keep_versions=2,
        pictures_per_batch=4,
        batch_delay_us=700,
        queue_size=9,
        queue_timeout_s=1.5,
        memory_per_run_mib=123,
    )
    models = configurations(triton_environment, bundle, tmp_path / "models", options)
    plain, stream = models["fam_diffusion"], models["fam_diffusion_stream"]
    assert plain["max_batch_size"] == 4
    [group] = plain["instance_group"]
    assert (group["count"], group["kind"], group["gpus"]) == (2, "KIND_GPU", [0, 3])
    [resource] = group["rate_limiter"]["resources"]
    assert resource == {"name": "gpu_memory_mib", "count": 123}
    batching = plain["dynamic_batching"]
    assert batching["preferred_batch_size"] == [4]
    assert batching["max_queue_delay_microseconds"] == "700"
    policy = batching["default_queue_policy"]
    assert policy["default_timeout_microseconds"] == "1500000"
    assert (policy["max_queue_size"], policy["allow_timeout_override"]) == (9, True)
    assert policy.get("timeout_action", "REJECT") == "REJECT"
    assert plain["version_policy"] == {"latest": {"num_versions": 2}}
    assert [sample["batch_size"] for sample in plain["model_warmup"]] == [1, 4, 1, 4]
    assert {tensor["name"] for tensor in plain["input"] if not tensor.get("optional")} == {"prompt"}
    assert "response_cache" not in plain and "model_transaction_policy" not in plain
    assert stream["model_transaction_policy"] == {"decoupled": True}
    added = {tensor["name"] for tensor in stream["output"]} - {
        tensor["name"] for tensor in plain["output"]
    }
    assert added == {"progress"}


def test_a_queue_policy_is_there_only_where_it_is_asked_for(
    triton_environment: TritonEnvironment, bundle: Path, tmp_path: Path
) -> None:
    """With one, a server of 2.51 lets an instance wait between requests."""
    root = tmp_path / "models"
    write_repository(bundle, root, RepositoryOptions(name="any"))
    write_repository(bundle, root, RepositoryOptions(name="few", queue_size=3))
    last = RepositoryOptions(name="patient", queue_timeout_s=0)
    models = configurations(triton_environment, bundle, root, last)
    assert models["any"]["dynamic_batching"] == {}
    few, patient = (
        models[name]["dynamic_batching"]["default_queue_policy"] for name in ("few", "patient")
    )
    assert few["max_queue_size"] == 3
    assert "max_queue_size" not in patient
    for policy in (few, patient):  # 0 would leave no time below it that a client could give
        assert policy["default_timeout_microseconds"] == "86400000000"


def test_clients_cannot_ask_the_graphs_for_more_than_a_picture_takes(
    triton_environment: TritonEnvironment, bundle: Path, tmp_path: Path
) -> None:
    """Graphs' models answer anybody: with one picture at a time every size is fixed."""
    options = RepositoryOptions(layout="engines", low_memory=True)
    models = configurations(triton_environment, bundle, tmp_path / "models", options)
    sampler = models.pop("fam_diffusion")
    assert texts(sampler)["low_memory"] == "true"
    assert texts(sampler)["engines_described"] == "python onnxruntime cpu"
    assert "engine_platform" not in texts(sampler)
    decoder = models.pop("fam_diffusion_vae_decoder")
    assert decoder["input"][0]["dims"] == ["1", "4", "-1", "-1"]  # two targets, two sizes
    for model in models.values():
        assert "max_batch_size" not in model
        assert texts(model)["pictures_per_batch"] == "1"
        assert model["version_policy"] == {"latest": {"num_versions": 2}}
        for tensor in (*model["input"], *model["output"]):
            assert min(map(int, tensor["dims"])) > 0
    step = models["fam_diffusion_unet_native"]
    assert next(t for t in step["input"] if t["name"] == "prompt_embeds")["dims"][0] == "2"


def test_a_repository_is_written_where_there_is_no_torch(
    triton_environment: TritonEnvironment, bundle: Path, tmp_path: Path
) -> None:
    """The server's environment has the runtime's plain install and ONNX Runtime."""
    python = triton_environment.bin / "python"
    find = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"
    assert subprocess.run([python, "-c", find], timeout=60).returncode == 0
    command = [triton_environment.bin / "fam-triton", bundle, "--output", tmp_path / "models"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models/fam_diffusion/1/bundle/manifest.json").is_file()


@pytest.mark.parametrize("platform", ["python", "onnxruntime"])
def test_graphs_are_declared_as_the_manifest_lists_them(
    triton_environment: TritonEnvironment, bundle: Path, tmp_path: Path, platform: Any
) -> None:
    options = RepositoryOptions(
        layout="engines",
        engine_platform=platform,
        engine_instances=3,
        pictures_per_batch=2,
        threads=5,
    )
    models = configurations(triton_environment, bundle, tmp_path / "models", options)
    step = models["fam_diffusion_unet_target_128x256"]
    assert (step["backend"], step.get("max_batch_size", 0)) == (platform, 0)
    inputs = {tensor["name"]: tensor for tensor in step["input"]}
    assert inputs["timestep"]["dims"] == ["1"]
    assert inputs["latent"]["dims"] == ["-1", "4", "16", "32"]
    assert inputs["latent"]["data_type"] == "TYPE_FP32"
    taps = [tensor for name, tensor in inputs.items() if name.startswith("attention_")]
    assert taps and all(tensor["data_type"] == "TYPE_FP16" for tensor in taps)
    assert step["instance_group"][0]["count"] == 3
    own = {"python": "threads", "onnxruntime": "intra_op_thread_count"}
    assert texts(step)[own[platform]] == "5"
    decoder = models["fam_diffusion_vae_decoder"]
    assert decoder["max_batch_size"] == 2
    assert decoder["input"][0]["dims"] == ["4", "-1", "-1"]
    zeros = decoder["model_warmup"][0]["inputs"]["latent"]
    assert (zeros["dims"], zeros["zero_data"]) == (["4", "16", "16"], True)
    assert "rate_limiter" not in models["fam_diffusion"]["instance_group"][0]


def test_the_rate_limiter_counts_what_a_run_takes(
    start_triton: StartTriton, bundle: Path, tmp_path: Path
) -> None:
    options = RepositoryOptions(memory_per_run_mib=100, threads=1)
    write_repository(bundle, tmp_path / "models", options)
    flags = ("--rate-limit=execution_count", "--rate-limit-resource=gpu_memory_mib:{}")
    enough = [flag.format(100) for flag in flags]
    assert start_triton(tmp_path / "models", flags=enough).index() == {"fam_diffusion": "READY"}
    with pytest.raises(TritonServerError, match="gpu_memory_mib"):
        start_triton(tmp_path / "models", flags=[flag.format(99) for flag in flags])
