"""The model that clients ask for pictures: plain or decoupled, its graphs in it or elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from fam_runtime.bundle import Bundle
from fam_runtime.errors import FamError
from fam_runtime.pipeline import FamPipeline
from fam_runtime.triton.bls import BlsBackend
from fam_runtime.triton.bundle_parts import sampler_files
from fam_runtime.triton.served.client_request import PlainRequest, StreamRequest
from fam_runtime.triton.served.counters import Counters
from fam_runtime.triton.served.numpy_check import check_numpy
from fam_runtime.triton.served.parameters import (
    Parameters,
    backend_options,
    confined_folder,
    use_instance_device,
    version_folder,
)
from fam_runtime.triton.served.picture_service import PictureService, ServiceOptions


class TritonPythonModel:
    """Triton's interface to the pipeline.

    Parameters of the configuration: ``bundle``, ``verify``, ``low_memory`` and those of the backend
    (:mod:`.parameters`); in the layout `engines` instead of the latter ``engines``, after which the
    models of the graphs are called, and ``engines_described``, what runs them;
    ``pictures_per_batch``, ``max_steps`` and ``response_cache_bytes`` of
    :class:`~fam_runtime.triton.served.picture_service.ServiceOptions`.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Verify the bundle and open the pipeline; graphs are loaded by the first request.

        Raises:
            TritonModelException: that is not possible; the text says why.
        """
        self._utilities: Any = import_module("triton_python_backend_utils")
        policy = json.loads(args["model_config"]).get("model_transaction_policy", {})
        self._decoupled = bool(policy.get("decoupled"))
        try:
            check_numpy()
            self._service = _service_from(args, self._utilities)
        except FamError as error:
            raise self._utilities.TritonModelException(str(error)) from None

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Answer requests that came together; a decoupled model sends its answers itself."""
        if self._decoupled:
            streams = [StreamRequest(self._utilities, request) for request in requests]
            self._service.answer(streams)
            return None
        plain = [PlainRequest(self._utilities, request) for request in requests]
        self._service.answer(plain)
        return [request.response for request in plain]

    def finalize(self) -> None:
        """Free the graphs."""
        self._service.close()


def _service_from(args: Mapping[str, str], utilities: Any) -> PictureService:
    parameters = Parameters(args)
    options = ServiceOptions(
        pictures_per_batch=parameters.whole_number("pictures_per_batch", 1, minimum=1),
        max_steps=parameters.whole_number("max_steps", None, minimum=1),
        cache_bytes=parameters.whole_number("response_cache_bytes", 0),
    )
    counters = Counters(utilities, args["model_name"], args["model_version"])
    pipe = _pipeline(args, parameters, utilities)
    return PictureService(pipe, options, counters, utilities.Logger.log_warn)


def _pipeline(args: Mapping[str, str], parameters: Parameters, utilities: Any) -> FamPipeline:
    """The pipeline, with the graphs in this process or in the models of `engines`."""
    folder = confined_folder(version_folder(args), parameters.text("bundle", "bundle"))
    verify = parameters.text("verify", "full")
    engines = parameters.text("engines", None)
    low_memory = parameters.flag("low_memory", False)
    if engines is not None:
        described = parameters.text("engines_described", "")
        bls = BlsBackend(utilities, engines, int(args["model_version"]), described)
        part = sampler_files(Bundle.unchecked(folder).manifest)
        opened = Bundle.open(folder, verify=verify, only=part)
        return FamPipeline(opened, bls, low_memory=low_memory)
    use_instance_device(args)
    name, options = backend_options(parameters)
    return FamPipeline.from_pretrained(
        folder, backend=name, low_memory=low_memory, verify=verify, progress=False, **options
    )
