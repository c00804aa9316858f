"""The same seed gives the same bytes, however the picture is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fam_runtime import FamPipeline
from fam_runtime.bundle import Bundle
from tests.conftest import Exported
from tests.runtime.device.fake_device import FakeDeviceBackend

PROMPT = "a red circle"
STEPS = 4
SEED = 11


def rgb(bundle: Path, options: dict[str, Any] | None = None, **call: Any) -> list[np.ndarray]:
    arguments: dict[str, Any] = {"seed": SEED, "num_inference_steps": STEPS} | call
    with FamPipeline.from_pretrained(bundle, progress=False, **(options or {})) as pipe:
        images = pipe(PROMPT, **arguments).images
    assert isinstance(images, list)
    return [np.asarray(image) for image in images]


@pytest.fixture(scope="module")
def picture(tiny: Exported) -> np.ndarray:
    return rgb(tiny.bundle, {"num_threads": 1})[0]


def test_a_second_run_gives_the_same_bytes(tiny: Exported, picture: np.ndarray) -> None:
    assert np.array_equal(rgb(tiny.bundle, {"num_threads": 1})[0], picture)


def test_another_seed_gives_another_picture(tiny: Exported, picture: np.ndarray) -> None:
    assert not np.array_equal(rgb(tiny.bundle, seed=SEED + 1)[0], picture)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_matter(tiny: Exported, picture: np.ndarray, threads: int) -> None:
    assert np.array_equal(rgb(tiny.bundle, {"num_threads": threads})[0], picture)


def test_company_does_not_matter(tiny: Exported, picture: np.ndarray) -> None:
    pictures = rgb(tiny.bundle, seed=SEED - 1, num_images_per_prompt=3)
    assert np.array_equal(pictures[1], picture)


@pytest.mark.parametrize("size", [2, 3])
def test_pictures_that_go_through_a_graph_together_equal_the_picture_made_alone(
    tiny: Exported, picture: np.ndarray, size: int
) -> None:
    """Latents may differ in their last bits; the 8-bit colours of this model do not."""
    pictures = rgb(tiny.bundle, seed=SEED - 1, num_images_per_prompt=3, pictures_per_batch=size)
    assert np.array_equal(pictures[1], picture)


@pytest.mark.parametrize("call", [{"native_attention": "store"}, {"native_attention": "replay"}])
def test_storing_and_replaying_do_not_matter(
    tiny: Exported, picture: np.ndarray, call: dict[str, Any]
) -> None:
    assert np.array_equal(rgb(tiny.bundle, **call)[0], picture)


def test_low_memory_changes_rounding_at_most(tiny: Exported, picture: np.ndarray) -> None:
    small = rgb(tiny.bundle, {"low_memory": True}, tile=None)[0]
    assert np.abs(small.astype(int) - picture.astype(int)).max() <= 1


def test_a_pictures_settings_make_it_again(
    tiny: Exported, picture: np.ndarray, tmp_path: Path
) -> None:
    from PIL import Image

    from fam_runtime.cli.generate import main

    first, second = tmp_path / "first.png", tmp_path / "second.png"
    arguments = [str(tiny.bundle), PROMPT, "--seed", str(SEED), "--steps", str(STEPS), "--quiet"]
    assert main([*arguments, "-o", str(first)]) == 0
    assert main([str(tiny.bundle), "--from-png", str(first), "-o", str(second), "--quiet"]) == 0
    for file in (first, second):
        with Image.open(file) as image:
            assert np.array_equal(np.asarray(image), picture)


@pytest.mark.parametrize("every_output", [False, True])
def test_stages_in_a_devices_buffers_make_the_same_latents(
    tiny: Exported, every_output: bool
) -> None:
    """What a GPU is told to do, done by the CPU; libraries differ in the outputs they write."""
    call: dict[str, Any] = {"seed": SEED, "num_inference_steps": 2, "output_type": "np"}
    with FamPipeline.from_pretrained(tiny.bundle, progress=False) as pipe:
        expected = pipe(PROMPT, **call)
    backend = FakeDeviceBackend(every_output=every_output)
    with FamPipeline(Bundle.open(tiny.bundle), backend) as pipe:
        made = pipe(PROMPT, **call)
    assert np.array_equal(made.latents, expected.latents)
    assert np.array_equal(made.images, expected.images)
