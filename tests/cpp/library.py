"""libfam through ctypes: the C ABI as an application in another language sees it."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Sequence
from ctypes import (
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fam_runtime.closing import Closing

STATUSES = (
    "OK",
    "InvalidRequest",
    "TargetNotBuilt",
    "BundleNotFound",
    "BundleDamaged",
    "BundlePathRefused",
    "BundleVersionUnsupported",
    "StorageError",
    "BackendError",
    "OutOfMemory",
    "NumericError",
    "Cancelled",
    "Busy",
    "Internal",
)
"""By their numbers; those that Python has by the names of its classes."""

TARGET, NATIVE = 0, 1
PHASES = ("checking", "text", "native", "target", "decode")


class ProgressStruct(Structure):
    """fam_progress."""

    _fields_ = (
        ("struct_size", c_uint32),
        ("phase", c_int),
        ("step", c_uint64),
        ("total", c_uint64),
        ("picture_index", c_uint64),
        ("timestep", c_double),
        ("latent", POINTER(c_float)),
        ("latent_shape", c_uint64 * 4),
    )


ProgressFunction = ctypes.CFUNCTYPE(c_int, POINTER(ProgressStruct), c_void_p)


class OptionsStruct(Structure):
    """fam_pipeline_options."""

    _fields_ = (
        ("struct_size", c_uint32),
        ("verify", c_int),
        ("backend", c_char_p),
        ("provider", c_char_p),
        ("num_threads", c_uint32),
        ("low_memory", c_uint32),
        ("device_index", c_uint32),
        ("reserved", c_uint32),
        ("cache_dir", c_char_p),
        ("progress", ProgressFunction),
        ("user_data", c_void_p),
    )


class InfoStruct(Structure):
    """fam_bundle_info."""

    _fields_ = (
        ("struct_size", c_uint32),
        ("target_count", c_uint32),
        ("name", c_char_p),
        ("family", c_char_p),
        ("dtype", c_char_p),
        ("hash", c_char_p),
        ("native_height", c_uint32),
        ("native_width", c_uint32),
    )


class RequestStruct(Structure):
    """fam_request."""

    _fields_ = (
        ("struct_size", c_uint32),
        ("num_images_per_prompt", c_uint32),
        ("prompt", c_char_p),
        ("negative_prompt", c_char_p),
        ("prompts", POINTER(c_char_p)),
        ("negative_prompts", POINTER(c_char_p)),
        ("prompt_count", c_size_t),
        ("scale", c_double),
        ("scale_width", c_double),
        ("height", c_uint32),
        ("width", c_uint32),
        ("num_inference_steps", c_uint32),
        ("pictures_per_batch", c_uint32),
        ("guidance_scale", POINTER(c_double)),
        ("am_strength", POINTER(c_double)),
        ("scheduler", c_char_p),
        ("method", c_char_p),
        ("noise", c_char_p),
        ("native_attention", c_char_p),
        ("seed", c_uint64),
        ("seeds", POINTER(c_uint64)),
        ("seed_count", c_size_t),
        ("draw_seed", c_uint32),
        ("tile", c_uint32),
        ("tile_overlap", c_uint32),
        ("return_native", c_uint32),
        ("latents_only", c_uint32),
        ("watch_latents", c_uint32),
        ("progress", ProgressFunction),
        ("user_data", c_void_p),
    )


class ImageStruct(Structure):
    """fam_image."""

    _fields_ = (
        ("struct_size", c_uint32),
        ("height", c_uint32),
        ("width", c_uint32),
        ("reserved", c_uint32),
        ("rgb", POINTER(c_uint8)),
        ("seed", c_uint64),
        ("settings_json", c_char_p),
        ("latent", POINTER(c_float)),
        ("latent_channels", c_uint32),
        ("latent_height", c_uint32),
        ("latent_width", c_uint32),
        ("reserved2", c_uint32),
    )


@dataclass(frozen=True)
class LibraryError(Exception):
    """A call of libfam failed.

    Attributes:
        kind: one of :data:`STATUSES`.
        text: its words.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Event:
    """What a progress callback is told; the latent is a copy."""

    phase: str
    step: int
    total: int
    picture_index: int
    timestep: float
    latent: npt.NDArray[np.float32] | None


OnProgress = Callable[[Event], bool]
"""False cancels."""


@dataclass(frozen=True, eq=False)
class LibraryImage:
    """A picture: uint8 ``[height, width, 3]`` (None without decoding), latent ``[C, h, w]``."""

    rgb: npt.NDArray[np.uint8] | None
    latent: npt.NDArray[np.float32]
    seed: int
    settings: dict[str, Any]

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The picture, which was decoded."""
        assert self.rgb is not None
        return self.rgb


@dataclass(frozen=True, eq=False)
class LibraryResult:
    """What a call made, copied out of the handle."""

    images: list[LibraryImage]
    native: list[LibraryImage]
    warnings: list[str]
    report: dict[str, Any] = field(default_factory=dict)


class Library:
    """A loaded libfam.

    Args:
        path: of the shared library.
    """

    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        for name in ("fam_last_error", "fam_version", "fam_status_name", "fam_result_warning"):
            getattr(self.c, name).restype = c_char_p
        self.c.fam_result_report_json.restype = c_char_p
        self.c.fam_result_report_json.argtypes = (c_void_p,)
        self.c.fam_result_image_count.restype = c_size_t
        self.c.fam_result_image_count.argtypes = (c_void_p, c_int)
        self.c.fam_result_warning_count.restype = c_size_t
        self.c.fam_result_warning_count.argtypes = (c_void_p,)
        self.c.fam_result_warning.argtypes = (c_void_p, c_size_t)
        self.c.fam_result_image.argtypes = (c_void_p, c_int, c_size_t, POINTER(ImageStruct))
        self.c.fam_result_save_png.argtypes = (c_void_p, c_int, c_size_t, c_char_p)
        self.c.fam_result_free.argtypes = (c_void_p,)
        self.c.fam_pipeline_open.argtypes = (c_char_p, POINTER(OptionsStruct), POINTER(c_void_p))
        self.c.fam_generate.argtypes = (c_void_p, POINTER(RequestStruct), POINTER(c_void_p))
        for name in ("fam_pipeline_close", "fam_pipeline_cancel", "fam_pipeline_unload"):
            getattr(self.c, name).argtypes = (c_void_p,)
        self.c.fam_pipeline_bundle.argtypes = (c_void_p, POINTER(InfoStruct))

    def check(self, status: int) -> None:
        """Raises:
        LibraryError: for any status but OK.
        """
        if status:
            raise LibraryError(STATUSES[status], self.c.fam_last_error().decode())

    def open(self, path: Path | str, **options: Any) -> LibraryPipeline:
        """A pipeline; `options` are fields of fam_pipeline_options."""
        return LibraryPipeline(self, path, **options)


class LibraryPipeline(Closing):
    """A pipeline of libfam."""

    def __init__(
        self, library: Library, path: Path | str, progress: OnProgress | None = None, **options: Any
    ) -> None:
        self.library = library
        given = OptionsStruct(ctypes.sizeof(OptionsStruct), **_encoded(options))
        given.progress = _function(progress)
        self.handle = c_void_p()
        library.check(
            library.c.fam_pipeline_open(
                str(path).encode(), ctypes.byref(given), ctypes.byref(self.handle)
            )
        )

    def generate(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str | None] | None = None,
        *,
        seeds: Sequence[int] | None = None,
        guidance_scale: float | None = None,
        am_strength: float | None = None,
        progress: OnProgress | None = None,
        **fields: Any,
    ) -> LibraryResult:
        """Pictures; `fields` are those of fam_request."""
        request = RequestStruct(ctypes.sizeof(RequestStruct), **_encoded(fields))
        if isinstance(prompt, str):
            request.prompt = prompt.encode()
        else:
            request.prompts = _texts(prompt)
            request.prompt_count = len(prompt)
        if isinstance(negative_prompt, str):
            request.negative_prompt = negative_prompt.encode()
        elif negative_prompt is not None:
            request.negative_prompts = _texts(negative_prompt)
        if seeds is not None:
            request.seeds, request.seed_count = (c_uint64 * len(seeds))(*seeds), len(seeds)
        if guidance_scale is not None:
            request.guidance_scale = ctypes.pointer(c_double(guidance_scale))
        if am_strength is not None:
            request.am_strength = ctypes.pointer(c_double(am_strength))
        request.progress = _function(progress)
        result = c_void_p()
        library = self.library
        library.check(
            library.c.fam_generate(self.handle, ctypes.byref(request), ctypes.byref(result))
        )
        try:
            return self._copied(result)
        finally:
            library.c.fam_result_free(result)

    def close(self) -> None:
        """Free the handle."""
        self.library.c.fam_pipeline_close(self.handle)
        self.handle = c_void_p()

    def __enter__(self) -> Self:
        return self

    def _copied(self, result: c_void_p) -> LibraryResult:
        c = self.library.c
        return LibraryResult(
            self._images(result, TARGET),
            self._images(result, NATIVE),
            [
                c.fam_result_warning(result, i).decode()
                for i in range(c.fam_result_warning_count(result))
            ],
            json.loads(c.fam_result_report_json(result)),
        )

    def _images(self, result: c_void_p, stage: int) -> list[LibraryImage]:
        c, images = self.library.c, []
        for index in range(c.fam_result_image_count(result, stage)):
            image = ImageStruct(ctypes.sizeof(ImageStruct))
            self.library.check(c.fam_result_image(result, stage, index, ctypes.byref(image)))
            shape = (image.latent_channels, image.latent_height, image.latent_width)
            latent = np.ctypeslib.as_array(image.latent, shape).copy()
            rgb = None
            if image.rgb:
                rgb = np.ctypeslib.as_array(image.rgb, (image.height, image.width, 3)).copy()
            images.append(LibraryImage(rgb, latent, image.seed, json.loads(image.settings_json)))
        return images


def _encoded(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: v.encode() if isinstance(v, str) else v for name, v in fields.items()}


def _texts(texts: Sequence[str | None]) -> Any:
    return (c_char_p * len(texts))(*(None if text is None else text.encode() for text in texts))


def _function(on_progress: OnProgress | None) -> Any:
    if on_progress is None:
        return ProgressFunction()

    def call(progress: Any, _: object) -> int:
        told = progress.contents
        latent = None
        if told.latent:
            latent = np.ctypeslib.as_array(told.latent, tuple(told.latent_shape)).copy()
        event = Event(
            PHASES[told.phase], told.step, told.total, told.picture_index, told.timestep, latent
        )
        return 0 if on_progress(event) else 1

    return ProgressFunction(call)
