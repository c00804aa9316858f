"""Text encoders against diffusers' ``encode_prompt``, and their export."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim, export

from fam_graph.reference.components import ReferenceComponents
from fam_graph.text_encoder import TextEncoder
from tests.checkpoints import Kind
from tests.graph.tolerances import TEXT, largest_difference

PROMPTS = ["the red cat", "", "a cat on the box, the red one!"]


def encoders(components: ReferenceComponents, kind: Kind) -> list[TextEncoder]:
    pipeline = components.pipeline
    models = [pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)]
    return [TextEncoder(model, penultimate=kind == "sdxl") for model in models if model]


def ids_of(components: ReferenceComponents, index: int, prompts: list[str]) -> torch.Tensor:
    name = "tokenizer" if index == 0 else "tokenizer_2"
    encoded = getattr(components.pipeline, name)(
        prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    ids: torch.Tensor = encoded.input_ids
    return ids


def test_embeddings_are_those_of_diffusers(components: ReferenceComponents, kind: Kind) -> None:
    expected = components.conditions(PROMPTS, None, False, (16, 16))
    outputs = [
        encoder(ids_of(components, index, PROMPTS))
        for index, encoder in enumerate(encoders(components, kind))
    ]
    embeds = torch.cat([output[0] for output in outputs], dim=-1)
    assert embeds.dtype == torch.float32
    assert largest_difference(embeds, expected.prompt_embeds) < TEXT
    if kind == "sdxl":
        assert expected.added is not None
        assert len(outputs[0]) == 1
        assert largest_difference(outputs[1][1], expected.added["text_embeds"]) < TEXT
    else:
        assert len(outputs) == len(outputs[0]) == 1


def test_prompts_differ(components: ReferenceComponents, kind: Kind) -> None:
    embeds = encoders(components, kind)[0](ids_of(components, 0, PROMPTS))[0]
    assert float((embeds[0] - embeds[2]).std()) > 0.1


@pytest.mark.parametrize("index", [0, 1])
def test_export_keeps_the_batch_dynamic(
    components: ReferenceComponents, kind: Kind, index: int
) -> None:
    chosen = encoders(components, kind)
    if index >= len(chosen):
        pytest.skip("one text encoder")
    program = export(
        chosen[index],
        (ids_of(components, index, PROMPTS[:2]),),
        dynamic_shapes=({0: Dim("B")},),
        strict=False,
    ).module()
    for prompts in (PROMPTS[:1], PROMPTS):
        ids = ids_of(components, index, prompts)
        for got, expected in zip(program(ids), chosen[index](ids), strict=True):
            assert largest_difference(got, expected) < TEXT
