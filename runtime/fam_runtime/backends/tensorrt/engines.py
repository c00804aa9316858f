"""Engines of a bundle: from the cache where they are, else built and kept there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from fam_runtime.backends.tensorrt.architecture import Gpu
from fam_runtime.backends.tensorrt.build import BuildRequest, build_plan
from fam_runtime.backends.tensorrt.build_cost import build_cost, check_build_resources
from fam_runtime.backends.tensorrt.cache import CachedPlan, EngineCache
from fam_runtime.backends.tensorrt.engine_key import EngineKey, engine_key
from fam_runtime.backends.tensorrt.library import TensorrtLibrary
from fam_runtime.backends.tensorrt.progress import EngineProgress, NoEngineProgress
from fam_runtime.backends.tensorrt.settings import BuildSettings
from fam_runtime.backends.tensorrt.shapes import (
    BATCH,
    SymbolRange,
    SymbolRanges,
    exactly,
)
from fam_runtime.bundle import NATIVE_GRAPH
from fam_runtime.errors import BackendError
from fam_runtime.free_memory import give_back_freed_memory
from fam_runtime.tiling import tiles_of_latents

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle, Target


_BATCHED_FOLDER = "unet/"


class WantedEngine(NamedTuple):
    """A graph of a bundle, and the sizes of its symbols."""

    graph: str
    ranges: SymbolRanges


@dataclass(frozen=True)
class Engines:
    """Gives engines, building those that are not there.

    Attributes:
        library: who builds.
        gpu: for which.
        settings: how.
        cache: where they are kept.
        progress: told about it.
        check_resources: refuse builds that memory or disk seem too small for.
    """

    library: TensorrtLibrary
    gpu: Gpu
    settings: BuildSettings
    cache: EngineCache
    progress: EngineProgress = field(default_factory=NoEngineProgress)
    check_resources: bool = True

    def plan(self, bundle: Bundle, wanted: WantedEngine) -> CachedPlan:
        """The plan of an engine of `bundle`.

        Raises:
            BackendError: it cannot be built.
            StorageError: it cannot be kept.
            Cancelled: the user stopped the build.
        """
        key = self.key(bundle, wanted)
        model, graph = bundle.manifest.model.name, wanted.graph
        title = f"{graph} {self.gpu.architecture}"
        found = self.cache.find(model, graph, key)
        if isinstance(found, CachedPlan):
            self.progress.reused(title)
            return found
        name = self.cache.plan_name(model, graph, key)
        with self.cache.store.locked(name, lambda: self.progress.waiting(title)):
            found = self.cache.find(model, graph, key)  # another process may have built it
            if isinstance(found, str):
                self._build(bundle, wanted, key, title, found)
                found = self.cache.find(model, graph, key)
        if isinstance(found, str):
            raise BackendError(
                f"the engine of {graph} cannot be read back from the cache",
                got=found,
                expected="the plan that was just written",
                fix="give another folder by --cache-dir",
            )
        return found

    def key(self, bundle: Bundle, wanted: WantedEngine) -> EngineKey:
        """Everything that the engine depends on."""
        return engine_key(
            bundle, wanted.graph, wanted.ranges, self.library, self.gpu, self.settings
        )

    def _build(
        self, bundle: Bundle, wanted: WantedEngine, key: EngineKey, title: str, reason: str
    ) -> None:
        model, graph = bundle.manifest.model.name, wanted.graph
        cost = build_cost(bundle, graph, strip_weights=self.settings.strip_weights)
        if self.check_resources:
            check_build_resources(graph, cost, self.cache.store.root)
        earlier = self.cache.seconds_of_earlier_build(model, graph, key)
        request = BuildRequest(
            self.library,
            self.gpu.architecture,
            graph,
            bundle.path(graph),
            bundle.manifest.graphs[graph],
            wanted.ranges,
            key.flags,
            self.settings.workspace_bytes,
            self.settings.optimization_level,
        )
        self.progress.begin(title, reason, cost.seconds if earlier is None else earlier)
        done = False
        try:
            built = build_plan(
                request,
                timing_cache=self.cache.timing_cache(key),
                on_progress=self.progress.update,
            )
            self.cache.keep(model, graph, key, built.data, built.seconds)
            done = True
            self.cache.keep_timing_cache(key, built.timing_cache)
        finally:
            self.progress.end(built=done)
            give_back_freed_memory()


def ranges_of(
    graph: str, sizes: Mapping[str, int], settings: BuildSettings
) -> dict[str, SymbolRange]:
    """What an engine of `graph` is built for when it is to run at `sizes` of its symbols.

    Text encoders and the VAE run picture by picture, the UNet's graphs in batches: these get the
    range of the settings where the batch is in it. All other sizes are static.
    """
    ranges = exactly(sizes)
    batch = settings.batch
    if graph.startswith(_BATCHED_FOLDER) and sizes.get(BATCH) in batch:
        ranges[BATCH] = SymbolRange(batch.minimum, batch.optimum, batch.maximum)
    return ranges


def engines_of_targets(
    bundle: Bundle, targets: Sequence[Target], settings: BuildSettings
) -> list[WantedEngine]:
    """Every engine that pictures of `targets` need with the default options, in the order of use.

    The VAE decoder is built for the tile that each target is decoded in.
    """
    manifest = bundle.manifest
    graphs = [encoder.graph for encoder in manifest.text_encoders]
    graphs.append(NATIVE_GRAPH)
    for target in targets:
        graphs += [target.upsample, target.step]
    wanted = []
    for graph in graphs:
        batch = settings.batch.optimum if graph.startswith(_BATCHED_FOLDER) else 1
        wanted.append(WantedEngine(graph, ranges_of(graph, {BATCH: batch}, settings)))
    decoder = manifest.vae.decoder
    latents = [manifest.latent_size(target) for target in targets]
    for height, width in tiles_of_latents(latents, low_memory=False):
        sizes = {BATCH: 1, "h": height, "w": width}
        wanted.append(WantedEngine(decoder, ranges_of(decoder, sizes, settings)))
    return wanted
