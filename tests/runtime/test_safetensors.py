"""Safetensors files: read as the library reads them, but for what only a hostile writer does."""

from __future__ import annotations

import random

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fam_runtime.bundle._safetensors import tables_of_safetensors
from fam_runtime.bundle.kernels import kernel_tables_from_bytes
from fam_runtime.errors import BundleDamaged
from tests.runtime.safetensors_files import LATENT, MALFORMED, TIMESTEPS, kernels

NAME = "fm/kernels-8x16.safetensors"


def kernel_tables(data):
    return kernel_tables_from_bytes(data, name=NAME, timesteps=TIMESTEPS, latent_size=LATENT)


def test_tables_are_those_that_were_saved():
    tables = kernels()
    for data in (save(tables), save(tables, metadata={"made by": "tests"})):
        found = kernel_tables(data)._asdict()
        assert found.keys() == tables.keys()
        for key, table in tables.items():
            np.testing.assert_array_equal(found[key], table)
            assert found[key].dtype == np.float32 and found[key].flags.owndata


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_files(kind):
    with pytest.raises(BundleDamaged, match=NAME):
        kernel_tables(MALFORMED[kind])


def test_what_is_accepted_is_what_the_library_reads():
    rng = random.Random(0)
    data = save(kernels() | {"other": np.arange(7, dtype=np.int64)})
    accepted = 0
    for _ in range(2000):
        spoilt = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            spoilt[rng.randrange(400)] = rng.choice(b'0123456789,:[]{}" \xff\0FIa')
        try:
            found = tables_of_safetensors(bytes(spoilt), name=NAME)
        except BundleDamaged:
            continue
        try:
            expected = load(bytes(spoilt))
        except (SafetensorError, KeyError, ValueError):
            # Of types other than float32 it knows the sizes, and not every name.
            assert any(table.dtype != "F32" for table in found.values())
            continue
        accepted += 1
        assert found.keys() == expected.keys()
        for key, table in found.items():
            assert table.shape == expected[key].shape
            assert bytes(table.data) == expected[key].tobytes()
    assert accepted > 100
