"""The examples for Kubernetes and KServe: what they start, probe and mount is there."""

from __future__ import annotations

import re
import secrets
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fam_runtime.cli.triton import options_from as repository_options
from fam_runtime.cli.triton import parser as repository_parser
from fam_runtime.cli.triton_probe import options_from
from fam_runtime.cli.triton_probe import parser as probe_parser
from fam_runtime.triton.interface import DEFAULT_MODEL_NAME
from fam_runtime.triton.options import RepositoryOptions
from fam_runtime.triton.probe import METRICS_TIMEOUT_S
from tests.triton.conftest import environment_or_outcome

EXAMPLES = Path(__file__).parents[2] / "runtime/examples"
FILES = sorted(EXAMPLES.glob("*/*.yaml"))
SERVE = EXAMPLES / "kubernetes/serve.sh"

SERVER_FLAGS = {
    "--backend-config",
    "--exit-timeout-secs",
    "--grpc-address",
    "--grpc-port",
    "--grpc-restricted-protocol",
    "--http-address",
    "--http-port",
    "--http-restricted-api",
    "--log-format",
    "--metrics-address",
    "--metrics-port",
    "--model-control-mode",
    "--model-repository",
}
"""Of `tritonserver --help`, with which a test compares them where there is a server."""

ADDRESSES = {"--http-address", "--grpc-address", "--metrics-address"}
"""The only flags that a deployment gives although serve.sh has them: of two, the last counts."""

DOCUMENTED_FLAGS = {"--exit-on-error", "--load-model", "--rate-limit", "--rate-limit-resource"}
"""Of `tritonserver --help` too; the documents name them, and no example needs them."""

LOCKED = {"model-repository", "model-config", "shared-memory", "statistics", "trace", "logging"}
"""Groups of `tritonserver --help` that no client of the model needs."""


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in FILES:
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            yield f"{file.parent.name}/{file.name}:{document['kind']}", document


DOCUMENTS = dict(documents())


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    """The part of a document that holds containers, or nothing."""
    spec = document["spec"]
    return spec.get("template", {}).get("spec") or (spec if "containers" in spec else {})


PODS = {name: pod for name, document in DOCUMENTS.items() if (pod := pod_of(document))}
SERVERS = {
    name: pod
    for name, pod in PODS.items()
    if pod["containers"][0].get("command") == ["fam-triton-serve"]
}
for_pods = pytest.mark.parametrize("pod", PODS.values(), ids=list(PODS))
for_servers = pytest.mark.parametrize("pod", SERVERS.values(), ids=list(SERVERS))


def serve_words() -> list[str]:
    """The words of the command that `serve.sh` becomes, with its variables."""
    command = SERVE.read_text(encoding="utf-8").partition("\nexec ")[2].replace("\\\n", " ")
    return shlex.split(command)


def flags_of(words: list[str]) -> dict[str, str]:
    assert all(word.startswith("--") for word in words), words
    return {flag: value for flag, _, value in (word.partition("=") for word in words)}


def probes_of(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {kind: container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}


def test_there_is_one_server_for_each_platform() -> None:
    assert set(SERVERS) == {
        "kubernetes/deployment.yaml:Deployment",
        "kserve/serving-runtime.yaml:ServingRuntime",
    }


@for_servers
def test_servers_are_started_with_flags_that_exist(pod: dict[str, Any]) -> None:
    program, *common, rest = serve_words()
    assert (program, rest) == ("tritonserver", "$@")
    own, shared = flags_of(pod["containers"][0]["args"]), flags_of(common)
    assert own.keys() | shared.keys() == SERVER_FLAGS
    assert own.keys() & shared.keys() == ADDRESSES, "given twice"
    assert {own[flag] for flag in ADDRESSES} == {"0.0.0.0"}, "where a Service reaches it"
    assert shared["--model-control-mode"] == "none"
    ports = {int(value) for flag, value in own.items() if flag.endswith("-port")}
    named = {port["containerPort"] for port in pod["containers"][0]["ports"]}
    assert named and named <= ports


def test_a_real_server_knows_the_flags_and_the_locked_groups() -> None:
    server = environment_or_outcome().tritonserver
    done = subprocess.run([server, "--help"], capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert set(re.findall(r"^  (--[a-z-]+)", said, re.MULTILINE)) >= SERVER_FLAGS | DOCUMENTED_FLAGS
    for groups in re.findall(r"Allowed (?:APIs|protocols):([a-z,\s-]+)", said):
        assert {group.strip() for group in groups.split(",")} >= LOCKED
        assert {group.strip() for group in groups.split(",")} - LOCKED == {
            "health",
            "metadata",
            "inference",
        }


def test_everything_but_inference_is_locked_with_a_key_made_at_the_start() -> None:
    script = SERVE.read_text(encoding="utf-8")
    locked = re.search(r"^locked=(\S+)$", script, re.MULTILINE)
    assert locked is not None and set(locked[1].split(",")) == LOCKED
    assert "\nkey=$(cat /proc/sys/kernel/random/uuid)\n" in script
    flags = flags_of(serve_words()[1:-1])
    for flag in ("--http-restricted-api", "--grpc-restricted-protocol"):
        assert flags[flag] == "$locked:fam-locked=$key"
    subprocess.run(["/bin/sh", "-n", SERVE], check=True)
    assert SERVE.stat().st_mode & 0o111


def served_flags(folder: Path, *arguments: str, prefix: str) -> dict[str, str]:
    """What `serve.sh` gives to the server, here a script that prints it."""
    program = folder / "tritonserver"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', "utf-8")
    program.chmod(0o755)
    variables = {"PATH": f"{folder}:/usr/bin:/bin", "FAM_SHM_PREFIX": prefix}
    words = subprocess.check_output([SERVE, *arguments], env=variables, text=True, timeout=20)
    return flags_of(words.splitlines())


def test_the_server_listens_on_this_machine_unless_told_otherwise(tmp_path: Path) -> None:
    prefix = f"fam_local_{secrets.token_hex(6)}_"
    flags = served_flags(tmp_path, prefix=prefix)
    assert {flags[flag] for flag in ADDRESSES} == {"127.0.0.1"}
    flags = served_flags(tmp_path, "--http-address=10.0.0.1", prefix=prefix)
    assert [flags[flag] for flag in sorted(ADDRESSES)] == ["127.0.0.1", "10.0.0.1", "127.0.0.1"]


def test_what_is_removed_at_the_start_is_what_this_server_leaves_behind(tmp_path: Path) -> None:
    prefix = f"fam_local_{secrets.token_hex(6)}_"
    own, others = Path(f"/dev/shm/{prefix}1"), Path(f"/dev/shm/other_{prefix}1")
    try:
        for file in (own, others):
            file.touch()
        flags = served_flags(tmp_path, prefix=prefix)
        assert flags["--backend-config"] == f"python,shm-region-prefix-name={prefix}"
        assert not own.exists() and others.exists()
    finally:
        for file in (own, others):
            file.unlink(missing_ok=True)
    assert "${FAM_SHM_PREFIX:-fam_diffusion_}" in SERVE.read_text(encoding="utf-8")


@pytest.mark.parametrize("prefix", ["../tmp/x", "*", "a b", "x/"])
def test_a_prefix_that_reaches_other_files_is_refused(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        served_flags(tmp_path, prefix=prefix)
    assert caught.value.returncode == 2


@for_servers
def test_probes_can_be_run_and_end_before_their_limit(pod: dict[str, Any]) -> None:
    container = pod["containers"][0]
    own = flags_of(container["args"])
    for kind, probe in probes_of(container).items():
        program, *arguments = probe["exec"]["command"]
        assert program == "fam-triton-probe"
        options = options_from(probe_parser().parse_args(arguments))
        assert options.timeout_s + METRICS_TIMEOUT_S < probe["timeoutSeconds"]
        assert options.live == (kind != "startup"), "a picture comes out before traffic comes in"
        assert str(options.server.port) == own["--http-port"]
        assert options.metrics is not None
        assert str(options.metrics.port) == own["--metrics-port"]


def test_pictures_that_have_begun_are_finished() -> None:
    wait = int(flags_of(serve_words()[1:-1])["--exit-timeout-secs"])
    service = DOCUMENTS["kserve/inference-service.yaml:InferenceService"]["spec"]["predictor"]
    for name, pod in SERVERS.items():
        grace = {**service, **pod}["terminationGracePeriodSeconds"]
        assert ("terminationGracePeriodSeconds" in pod) == name.startswith("kubernetes/")
        pause = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert pause[0] == "sleep"
        assert grace > wait + int(pause[1])


@for_pods
def test_containers_may_do_little(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    security = {**pod.get("securityContext", {}), **container["securityContext"]}
    assert security["runAsNonRoot"] and security["runAsUser"] == 1000
    assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == volumes.keys()
    for volume in volumes.values():
        assert "persistentVolumeClaim" in volume or "sizeLimit" in volume["emptyDir"]
    if "/dev/shm" in mounts.values():
        assert volumes["shared-memory"]["emptyDir"]["medium"] == "Memory"


@for_servers
def test_servers_have_one_gpu_and_room_for_pictures_in_transit(pod: dict[str, Any]) -> None:
    container = pod["containers"][0]
    assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == "1"
    assert "/dev/shm" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_repositories_are_written_where_servers_read_them() -> None:
    job = PODS["kubernetes/repository.yaml:Job"]["containers"][0]
    assert job["command"] == ["fam-triton"]
    arguments = repository_parser().parse_args(job["args"])
    assert isinstance(repository_options(arguments), RepositoryOptions)
    server = SERVERS["kubernetes/deployment.yaml:Deployment"]["containers"][0]
    assert flags_of(server["args"])["--model-repository"] == str(arguments.output)
    model = DOCUMENTS["kserve/inference-service.yaml:InferenceService"]["spec"]["predictor"][
        "model"
    ]
    claim = DOCUMENTS["kubernetes/repository.yaml:PersistentVolumeClaim"]["metadata"]["name"]
    assert model["storageUri"] == f"pvc://{claim}/{Path(arguments.output).name}"
    runtime = DOCUMENTS["kserve/serving-runtime.yaml:ServingRuntime"]
    assert model["runtime"] == runtime["metadata"]["name"]
    formats = [(f["name"], f["version"]) for f in runtime["spec"]["supportedModelFormats"]]
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in formats
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]


def test_names_in_one_document_lead_to_another() -> None:
    name = "kubernetes/deployment.yaml"
    deployment = DOCUMENTS[f"{name}:Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    ports = {p["name"]: p["containerPort"] for p in pod_of(deployment)["containers"][0]["ports"]}
    service = DOCUMENTS[f"{name}:Service"]["spec"]
    policy = DOCUMENTS[f"{name}:NetworkPolicy"]["spec"]
    budget = DOCUMENTS[f"{name}:PodDisruptionBudget"]["spec"]
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        service["selector"],
        policy["podSelector"]["matchLabels"],
        budget["selector"]["matchLabels"],
    ):
        assert selector and selector.items() <= labels.items()
    assert {ports[p["targetPort"]] for p in service["ports"]} < set(ports.values())
    assert {p["port"] for rule in policy["ingress"] for p in rule["ports"]} == set(ports.values())
    scaled = DOCUMENTS["kubernetes/autoscaling.yaml:ScaledObject"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    query = scaled["triggers"][0]["metadata"]["query"]
    assert f'nv_inference_pending_request_count{{model="{DEFAULT_MODEL_NAME}"}}' in query
    assert scaled["minReplicaCount"] >= 1, "the queue is inside the pods"


def test_images_name_no_host() -> None:
    dockerfile = (EXAMPLES / "kubernetes/Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^FROM (.*)$", dockerfile, re.MULTILINE) == ["${TRITON_IMAGE}"]
    images = {container["image"] for pod in PODS.values() for container in pod["containers"]}
    assert images == {"fam-triton:1"}
    copied = re.findall(r"^COPY (?:--\S+ )?(.*) \S+$", dockerfile, re.MULTILINE)
    for path in " ".join(copied).split():
        assert (EXAMPLES.parents[1] / path).exists(), path
    assert "/usr/local/bin/fam-triton-serve" in dockerfile
