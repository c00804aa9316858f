"""What a model repository is to be, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from fam_runtime.arguments import real_number, whole_number
from fam_runtime.backends.registry import BACKENDS, DEFAULT_BACKEND
from fam_runtime.errors import InvalidRequest
from fam_runtime.triton.interface import DEFAULT_MODEL_NAME, STREAM_SUFFIX

Layout = Literal["pipeline", "engines"]
Variant = Literal["plain", "stream", "both"]
EnginePlatform = Literal["python", "onnxruntime"]

LAYOUTS: Mapping[Layout, str] = MappingProxyType(
    {
        "pipeline": "one model with the whole runtime in it: no traffic between steps",
        "engines": "every graph a model of its own, and a sampler that calls them",
    }
)
VARIANTS: Mapping[Variant, str] = MappingProxyType(
    {
        "plain": "one answer to each request",
        "stream": "a decoupled model, which sends its progress",
        "both": "both models; in the layout pipeline each loads the bundle",
    }
)
ENGINE_PLATFORMS: Mapping[EnginePlatform, str] = MappingProxyType(
    {
        "python": "the runtime's own backends, TensorRT among them, in a thin Python model",
        "onnxruntime": "Triton's ONNX Runtime backend, which does not verify files",
    }
)
"""Triton's TensorRT backend is not among them: it wants tensors of the engine's own rank, and its
configurations have no tensors of rank 0, such as a step graph's timestep."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
MAX_VERSION = 2**31 - 1
MAX_INSTANCES = 64
MAX_PICTURES_PER_BATCH = 64
MAX_QUEUE_TIMEOUT_S = 86_400


@dataclass(frozen=True)
class RepositoryOptions:
    """Everything about a repository but the bundle.

    Attributes:
        layout: a name of :data:`LAYOUTS`.
        variant: a name of :data:`VARIANTS`.
        name: of the picture model; the models of graphs begin with it.
        version: the folder that is written; a new one beside old ones adds a version.
        keep_versions: how many of the newest versions are served at a time.
        instances: of the picture model, each a process with its own graphs (layout `pipeline`) or
            its own sampler (layout `engines`).
        engine_instances: of every graph's model.
        engine_platform: a name of :data:`ENGINE_PLATFORMS`; layout `engines` only.
        gpus: device numbers that instances are placed on; none: the CPU, or every GPU where the
            backend needs one.
        backend, provider, threads, low_memory: of the runtime that computes.
        verify: ``"full"`` hashes the bundle whenever a model is loaded, ``"size"`` does not.
        pictures_per_batch: most pictures of equal requests that go through a graph together.
        queue_size: requests that wait at most, a further one is refused; 0: any number. None: any
            number, and no queue policy at all, unless `queue_timeout_s` asks for one.
        queue_timeout_s: how long a request waits at most; 0: for ever, unless a client gives a time
            of its own. None: no time at all.
        batch_delay_us: how long the first of a batch waits for others.
        max_steps: a request for more is refused.
        response_cache_bytes: of pictures that are kept for requests that come again.
        warmup: make one-step pictures of every size before a model is ready.
        memory_per_run_mib: what a run takes of the rate limiter's resource; 0 leaves it out.
    """

    layout: Layout = "pipeline"
    variant: Variant = "plain"
    name: str = DEFAULT_MODEL_NAME
    version: int = 1
    keep_versions: int = 1
    instances: int = 1
    engine_instances: int = 1
    engine_platform: EnginePlatform = "python"
    gpus: tuple[int, ...] = field(default=())
    backend: str = DEFAULT_BACKEND
    provider: str = "cpu"
    threads: int | None = None
    low_memory: bool = False
    verify: str = "full"
    pictures_per_batch: int = 1
    queue_size: int | None = None
    queue_timeout_s: float | None = None
    batch_delay_us: int = 0
    max_steps: int | None = None
    response_cache_bytes: int = 0
    warmup: bool = True
    memory_per_run_mib: int = 0

    def __post_init__(self) -> None:
        """Refuse what no server could use.

        Raises:
            InvalidRequest: an option cannot be used, or two contradict each other.
        """
        _check_one_of("layout", self.layout, tuple(LAYOUTS))
        _check_one_of("variant", self.variant, tuple(VARIANTS))
        _check_one_of("engine platform", self.engine_platform, tuple(ENGINE_PLATFORMS))
        _check_one_of("backend", self.backend, tuple(BACKENDS))
        _check_one_of("provider", self.provider, ("cpu", "cuda"))
        _check_one_of("verify", self.verify, ("full", "size"))
        check_model_name(self.name)
        self._check_numbers()
        self._check_devices()
        self._check_that_all_count()

    @property
    def on_gpu(self) -> bool:
        """Whether graphs run on a GPU."""
        return self.provider == "cuda" or self.backend != DEFAULT_BACKEND or bool(self.gpus)

    @property
    def picture_models(self) -> dict[str, bool]:
        """Names of the models that clients ask, and whether they are decoupled."""
        plain, stream = {self.name: False}, {self.name + STREAM_SUFFIX: True}
        return {"plain": plain, "stream": stream, "both": {**plain, **stream}}[self.variant]

    def _check_numbers(self) -> None:
        _check_number("model-version", self.version, 1, MAX_VERSION)
        _check_number("keep-versions", self.keep_versions, 1, MAX_VERSION - 1)
        _check_number("instances", self.instances, 1, MAX_INSTANCES)
        _check_number("engine-instances", self.engine_instances, 1, MAX_INSTANCES)
        _check_number("pictures-per-batch", self.pictures_per_batch, 1, MAX_PICTURES_PER_BATCH)
        whole_number("batch-delay", self.batch_delay_us, minimum=0)
        whole_number("response-cache", self.response_cache_bytes, minimum=0)
        whole_number("memory-per-run", self.memory_per_run_mib, minimum=0)
        if self.queue_size is not None:
            whole_number("queue-size", self.queue_size, minimum=0)
        for what, value in (("threads", self.threads), ("max-steps", self.max_steps)):
            if value is not None:
                whole_number(what, value)
        if self.queue_timeout_s is not None:
            real_number("queue-timeout", self.queue_timeout_s, 0, MAX_QUEUE_TIMEOUT_S)

    def _check_devices(self) -> None:
        for gpu in self.gpus:
            _check_number("gpu", gpu, 0, 1023)
        computes_on_cpu = self.backend == DEFAULT_BACKEND and self.provider == "cpu"
        if self.gpus and computes_on_cpu and self.engine_platform == "python":
            raise InvalidRequest(
                "GPUs were given to a runtime on the CPU",
                got=", ".join(map(str, self.gpus)),
                expected="--provider cuda, or a TensorRT backend",
                fix="add one of them, or leave the GPUs out",
            )

    def _check_that_all_count(self) -> None:
        """Refuse an option that would change nothing: whoever gives it expects something."""
        split = self.layout == "engines"
        own_backend = split and self.engine_platform != "python"
        engines = self.backend != DEFAULT_BACKEND
        useless = (
            ("--engine-platform", self.engine_platform != "python", not split, "--layout engines"),
            ("--engine-instances", self.engine_instances != 1, not split, "--layout engines"),
            ("--backend", engines, own_backend, "--engine-platform python"),
            ("--low-memory", self.low_memory, own_backend, "--engine-platform python"),
            ("--provider", self.provider != "cpu", engines, "--backend onnxruntime"),
            ("--threads", self.threads is not None, engines, "--backend onnxruntime"),
            (
                "--batch-delay",
                self.batch_delay_us > 0,
                self.pictures_per_batch == 1,
                "--pictures-per-batch of at least 2",
            ),
        )
        for option, given, ignored, expected in useless:
            if given and ignored:
                raise InvalidRequest(
                    f"{option} would change nothing",
                    got=f"{option} without {expected}",
                    expected=expected,
                    fix=f"add it, or leave {option} out",
                )


def check_model_name(name: str) -> str:
    """`name`, if it can be a folder of the repository and a word of the configuration.

    Raises:
        InvalidRequest: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            "the model's name cannot be used",
            got=name,
            expected="a letter, then letters, digits and underscores, at most 64 in all",
            fix=f"leave it out for {DEFAULT_MODEL_NAME}",
        )
    if name.endswith(STREAM_SUFFIX):
        raise InvalidRequest(
            "the model's name cannot be used",
            got=name,
            expected=f"a name that does not end in {STREAM_SUFFIX}, as the models that stream do",
            fix=f"--name {name.removesuffix(STREAM_SUFFIX) or DEFAULT_MODEL_NAME}",
        )
    return name


def _check_one_of(what: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidRequest(
            f"unknown {what}",
            got=value,
            expected=" or ".join(known),
            fix="leave it out for the default",
        )


def _check_number(what: str, value: object, low: int, high: int) -> None:
    if whole_number(what, value, minimum=low) > high:
        raise InvalidRequest(
            f"{what} is out of range",
            got=value,
            expected=f"a whole number from {low} to {high}",
            fix="leave it out for the default",
        )
