"""What a model's configuration tells it: parameters, read by type, and its version's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from fam_runtime.backends import DEFAULT_BACKEND
from fam_runtime.backends.registry import ENGINE_BACKENDS
from fam_runtime.backends.tensorrt.settings import BatchRange, BuildSettings
from fam_runtime.bundle.paths import check_name
from fam_runtime.device.cuda_api import use_device
from fam_runtime.errors import BundlePathRefused, InvalidRequest

T = TypeVar("T")

_FLAGS = {"true": True, "1": True, "false": False, "0": False}


class Parameters:
    """The `parameters` of config.pbtxt, all of which are texts; an empty one counts as left out.

    Args:
        args: what Triton gives a Python model's `initialize`.
    """

    def __init__(self, args: Mapping[str, str]) -> None:
        given = json.loads(args["model_config"]).get("parameters", {})
        self._texts = {name: str(value["string_value"]) for name, value in given.items()}

    def required_text(self, name: str) -> str:
        """The parameter `name`.

        Raises:
            InvalidRequest: it is left out.
        """
        text = self.text(name, None)
        if text is None:
            raise _refused(name, None, "a value")
        return text

    def text(self, name: str, default: T) -> str | T:
        """The parameter `name`, or `default`."""
        return self._texts.get(name) or default

    def whole_number(self, name: str, default: T, *, minimum: int = 0) -> int | T:
        """The parameter `name` as a whole number, or `default`.

        Raises:
            InvalidRequest: it is none, or below `minimum`.
        """
        text = self.text(name, None)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit()) or int(text) < minimum:
            raise _refused(name, text, f"a whole number of at least {minimum}")
        return int(text)

    def flag(self, name: str, default: bool) -> bool:
        """The parameter `name` as a truth value, or `default`.

        Raises:
            InvalidRequest: it is none.
        """
        text = self.text(name, None)
        if text is None:
            return default
        if text.lower() not in _FLAGS:
            raise _refused(name, text, "true or false")
        return _FLAGS[text.lower()]


def backend_options(parameters: Parameters) -> tuple[str, dict[str, Any]]:
    """The backend's name and its options, for :func:`fam_runtime.backends.open_backend`.

    ONNX Runtime has a provider and threads; a TensorRT backend builds for the pictures of a batch,
    and keeps engines where the server's `FAM_CACHE_DIR` says: a configuration names no folder but
    its own.

    Raises:
        InvalidRequest: a value cannot be read.
    """
    name = parameters.text("backend", DEFAULT_BACKEND)
    if name in ENGINE_BACKENDS:
        pictures = parameters.whole_number("pictures_per_batch", 1, minimum=1)
        return name, {"settings": BuildSettings(BatchRange(1, pictures, pictures))}
    options = {
        "provider": parameters.text("provider", None),
        "num_threads": parameters.whole_number("threads", None, minimum=1),
    }
    return name, {option: value for option, value in options.items() if value is not None}


def use_instance_device(args: Mapping[str, str]) -> None:
    """Make the GPU that Triton gave this instance the current one; nothing on the CPU.

    Raises:
        BackendError: it cannot be used.
    """
    if args.get("model_instance_kind") == "GPU":
        use_device(int(args["model_instance_device_id"]))


def version_folder(args: Mapping[str, str]) -> Path:
    """The folder of the version that Triton loads, from what it gives `initialize`."""
    return Path(args["model_repository"]) / args["model_version"]


def confined_folder(version_folder: Path, text: str) -> Path:
    """The folder `text` below the version's folder.

    Raises:
        InvalidRequest: it leaves the version's folder, by its name or through a link.
    """
    try:
        folder = version_folder / check_name(text)
    except BundlePathRefused as error:
        raise _outside(text) from error
    if not folder.resolve().is_relative_to(version_folder.resolve()):
        raise _outside(text)
    return folder


def _outside(text: str) -> InvalidRequest:
    return InvalidRequest(
        "the configuration names a folder that is not in the version's folder",
        got=text,
        expected="a relative path with '/' that stays inside it, also through links",
        fix="write the model repository again with fam-triton",
    )


def _refused(name: str, got: str | None, expected: str) -> InvalidRequest:
    return InvalidRequest(
        f"the parameter {name} of the model's configuration cannot be used",
        got=got,
        expected=expected,
        fix="correct it in config.pbtxt, or write the model repository again with fam-triton",
    )
