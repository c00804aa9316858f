"""The settings of a picture as JSON, and back: everything that is needed to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fam_runtime.errors import InvalidRequest
from fam_runtime.tiling import Tiling

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle
    from fam_runtime.request import PictureRequest, Request

SETTINGS_VERSION = 1

_TYPES: Mapping[str, tuple[type, ...]] = {
    "prompt": (str,),
    "negative_prompt": (str, type(None)),
    "height": (int,),
    "width": (int,),
    "num_inference_steps": (int,),
    "guidance_scale": (int, float),
    "seed": (int,),
    "scheduler": (str,),
    "method": (str,),
    "am_strength": (int, float),
    "noise": (str,),
    "pictures_per_batch": (int,),
}
"""Settings that are arguments of the pipeline under the same name."""


def settings_of_picture(
    bundle: Bundle,
    request: Request,
    picture: PictureRequest,
    made_with: Mapping[str, str],
    fm_tables_hash: str | None,
) -> dict[str, Any]:
    """The settings of one picture; `made_with` names programs and versions."""
    tiling = request.tiling
    return {
        "settings_version": SETTINGS_VERSION,
        "bundle": {"name": bundle.manifest.model.name, "hash": bundle.hash},
        "prompt": picture.prompt,
        "negative_prompt": picture.negative_prompt,
        "height": request.target.height,
        "width": request.target.width,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "seed": picture.seed,
        "scheduler": request.scheduler,
        "method": request.method_name,
        "am_strength": request.am_strength,
        "noise": request.noise,
        "vae_tile": None if tiling is None else [tiling.tile, tiling.overlap],
        "pictures_per_batch": request.pictures_per_batch,
        "fm_tables": fm_tables_hash,
        "made_with": dict(made_with),
    }


def arguments_from_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of :meth:`FamPipeline.__call__` that make the picture again.

    Raises:
        InvalidRequest: the settings are of a newer version, miss a key, hold a wrong type, or were
            made with FM tables that are not in the bundle.
    """
    version = settings.get("settings_version")
    if not isinstance(version, int) or isinstance(version, bool) or version > SETTINGS_VERSION:
        raise _bad("settings_version", version, f"at most {SETTINGS_VERSION}")
    if settings.get("stage") == "native":
        raise InvalidRequest(
            "the picture is one of the native stage, whose settings are its target's",
            got="stage native",
            expected="the PNG of the target, which --save-native wrote beside it",
            fix="use the picture without -native in its name",
        )
    arguments: dict[str, Any] = {}
    for key, types in _TYPES.items():
        value = settings.get(key)
        if not isinstance(value, types) or isinstance(value, bool):
            raise _bad(key, value, " or ".join(kind.__name__ for kind in types))
        arguments[key] = value
    if settings.get("fm_tables") is not None:
        raise _bad("fm_tables", settings["fm_tables"], "the bundle's own tables")
    arguments["tile"] = _tiling(settings.get("vae_tile"))
    return arguments


def bundle_hash_from_settings(settings: Mapping[str, Any]) -> str | None:
    """The hash of the bundle that made the picture, if the settings say."""
    bundle = settings.get("bundle")
    value = bundle.get("hash") if isinstance(bundle, dict) else None
    return value if isinstance(value, str) else None


def differences_from_settings(
    settings: Mapping[str, Any], made_with: Mapping[str, str]
) -> list[str]:
    """What is different now from when the picture was made: a sentence each, at most two."""
    before = settings.get("made_with")
    if not isinstance(before, dict):
        return []
    sentences = []
    was, now = before.get("weights"), made_with.get("weights")
    if was != now and {was, now} == {"mapped", "packed"}:
        how = "with" if was == "mapped" else "without"
        sentences.append(
            f"the picture was made {how} low memory, and this one is not made so: "
            "a colour may differ by 1 of 255"
        )
    changed = [
        f"{key} {before[key]} (now {made_with[key]})"
        for key in sorted(before.keys() & made_with.keys() - {"weights"})
        if before[key] != made_with[key]
    ]
    if changed:
        sentences.append(
            f"the picture was made with {', '.join(changed)}: its last bits may differ"
        )
    return sentences


def _tiling(value: object) -> Tiling | None:
    if value is None:
        return None
    if (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(number, int) and not isinstance(number, bool) for number in value)
    ):
        return Tiling(*value)
    raise _bad("vae_tile", value, "null or [tile, overlap]")


def _bad(key: str, value: object, expected: str) -> InvalidRequest:
    return InvalidRequest(
        f"the picture's settings cannot be used: {key}",
        got=value,
        expected=expected,
        fix="use a picture that this fam-generate wrote, or give the settings as options",
    )
