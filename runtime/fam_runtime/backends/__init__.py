"""Inference libraries behind one interface; each library is imported inside its own folder."""

from fam_runtime.backends.base import Backend, Runner, Value, Values
from fam_runtime.backends.registry import BACKENDS, DEFAULT_BACKEND, open_backend

__all__ = ["BACKENDS", "DEFAULT_BACKEND", "Backend", "Runner", "Value", "Values", "open_backend"]
