"""Versions that are served together: they have one configuration, which must suit all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fam_runtime.errors import InvalidRequest
from fam_runtime.tiling import tiles_of_latents

if TYPE_CHECKING:
    from fam_runtime.bundle import GraphSpec, Manifest, Target

Tile = tuple[int, int]


@dataclass(frozen=True)
class OtherVersions:
    """What the new version has beside it.

    Attributes:
        pictures: of each version whose picture models are served with the new one.
        graphs: of each version whose graphs' models are; one version more, so that the old sampler
            has its graphs until the new one is there. Layout `engines` only.
    """

    pictures: tuple[Manifest, ...] = ()
    graphs: tuple[Manifest, ...] = ()

    def common_targets(self, manifest: Manifest) -> tuple[Target, ...]:
        """Targets of the new version's `manifest` that every version has."""
        return tuple(
            target
            for target in manifest.targets
            if all(target.size in [t.size for t in other.targets] for other in self.pictures)
        )

    def all_tiles(self, manifest: Manifest, *, low_memory: bool) -> tuple[Tile, ...]:
        """Every height and width, in latent samples, that a version decodes at once."""
        found = (decoder_tiles(one, low_memory=low_memory) for one in (manifest, *self.graphs))
        return tuple(dict.fromkeys(tile for tiles in found for tile in tiles))

    def common_tiles(self, manifest: Manifest, *, low_memory: bool) -> tuple[Tile, ...]:
        """Those that every version decodes."""
        others = [decoder_tiles(one, low_memory=low_memory) for one in self.graphs]
        return tuple(
            tile
            for tile in decoder_tiles(manifest, low_memory=low_memory)
            if all(tile in other for other in others)
        )

    def check_tensors(self, manifest: Manifest) -> None:
        """Refuse graphs whose tensors differ from those of another version's.

        Raises:
            InvalidRequest: they do.
        """
        for graph, spec in manifest.graphs.items():
            for other in self.graphs:
                before = other.graphs.get(graph)
                if before is not None and _tensors(before) != _tensors(spec):
                    raise InvalidRequest(
                        f"{graph} has other inputs or outputs than in a version that is served",
                        got=_first_difference(_tensors(before), _tensors(spec)),
                        expected="the same names, types and shapes: versions share a configuration",
                        fix="write it under another --name",
                    )


ALONE = OtherVersions()


def decoder_tiles(manifest: Manifest, *, low_memory: bool) -> tuple[Tile, ...]:
    """Height and width, in latent samples, of what the VAE decodes at once, for every target."""
    latents = [manifest.latent_size(target) for target in manifest.targets]
    return tiles_of_latents(latents, low_memory=low_memory)


def _tensors(spec: GraphSpec) -> list[str]:
    described = []
    for kind, tensors in (("input", spec.inputs), ("output", spec.outputs)):
        described += [f"{kind} {t.name} {t.dtype} {list(t.shape)}" for t in tensors]
    return described


def _first_difference(before: Sequence[str], after: Sequence[str]) -> str:
    changed = [one for one in after if one not in before] or [
        f"no {one}" for one in before if one not in after
    ]
    return changed[0] if changed else "another order"
