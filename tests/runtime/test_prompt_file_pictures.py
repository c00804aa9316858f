"""The folder of a batch's pictures: what is made, kept, made again or left alone; the index."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fam_runtime import FamPipeline
from fam_runtime.batch import IndexEntry, PromptLine, make_or_keep, write_index
from fam_runtime.errors import StorageError
from fam_runtime.picture import save_png, settings_from_png
from tests.runtime.fake_bundle import write_bundle


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    path = write_bundle(tmp_path_factory.mktemp("pictures") / "bundle")
    with FamPipeline.from_pretrained(path, progress=False, num_threads=1) as pipe:
        yield pipe


def line(**inputs) -> PromptLine:
    return PromptLine(4, "x.png", {"prompt": "a cat", "seed": 1, "steps": 1, **inputs})


def pixels(path: Path):
    with Image.open(path) as opened:
        return np.asarray(opened)


def test_a_picture_is_that_of_the_pipeline_and_is_kept(pipe, tmp_path):
    made = make_or_keep(pipe, line(), tmp_path)
    path = tmp_path / "x.png"
    before = path.stat()
    wanted = np.asarray(pipe("a cat", seed=1, num_inference_steps=1).images[0])
    assert np.array_equal(pixels(path), wanted)
    assert made == IndexEntry(4, "made", "x.png", 1, hashlib.sha256(wanted.tobytes()).hexdigest())

    kept = make_or_keep(pipe, line(), tmp_path)
    assert kept == IndexEntry(4, "kept", "x.png", 1, made.sha256)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_picture_is_kept_whatever_versions_and_tiles_made_it(pipe, tmp_path):
    result = pipe("a cat", seed=1, num_inference_steps=1)
    how = {"made_with": {"fam_runtime": "0"}, "vae_tile": [16, 4]}
    settings = {**result.settings[0], **how}
    save_png(result.images[0], tmp_path / "x.png", settings)
    assert make_or_keep(pipe, line(), tmp_path).state == "kept"


@pytest.mark.parametrize(
    "change", [{"prompt": "a dog"}, {"seed": 2}, {"negative_prompt": ""}, {"guidance_scale": 2}]
)
def test_a_picture_of_other_settings_is_made_again(pipe, tmp_path, change):
    make_or_keep(pipe, line(), tmp_path)
    assert make_or_keep(pipe, line(**change), tmp_path).state == "made"
    (key, value), *_ = change.items()
    assert settings_from_png(tmp_path / "x.png")[key] == value


def test_a_cut_picture_is_made_again(pipe, tmp_path):
    first = make_or_keep(pipe, line(), tmp_path)
    path = tmp_path / "x.png"
    os.truncate(path, path.stat().st_size - 40)
    assert make_or_keep(pipe, line(), tmp_path) == first


def test_a_strangers_file_is_left_alone(pipe, tmp_path):
    path = tmp_path / "x.png"
    path.write_text("somebody's")
    entry = make_or_keep(pipe, line(), tmp_path)
    assert entry.state == "failed"
    assert entry.error is not None
    assert "did not make" in entry.error
    assert path.read_text() == "somebody's"


def test_a_line_that_cannot_be_used_fails_and_a_missing_folder_stops_all(pipe, tmp_path):
    entry = make_or_keep(pipe, line(scale=3), tmp_path)
    assert entry.error is not None
    assert "no target for scale 3" in entry.error
    with pytest.raises(StorageError):
        make_or_keep(pipe, line(), tmp_path / "missing")


def test_the_index_is_in_the_order_of_the_lines(tmp_path):
    late = IndexEntry(2, "made", "größer.png", 2**64 - 1, "0" * 64)
    path = write_index(tmp_path, [late, IndexEntry(1, "failed", error="why")])
    first, second = path.read_text("utf-8").splitlines()
    assert IndexEntry(**json.loads(first)).error == "why"
    assert IndexEntry(**json.loads(second)) == late
    assert "größer" in second
