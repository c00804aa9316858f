"""FM's kernel tables as a file of the bundle."""

from __future__ import annotations

from safetensors.torch import save

from fam_graph.attention_modulation import Grid
from fam_graph.frequency_modulation import CutoffReference, frequency_modulation_tables
from fam_runtime import contract


def kernel_file(
    latent_target: Grid,
    latent_native: Grid,
    *,
    train_timesteps: int,
    cutoff_reference: CutoffReference,
) -> bytes:
    """``kernels-HxW.safetensors`` for one target (docs/bundle_format.md, "Kernels")."""
    tables = frequency_modulation_tables(
        *latent_target,
        *latent_native,
        train_timesteps=train_timesteps,
        cutoff_reference=cutoff_reference,
    )
    return save(
        {
            contract.FM_TABLE_ROWS: tables.rows.contiguous(),
            contract.FM_TABLE_COLUMNS: tables.columns.contiguous(),
            contract.FM_TABLE_WEIGHT: tables.weight.contiguous(),
        }
    )
