"""The kernel tables of a target, `fm/kernels-HxW.safetensors`, checked before use."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fam_runtime.bundle._safetensors import FLOAT32, StoredTable, tables_of_safetensors
from fam_runtime.contract import FM_TABLE_COLUMNS, FM_TABLE_ROWS, FM_TABLE_WEIGHT
from fam_runtime.errors import BundleDamaged


class KernelTables(NamedTuple):
    """Circular-convolution kernels of FM, one row per training timestep, float32.

    `rows` is [T, H], `columns` [T, W], both in latent samples, and `weight` [T].
    """

    rows: NDArray[np.float32]
    columns: NDArray[np.float32]
    weight: NDArray[np.float32]


def kernel_tables_from_bytes(
    data: bytes, *, name: str, timesteps: int, latent_size: tuple[int, int]
) -> KernelTables:
    """The tables in the safetensors file `data`; `name` is the file's name in messages.

    Raises:
        BundleDamaged: if `data` is malformed, or a table is missing, has another dtype or shape, or
            is not finite.
    """
    tables = tables_of_safetensors(data, name=name)
    height, width = latent_size
    return KernelTables(
        rows=_table(tables, FM_TABLE_ROWS, (timesteps, height), name),
        columns=_table(tables, FM_TABLE_COLUMNS, (timesteps, width), name),
        weight=_table(tables, FM_TABLE_WEIGHT, (timesteps,), name),
    )


def _table(
    tables: dict[str, StoredTable], key: str, shape: tuple[int, ...], name: str
) -> NDArray[np.float32]:
    if key not in tables:
        raise _damaged(name, got=sorted(tables), expected=f"a table {key!r}")
    table = tables[key]
    if table.dtype != FLOAT32 or table.shape != shape:
        raise _damaged(
            name, got=f"{key} {table.dtype} {table.shape}", expected=f"{key} {FLOAT32} {shape}"
        )
    values = np.frombuffer(table.data, "<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(values).all():
        raise _damaged(name, got=f"{key} holds NaN or infinity", expected="finite kernels")
    return values


def _damaged(name: str, *, got: object, expected: str) -> BundleDamaged:
    return BundleDamaged(
        f"{name} of the bundle is not a table of kernels",
        got=got,
        expected=expected,
        fix="get the bundle again or export it again with fam-export",
    )
