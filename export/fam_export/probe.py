"""Random inputs for tracing and for comparing an exported graph with its module.

Values have the magnitudes that a real run feeds, because an error that shows only at realistic
timesteps or guidance scales must not hide. A seed makes them, so that a bundle's figures repeat.
"""

from __future__ import annotations

import torch

from fam_export.graph_definition import TORCH_DTYPES, GraphDefinition, Sizes, concrete_shape
from fam_graph.frequency_modulation import frequency_modulation_tables
from fam_runtime import contract
from fam_runtime.bundle import TensorSpec

PROBE_TIMESTEP = 437
"""A step in the middle of the trajectory, where every term of a step has weight."""

PROBE_ALPHA_BAR = 0.5
PROBE_GUIDANCE_SCALE = 7.5
PROBE_AM_STRENGTH = 0.7
PROBE_PIXELS = 512.0
MAX_TOKEN_ID = 250
"""All CLIP vocabularies hold the bytes, and their special tokens come last."""


def probe_inputs(
    definition: GraphDefinition, sizes: Sizes, *, seed: int
) -> dict[str, torch.Tensor]:
    """One tensor per input of the graph, at the given sizes."""
    generator = torch.Generator().manual_seed(seed)
    return {spec.name: _probe(spec, sizes, generator) for spec in definition.inputs}


def _probe(spec: TensorSpec, sizes: Sizes, generator: torch.Generator) -> torch.Tensor:
    shape = concrete_shape(spec, sizes)
    scalars = {
        contract.TIMESTEP: float(PROBE_TIMESTEP),
        contract.GUIDANCE_SCALE: PROBE_GUIDANCE_SCALE,
        contract.AM_STRENGTH: PROBE_AM_STRENGTH,
        contract.FM_WEIGHT: 1 - PROBE_TIMESTEP / 1000,
    }
    if spec.name in scalars:
        return torch.tensor(scalars[spec.name])
    if spec.name == contract.STEP_COEFFICIENTS:
        return _step_coefficients()
    if spec.name in (contract.FM_KERNEL_ROWS, contract.FM_KERNEL_COLUMNS):
        tables = frequency_modulation_tables(shape[0], shape[0], shape[0], shape[0])
        return tables.rows[PROBE_TIMESTEP].clone()
    if spec.name == contract.INPUT_IDS:
        return torch.randint(0, MAX_TOKEN_ID, shape, generator=generator)
    if spec.name == contract.TIME_IDS:
        return torch.rand(shape, generator=generator) * PROBE_PIXELS
    if spec.name == contract.IMAGE:
        return torch.rand(shape, generator=generator) * 2 - 1
    values = torch.randn(shape, generator=generator)
    if spec.name.startswith("attention_map."):
        values = torch.softmax(values, dim=-1)
    return values.to(TORCH_DTYPES[spec.dtype])


def _step_coefficients() -> torch.Tensor:
    """Every coefficient non-zero and of a size that samplers use."""
    signal, noise = PROBE_ALPHA_BAR**0.5, (1 - PROBE_ALPHA_BAR) ** 0.5
    return torch.tensor([signal, noise, 0.9, 1 / signal, -noise / signal, 1.02, -0.05, 0.1, 0.2])
