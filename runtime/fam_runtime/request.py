"""A call of the pipeline, checked and with every default filled in, before anything is loaded."""

from __future__ import annotations

import operator
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fam_runtime.arguments import real_number, text_of, whole_number
from fam_runtime.errors import InvalidRequest
from fam_runtime.methods import DEFAULT_METHOD, Method, method_named, resolve_am_strength
from fam_runtime.native_attention import NATIVE_ATTENTION_MODES, NativeAttentionMode
from fam_runtime.noise import DEFAULT_NOISE_SOURCE, noise_source
from fam_runtime.prompt import check_prompt
from fam_runtime.target_choice import Scale, choose_target
from fam_runtime.tiling import Tiling, default_tiling, smaller_tilings

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle, Manifest, Target

Prompt = str | Sequence[str]
Seed = int | Sequence[int] | None
TileChoice = Literal["auto"] | int | Tiling | None

MAX_PICTURES = 1_000
MAX_GUIDANCE_SCALE = 1_000
_DRAWN_SEED_BITS = 32


@dataclass(frozen=True)
class PictureRequest:
    """One picture: texts and seed. A missing negative prompt is None, which is not an empty one."""

    prompt: str
    negative_prompt: str | None
    seed: int


@dataclass(frozen=True)
class Request:
    """Everything that decides the pictures of a call, and how they are made.

    Attributes:
        pictures: one entry per picture.
        target: size, and the graphs that make it.
        tiling: of the VAE decode at the target size; None is one piece.
        smaller_tilings: what a memory budget may put in its place; none where the call fixes it.
        native_attention: how taps are kept, which changes no bit of a picture.
        pictures_per_batch: how many pictures go through a graph at once.
    """

    pictures: tuple[PictureRequest, ...]
    target: Target
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    method_name: str
    am_strength: float
    noise: str
    tiling: Tiling | None
    smaller_tilings: tuple[Tiling, ...]
    native_attention: NativeAttentionMode
    pictures_per_batch: int

    @property
    def method(self) -> Method:
        """The method's choices of inputs."""
        return method_named(self.method_name)


def resolve_request(
    bundle: Bundle,
    prompt: Prompt,
    negative_prompt: Prompt | None = None,
    *,
    scale: Scale | None = None,
    height: int | None = None,
    width: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: Seed = 0,
    num_images_per_prompt: int = 1,
    method: str | None = None,
    scheduler: str | None = None,
    am_strength: float | None = None,
    native_attention: NativeAttentionMode = "auto",
    noise: str | None = None,
    tile: TileChoice = "auto",
    pictures_per_batch: int = 1,
    low_memory: bool = False,
) -> Request:
    """Check a call's arguments and fill in the bundle's defaults.

    Raises:
        TargetNotBuilt: the bundle has no such size.
        InvalidRequest: another argument cannot be used.
    """
    manifest = bundle.manifest
    method_name = DEFAULT_METHOD if method is None else text_of("method", method)
    target = choose_target(bundle, scale, height, width)
    latent = manifest.latent_size(target)
    request = Request(
        pictures=_pictures(prompt, negative_prompt, seed, num_images_per_prompt),
        target=target,
        num_inference_steps=_steps(manifest, num_inference_steps),
        guidance_scale=_guidance_scale(manifest, guidance_scale),
        scheduler=manifest.defaults.scheduler
        if scheduler is None
        else text_of("scheduler", scheduler),
        method_name=method_name,
        am_strength=resolve_am_strength(method_name, am_strength, manifest.defaults.am_strength),
        noise=DEFAULT_NOISE_SOURCE if noise is None else text_of("noise", noise),
        tiling=_tiling(tile, latent, low_memory=low_memory),
        smaller_tilings=smaller_tilings(*latent) if tile == "auto" else (),
        native_attention=_native_attention(native_attention),
        pictures_per_batch=whole_number("pictures_per_batch", pictures_per_batch),
    )
    for picture in request.pictures:
        noise_source(request.noise, picture.seed)
    return request


def _steps(manifest: Manifest, steps: int | None) -> int:
    if steps is None:
        return manifest.defaults.num_inference_steps
    return whole_number("num_inference_steps", steps)


def _native_attention(mode: NativeAttentionMode) -> NativeAttentionMode:
    if mode not in NATIVE_ATTENTION_MODES:
        raise InvalidRequest(
            "unknown native_attention",
            got=mode,
            expected=" or ".join(NATIVE_ATTENTION_MODES),
            fix="use auto, the default",
        )
    return mode


def _guidance_scale(manifest: Manifest, guidance_scale: float | None) -> float:
    """The guidance that is fed; as in diffusers, 1 or less means none, which is 1.

    A UNet that has the scale as a condition (LCM) gets any scale from 1, since it was distilled
    with `guidance_scale - 1` from 0 on.
    """
    fed = manifest.model.takes_guidance_scale
    if guidance_scale is None:
        return max(manifest.defaults.guidance_scale, 1.0) if fed else 1.0
    scale = real_number("guidance_scale", guidance_scale, 0, MAX_GUIDANCE_SCALE)
    if scale > 1 and not fed:
        raise InvalidRequest(
            "the bundle was exported without guidance",
            got=guidance_scale,
            expected="guidance_scale of at most 1",
            fix="leave guidance_scale out, or export without --no-guidance",
        )
    return max(scale, 1.0)


def _pictures(
    prompt: Prompt, negative_prompt: Prompt | None, seed: Seed, per_prompt: int
) -> tuple[PictureRequest, ...]:
    prompts = (
        list(prompt) if isinstance(prompt, (list, tuple)) else [check_prompt("the prompt", prompt)]
    )
    if not prompts:
        raise InvalidRequest("no prompt", got=prompts, expected="at least one", fix="pass a text")
    for text in prompts:
        check_prompt("the prompt", text)
    negatives: list[str | None]
    if isinstance(negative_prompt, (list, tuple)):
        negatives = list(negative_prompt)
    else:
        negatives = [negative_prompt] * len(prompts)  # type: ignore[list-item]  # checked below
    for text in negatives:
        if text is not None:
            check_prompt("the negative prompt", text, may_be_empty=True)
    if len(negatives) != len(prompts):
        raise InvalidRequest(
            "prompts and negative prompts do not pair up",
            got=f"{len(prompts)} and {len(negatives)}",
            expected="as many negative prompts as prompts, or one text for all",
            fix="pass one negative prompt as a str",
        )
    count = len(prompts) * whole_number("num_images_per_prompt", per_prompt)
    if count > MAX_PICTURES:
        raise InvalidRequest(
            "too many pictures in one call",
            got=count,
            expected=f"at most {MAX_PICTURES}",
            fix="make several calls",
        )
    seeds = _seeds(seed, count)
    return tuple(
        PictureRequest(prompts[i // per_prompt], negatives[i // per_prompt], seeds[i])
        for i in range(count)
    )


def _seeds(seed: Seed, count: int) -> list[int]:
    """Picture `i` has `seed + i`; None draws the first one."""
    if seed is None:
        seed = secrets.randbits(_DRAWN_SEED_BITS)
    if isinstance(seed, Sequence) and not isinstance(seed, str):
        if len(seed) != count:
            raise InvalidRequest(
                "seeds and pictures do not pair up",
                got=f"{len(seed)} seeds, {count} pictures",
                expected="one seed per picture, or one for all",
                fix="pass one seed; picture i gets seed + i",
            )
        return [_seed(value) for value in seed]
    first = _seed(seed)
    return [first + i for i in range(count)]


def _seed(value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]  # its refusal is what we ask for
    except TypeError:
        raise InvalidRequest(
            "seed is not a whole number", got=value, expected="an int", fix="pass an int, or None"
        ) from None


def _tiling(tile: TileChoice, latent: tuple[int, int], *, low_memory: bool) -> Tiling | None:
    if tile == "auto":
        return default_tiling(*latent, low_memory=low_memory)
    if tile is None or isinstance(tile, Tiling):
        tiling = tile
    else:
        tiling = Tiling(whole_number("tile", tile), max(tile // 4, 1))
    if tiling is not None and tiling.tile >= max(latent):
        return None
    return tiling
