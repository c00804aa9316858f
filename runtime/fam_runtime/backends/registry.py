"""Backends by the names that `--backend` takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import cast

from fam_runtime.backends.base import Backend
from fam_runtime.errors import InvalidRequest

DEFAULT_BACKEND = "onnxruntime"

BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "onnxruntime": "fam_runtime.backends.onnxruntime:OnnxruntimeBackend",
        "tensorrt": "fam_runtime.backends.tensorrt.backend:TensorrtBackend",
        "tensorrt-rtx": "fam_runtime.backends.tensorrt.backend:TensorrtRtxBackend",
    }
)
"""Name to `module:class`; a module is imported when its backend is asked for."""

ENGINE_BACKENDS = ("tensorrt", "tensorrt-rtx")
"""Those that build engines."""


def open_backend(name: str = DEFAULT_BACKEND, **options: object) -> Backend:
    """Make the backend called `name` with its own options.

    Raises:
        InvalidRequest: the name is unknown, or an option cannot be used.
        BackendError: its library is missing.
    """
    where = BACKENDS.get(name)
    if where is None:
        raise InvalidRequest(
            "unknown backend",
            got=name,
            expected=" or ".join(BACKENDS),
            fix=f"use {DEFAULT_BACKEND}, the default",
        )
    module, _, attribute = where.partition(":")
    factory = cast("Callable[..., Backend]", getattr(import_module(module), attribute))
    known = inspect.signature(factory).parameters
    if unknown := [option for option in options if option not in known]:
        raise InvalidRequest(
            f"the {name} backend has no such option",
            got=", ".join(unknown),
            expected=", ".join(known),
            fix="leave it out, or use another backend",
        )
    return factory(**options)
