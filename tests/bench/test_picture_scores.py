"""The figures of Fig. 3 on pictures whose figures are known."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fam_bench.paper_figure3 import (
    VARIANTS,
    Job,
    finished_scores,
    full_prompts,
    markdown_table,
    summaries,
)
from fam_bench.picture_scores import PictureScore, layout_distance, score_picture, true_scene
from fam_export.demo.scenes import render

PROMPTS = full_prompts(12)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("scale", [2, 4])
def test_the_true_picture_has_the_best_score(prompt: str, scale: int) -> None:
    scene = true_scene(prompt)
    native, target = render(scene, 64, 64), render(scene, 64 * scale, 64 * scale)
    score = score_picture(target, native, prompt)
    assert score.right and score.right_shape and score.count == 1
    assert score.sharpness == pytest.approx(1)
    assert score.layout_distance < 0.03


@pytest.mark.parametrize("scale", [2, 4])
def test_enlarging_the_native_picture_is_seen_as_blur(scale: int) -> None:
    for prompt in PROMPTS:
        native = render(true_scene(prompt), 64, 64)
        size = (64 * scale, 64 * scale)
        enlarged = np.asarray(Image.fromarray(native).resize(size, Image.Resampling.BICUBIC))
        assert score_picture(enlarged, native, prompt).sharpness < 0.75


def test_a_repeated_object_is_wrong() -> None:
    for prompt in PROMPTS:
        native = render(true_scene(prompt), 64, 64)
        score = score_picture(np.tile(native, (2, 2, 1)), native, prompt)
        assert score.count == 4
        assert not score.right
        assert score.layout_distance > 0.05


def test_layout_distance_of_black_and_white_is_one() -> None:
    black, white = np.zeros((64, 64, 3), np.uint8), np.full((128, 128, 3), 255, np.uint8)
    assert layout_distance(black, white) == 1
    assert layout_distance(black, black) == 0


def test_summary_counts_pictures() -> None:
    good = PictureScore(1, True, True, 0.1, 1.0)
    bad = PictureScore(2, False, False, 0.3, 0.5)
    jobs = [Job(i, "", 2, variant) for i in range(2) for variant in VARIANTS]
    scores = {job.key: (good if job.index else bad) for job in jobs}
    rows = list(summaries(jobs, scores))
    assert len(rows) == len(VARIANTS)
    assert rows[0]["one_object_right_shape"] == 0.5
    assert rows[0]["layout_distance"] == pytest.approx(0.2)
    assert "| 2x | direct | 50 % | 0.200 | 0.75 |" in markdown_table(rows)


def test_a_log_that_was_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    score = PictureScore(1, True, True, 0.1, 1.0)
    line = json.dumps({"key": "2x fam 0", **asdict(score)})
    log = tmp_path / "pictures.jsonl"
    log.write_text(f"{line}\n{line[:20]}")
    assert finished_scores(log) == {"2x fam 0": score}
    assert finished_scores(tmp_path / "nothing") == {}
