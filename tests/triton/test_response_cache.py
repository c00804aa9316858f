"""Pictures that are kept."""

from __future__ import annotations

import numpy as np

from fam_runtime.triton.served.made_picture import MadePicture
from fam_runtime.triton.served.response_cache import ResponseCache

PICTURE = MadePicture(np.zeros((10, 10, 3), np.uint8))
BYTES = PICTURE.rgb.nbytes


def test_the_seed_and_everything_else_is_in_the_key() -> None:
    cache = ResponseCache(10_000)
    cache.put({"prompt": "a", "seed": 1}, PICTURE)
    assert cache.get({"seed": 1, "prompt": "a"}) is PICTURE
    assert cache.get({"prompt": "a", "seed": 2}) is None
    assert cache.get({"prompt": "b", "seed": 1}) is None


def test_what_nobody_asked_for_longest_makes_room() -> None:
    cache = ResponseCache(2 * BYTES)
    cache.put({"seed": 1}, PICTURE)
    cache.put({"seed": 2}, PICTURE)
    assert cache.get({"seed": 1}) is not None
    cache.put({"seed": 3}, PICTURE)
    assert cache.get({"seed": 2}) is None
    assert cache.get({"seed": 1}) is not None
    assert cache.get({"seed": 3}) is not None


def test_a_picture_above_the_capacity_is_not_kept() -> None:
    for capacity in (0, BYTES - 1):
        cache = ResponseCache(capacity)
        cache.put({"seed": 1}, PICTURE)
        assert cache.get({"seed": 1}) is None
