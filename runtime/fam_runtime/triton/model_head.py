"""The first line of a configuration: whose it is, and the options that it was written with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from fam_runtime.triton.options import RepositoryOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

PICTURE_ROLE, STREAM_ROLE, GRAPH_ROLE = "picture", "stream", "graph"
"""Of models; a graph's is followed by the name of its file."""

MAX_HEAD_BYTES = 8192

_MARK = "fam-triton: "
_NOT_OF_A_MODEL = frozenset({"name", "version"})
_DEFAULTS = RepositoryOptions()


@dataclass(frozen=True)
class ModelHead:
    """Whose a configuration is.

    Attributes:
        base: name of the picture model that it belongs to.
        role: of the model: ``picture``, ``stream``, or ``graph unet/native.onnx`` and so on.
        options: those that are not the default, as JSON has them.
    """

    base: str
    role: str
    options: Mapping[str, Any]

    @classmethod
    def of(cls, options: RepositoryOptions, role: str) -> ModelHead:
        """The head of a model that is written with `options`."""
        given = {
            name: value
            for name, value in _values(options)
            if value != getattr(_DEFAULTS, name) and name not in _NOT_OF_A_MODEL
        }
        return cls(options.name, role, json.loads(json.dumps(given)))

    @property
    def comment(self) -> str:
        """One line, for the first comment of the configuration."""
        return _MARK + json.dumps(
            {"name": self.base, "role": self.role, "options": dict(self.options)}
        )

    def option(self, name: str) -> Any:
        """An option, which is the default where it was not given."""
        return self.options.get(name, getattr(_DEFAULTS, name))

    def changes(self, later: ModelHead) -> tuple[str, ...]:
        """What `later` says otherwise, such as ``queue_size 3 -> none``."""
        pairs = ((name, self.option(name), later.option(name)) for name, _ in _values(_DEFAULTS))
        return tuple(
            f"{name} {_shown(before)} -> {_shown(after)}"
            for name, before, after in pairs
            if name not in _NOT_OF_A_MODEL and _shown(before) != _shown(after)
        )


def head_from_config(data: bytes) -> ModelHead | None:
    """The head of a configuration; None where fam-triton did not write it."""
    line = data[:MAX_HEAD_BYTES].partition(b"\n")[0].decode("ascii", "replace")
    if not line.startswith(f"# {_MARK}"):
        return None
    try:
        found = json.loads(line.partition(_MARK)[2])
        base, role, options = found["name"], found["role"], found["options"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    if not (isinstance(base, str) and isinstance(role, str) and isinstance(options, dict)):
        return None
    return ModelHead(base, role, options)


def _values(options: RepositoryOptions) -> Iterator[tuple[str, Any]]:
    return ((field.name, getattr(options, field.name)) for field in fields(options))


def _shown(value: object) -> str:
    if value is None or value in ((), []):
        return "none"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
