"""The same bundle, the same seed: C++ and Python make the same picture, byte for byte.

Both run the same ONNX Runtime library at the same optimisation level with one thread. A run of the
suite takes one seed of :data:`SEEDS` for each method and sampler, another one for each;
``FAM_PICTURE_SEEDS=20`` takes them all.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fam_export.options import ExportOptions
from fam_runtime.methods import METHODS
from fam_runtime.pipeline import FamPipeline
from fam_runtime.schedulers import SAMPLERS
from tests.conftest import Exported, ExportTiny
from tests.cpp.library import Library, LibraryPipeline, LibraryResult

SEEDS = [*range(1, 17), 2**31, 2**32 + 7, 2**63, 2**64 - 1]
SEEDS_PER_COMBINATION = int(os.environ.get("FAM_PICTURE_SEEDS", "1"))
PROMPT, NEGATIVE = "a green triangle on a cream background", "blurred"
COMBINATIONS = list(itertools.product(METHODS, SAMPLERS))


class Pair:
    """One bundle, opened by both runtimes."""

    def __init__(self, library: Library, bundle: Path, **options: Any) -> None:
        low_memory = bool(options.get("low_memory"))
        self.cpp: LibraryPipeline = library.open(bundle, num_threads=1, **options)
        self.python = FamPipeline.from_pretrained(
            bundle, num_threads=1, progress=False, low_memory=low_memory
        )

    def close(self) -> None:
        """Close both."""
        self.cpp.close()
        self.python.close()

    def check(self, *, seed: int = 0, **arguments: Any) -> LibraryResult:
        """Make a picture in both, compare every byte, and give C++'s."""
        shared = {"num_inference_steps": 3, "return_native": True, **arguments}
        prompt, negative = shared.pop("prompt", PROMPT), shared.pop("negative_prompt", NEGATIVE)
        tile = shared.pop("tile", None)
        expected = self.python(
            prompt, negative, seed=seed, output_type="pil",
            **shared, **({} if tile is None else {"tile": tile}),
        )  # fmt: skip
        scale = shared.pop("scale", None)
        if scale is not None:
            shared["scale"], shared["scale_width"] = (
                scale if isinstance(scale, tuple) else (scale, 0)
            )
        made = self.cpp.generate(
            prompt,
            negative,
            seed=seed % 2**64,
            **shared,
            **({} if tile is None else {"tile": tile}),
        )
        assert isinstance(expected.images, list)
        assert len(made.images) == len(expected.images)
        for i, image in enumerate(made.images):
            assert np.array_equal(image.latent, expected.latents[i]), "latents"
            assert np.array_equal(np.asarray(expected.images[i]), image.pixels), "RGB"
            assert _comparable(image.settings) == _comparable(expected.settings[i])
        if shared["return_native"]:
            assert isinstance(expected.native_images, list)
            for native, image in zip(expected.native_images, made.native, strict=True):
                assert np.array_equal(np.asarray(native), image.pixels), "native RGB"
        return made


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Without the names of the programs, which differ."""
    return {key: value for key, value in settings.items() if key != "made_with"}


@pytest.fixture(scope="module")
def tiny_pair(library: Library, tiny: Exported) -> Iterator[Pair]:
    """Both runtimes on a tiny SD 1.5."""
    pair = Pair(library, tiny.bundle)
    yield pair
    pair.close()


@pytest.fixture(scope="module")
def demo_pair(library: Library, demo_bundle: Path) -> Iterator[Pair]:
    """Both runtimes on the demo."""
    pair = Pair(library, demo_bundle)
    yield pair
    pair.close()


@pytest.mark.parametrize(("method", "scheduler"), COMBINATIONS)
def test_methods_and_samplers(demo_pair: Pair, method: str, scheduler: str) -> None:
    first = COMBINATIONS.index((method, scheduler))
    for i in range(SEEDS_PER_COMBINATION):
        seed = SEEDS[(first + i) % len(SEEDS)]
        demo_pair.check(seed=seed, method=method, scheduler=scheduler)


def test_sdxl_in_half_precision(library: Library, export_tiny: ExportTiny) -> None:
    """Two text encoders, size conditions, fp16 taps; twice as high, and four times as wide."""
    pair = Pair(library, export_tiny("sdxl", ("2x4",), ExportOptions(dtype="fp16")).bundle)
    try:
        pair.check(seed=7, scale=(2, 4))
        pair.check(seed=7, negative_prompt=None, native_attention="replay")
    finally:
        pair.close()


@pytest.mark.parametrize(
    "arguments",
    [
        {"native_attention": "store"},
        {"native_attention": "replay"},
        {"native_attention": "replay", "scheduler": "euler-a", "num_images_per_prompt": 2},
        {"guidance_scale": 1.0},
        {"guidance_scale": 3.5, "am_strength": 0.25},
        {"noise": "torch-cuda"},
        {"prompt": ["a circle", "a square"], "negative_prompt": None},
        {"num_images_per_prompt": 3, "pictures_per_batch": 2},
        {"num_images_per_prompt": 2, "pictures_per_batch": 2, "scheduler": "euler-a"},
        {"method": "direct", "return_native": False},
        {"method": "direct", "scheduler": "lcm"},
        {"tile": 16},
        {"prompt": "Ünïcode, 漢字 ﬁ İ 😀 " * 20},
        {"num_inference_steps": 1},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ways_to_make_it(tiny_pair: Pair, arguments: dict[str, Any]) -> None:
    tiny_pair.check(seed=4, **arguments)


def test_low_memory(library: Library, tiny: Exported) -> None:
    pair = Pair(library, tiny.bundle, low_memory=1)
    try:
        pair.check(seed=5)
        pair.check(seed=5, native_attention="replay")
    finally:
        pair.close()


def test_a_pipeline_makes_the_same_picture_again(tiny_pair: Pair) -> None:
    first = tiny_pair.check(seed=9)
    tiny_pair.check(seed=10, method="direct")
    again = tiny_pair.check(seed=9)
    assert np.array_equal(first.images[0].pixels, again.images[0].pixels)


def test_seeds_one_by_one(tiny_pair: Pair) -> None:
    made = tiny_pair.cpp.generate([PROMPT, PROMPT], seeds=[11, 3], num_inference_steps=2)
    alone = tiny_pair.cpp.generate(PROMPT, seed=3, num_inference_steps=2)
    assert [image.seed for image in made.images] == [11, 3]
    assert np.array_equal(made.images[1].pixels, alone.images[0].pixels)


def test_a_drawn_seed_is_told(tiny_pair: Pair) -> None:
    made = tiny_pair.cpp.generate(PROMPT, draw_seed=1, num_inference_steps=2).images[0]
    again = tiny_pair.cpp.generate(PROMPT, seed=made.seed, num_inference_steps=2).images[0]
    assert np.array_equal(made.pixels, again.pixels)
    other = tiny_pair.cpp.generate(PROMPT, draw_seed=1, num_inference_steps=2).images[0]
    assert made.seed != other.seed
