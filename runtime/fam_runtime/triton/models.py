"""The models of a repository, from the manifest: which there are, and what each one needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fam_runtime.triton.bundle_parts import sampler_files
from fam_runtime.triton.graph_models import graph_models
from fam_runtime.triton.model_head import PICTURE_ROLE, STREAM_ROLE, ModelHead
from fam_runtime.triton.other_versions import ALONE, OtherVersions
from fam_runtime.triton.picture_config import picture_config
from fam_runtime.triton.runtime_parameters import engines_described, runtime_parameters
from fam_runtime.triton.served_files import BUNDLE_FOLDER, ModelFolder, program
from fam_runtime.triton.warmup import WarmupSample, picture_samples, warmup_files

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle
    from fam_runtime.triton.options import RepositoryOptions


def models_of_bundle(
    bundle: Bundle, options: RepositoryOptions, beside: OtherVersions = ALONE
) -> tuple[ModelFolder, ...]:
    """Every model that serves `bundle`, those that are called before those that call them.

    Args:
        bundle: of the new version.
        options: of the repository.
        beside: versions whose models have the same configurations, which must suit them too.

    Raises:
        BackendError: the bundle cannot run in this layout.
    """
    graphs = graph_models(bundle, options, beside) if options.layout == "engines" else ()
    samples: tuple[WarmupSample, ...] = ()
    if options.warmup and options.layout == "pipeline":
        targets = beside.common_targets(bundle.manifest)
        samples = picture_samples(targets, options.pictures_per_batch)
    pictures = (
        _picture_model(bundle, options, name, samples, decoupled=decoupled)
        for name, decoupled in options.picture_models.items()
    )
    return (*graphs, *pictures)


def _picture_model(
    bundle: Bundle,
    options: RepositoryOptions,
    name: str,
    samples: tuple[WarmupSample, ...],
    *,
    decoupled: bool,
) -> ModelFolder:
    head = ModelHead.of(options, STREAM_ROLE if decoupled else PICTURE_ROLE)
    config = picture_config(
        name,
        head,
        options,
        samples,
        decoupled=decoupled,
        parameters=_picture_parameters(options),
    )
    return ModelFolder(
        name,
        head,
        config,
        shared_files=warmup_files(samples),
        version_files=program("picture_model"),
        bundle_part=_bundle_part(bundle, options),
    )


def _bundle_part(bundle: Bundle, options: RepositoryOptions) -> tuple[str, ...]:
    """All of the bundle, or what is left where the graphs have models of their own."""
    manifest = bundle.manifest
    return tuple(manifest.files) if options.layout == "pipeline" else sampler_files(manifest)


def _picture_parameters(options: RepositoryOptions) -> dict[str, str]:
    parameters = {
        "bundle": BUNDLE_FOLDER,
        "verify": options.verify,
        "pictures_per_batch": str(options.pictures_per_batch),
        "response_cache_bytes": str(options.response_cache_bytes),
    }
    if options.max_steps is not None:
        parameters["max_steps"] = str(options.max_steps)
    if options.layout == "pipeline":
        return {**parameters, **runtime_parameters(options)}
    return {
        **parameters,
        "engines": options.name,
        "engines_described": engines_described(options),
        "low_memory": str(options.low_memory).lower(),
    }
