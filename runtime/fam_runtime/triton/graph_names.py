"""Names of the models that hold one graph each, in the layout `engines`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fam_runtime.errors import InvalidRequest
from fam_runtime.triton.interface import STREAM_SUFFIX

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_]+")


def model_name_of_graph(base: str, graph: str) -> str:
    """The model of a graph: ``unet/target-128x128.onnx`` is ``<base>_unet_target_128x128``.

    Args:
        base: name of the model that clients ask.
        graph: name of the graph's file in the bundle; a ``model.onnx`` is called by its folder.
    """
    path = graph.removesuffix(".onnx").removesuffix("/model")
    return f"{base}_{_NOT_IN_A_NAME.sub('_', path).strip('_')}"


def model_names(base: str, graphs: Iterable[str]) -> dict[str, str]:
    """The model of every graph, all different, and different from the models that clients ask.

    Raises:
        InvalidRequest: two of them would have one name.
    """
    owners = {base: "the model itself", base + STREAM_SUFFIX: "the model that streams"}
    names = {}
    for graph in graphs:
        name = names[graph] = model_name_of_graph(base, graph)
        owner = owners.setdefault(name, graph)
        if owner != graph:
            raise InvalidRequest(
                f"two models of the repository would be called {name}",
                got=f"{graph} and {owner}",
                expected="graphs whose names differ in letters or digits",
                fix="export the bundle again with fam-export, which names them so",
            )
    return names
