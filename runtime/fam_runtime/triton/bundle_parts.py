"""Which files of a bundle each model of a repository needs."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fam_runtime.bundle import Manifest


def sampler_files(manifest: Manifest) -> tuple[str, ...]:
    """What the sampler reads where the graphs are elsewhere: tokenizers, FM kernels, schedules.

    These are the files in folders without a graph, which can be told from the manifest alone.
    """
    with_graphs = {PurePosixPath(graph).parent for graph in manifest.graphs}
    return tuple(name for name in manifest.files if PurePosixPath(name).parent not in with_graphs)


def graphs_of_pictures(manifest: Manifest) -> tuple[str, ...]:
    """Every graph that text-to-image runs: all but the VAE's encoder."""
    return tuple(graph for graph in manifest.graphs if graph != manifest.vae.encoder)
