"""Graphs that are what the manifest says, where both say what the bundle's sizes do not allow.

ONNX Runtime has nothing against them, so it is for the runtimes to refuse their outputs, both in
the same words. The manifest's reader compares the names of these tensors alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fam_runtime import FamPipeline, contract
from fam_runtime.bundle import Bundle
from fam_runtime.bundle.manifest import TensorSpec
from fam_runtime.errors import FamError
from tests.attacks.hostile import edit_manifest, replace_graph
from tests.cpp.library import Library, LibraryError, LibraryResult
from tests.runtime.fake_bundle import TARGETS, write_bundle
from tests.runtime.fake_step_graph import onnx_graph

Shape = tuple[int, ...]

SIZE = TARGETS[0]
FACTOR = 8
LATENT = (1, 4, SIZE.height // FACTOR, SIZE.width // FACTOR)
IMAGE = (1, 3, SIZE.height, SIZE.width)

DECODER = "vae_decoder/model.onnx"
UPSAMPLE = f"unet/upsample-{SIZE.height}x{SIZE.width}.onnx"
TEXT = "text_encoder/model.onnx"
TEXT_2 = "text_encoder_2/model.onnx"


def tensor(name: str, shape: Shape, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, shape)  # type: ignore[arg-type]


def image(shape: Shape, dtype: str = "float32") -> TensorSpec:
    return tensor(contract.IMAGE, shape, dtype)


def reference(shape: Shape, dtype: str = "float32") -> TensorSpec:
    return tensor(contract.REFERENCE_LATENT, shape, dtype)


def tokens(shape: Shape, dtype: str = "float32") -> TensorSpec:
    return tensor(contract.PROMPT_EMBEDS, shape, dtype)


def pooled(shape: Shape, dtype: str = "float32") -> TensorSpec:
    return tensor(contract.POOLED_PROMPT_EMBEDS, shape, dtype)


def shown(value: object) -> str | None:
    """In the name of a test."""
    return f"{value.dtype} {value.shape}" if isinstance(value, TensorSpec) else None


def give(root: Path, graph: str, outputs: Sequence[TensorSpec]) -> None:
    """Let a graph and the manifest agree on these outputs, which are zeros."""
    inputs = Bundle.unchecked(root).manifest.graphs[graph].inputs
    zeros = {f"{o.name}_zeros": np.zeros(cast(Shape, o.shape), o.dtype) for o in outputs}
    body = "\n".join(f"{o.name} = Identity({o.name}_zeros)" for o in outputs)
    model, _ = onnx_graph("hostile", inputs, outputs, body, zeros)
    replace_graph(root, graph, model)  # type: ignore[no-untyped-call]
    describe(root, graph, outputs)


def describe(root: Path, graph: str, outputs: Sequence[TensorSpec]) -> None:
    """Let the manifest say that a graph has these outputs."""
    described = [{"name": o.name, "dtype": o.dtype, "shape": list(o.shape)} for o in outputs]

    def edit(document: Any) -> None:
        document["graphs"][graph]["outputs"] = described

    edit_manifest(root, edit)  # type: ignore[no-untyped-call]


CALL: dict[str, Any] = {"num_inference_steps": 1, "height": SIZE.height, "width": SIZE.width}


def generate(library: Library, root: Path) -> LibraryResult:
    """The picture of one prompt without a negative one."""
    with library.open(root, num_threads=1) as opened:
        return opened.generate("a cat", **CALL)


def refusal(library: Library, root: Path) -> tuple[str, str]:
    """The kind of the error and its text, the same from both runtimes."""
    with pytest.raises(LibraryError) as raised:
        generate(library, root)
    pipeline = FamPipeline.from_pretrained(root, progress=False)
    with pipeline, pytest.raises(FamError) as same:
        pipeline("a cat", **CALL)
    assert (type(same.value).__name__, str(same.value)) == (raised.value.kind, raised.value.text)
    return raised.value.kind, raised.value.text


def does_not_fit(graph: str, output: TensorSpec, expected: str) -> tuple[str, str]:
    """The refusal of a tensor that `graph` gives."""
    what = f"{graph}: output {output.name} does not fit the bundle's sizes"
    got = f"{output.dtype} {output.shape}"
    wanted = f"float32 {expected}"
    fix = "export the bundle again"
    return "BundleDamaged", f"{what} | got {got!r} | expected {wanted} | {fix}"


SD: dict[str, Any] = {}
SDXL: dict[str, Any] = {"family": "sdxl"}


@pytest.mark.parametrize(
    ("options", "graph", "outputs"),
    [
        (SD, DECODER, [image(IMAGE)]),
        (SD, UPSAMPLE, [reference(LATENT)]),
        (SD, TEXT, [tokens((1, 77, 6))]),
        (SDXL, TEXT, [tokens((1, 77, 4))]),
        (SDXL, TEXT_2, [tokens((1, 77, 2)), pooled((1, 2))]),
    ],
)
def test_outputs_that_fit(
    library: Library,
    tmp_path: Path,
    options: dict[str, Any],
    graph: str,
    outputs: list[TensorSpec],
) -> None:
    """So that the tests below fail for the change alone."""
    root = write_bundle(tmp_path / "bundle", **options)
    give(root, graph, outputs)
    (made,) = generate(library, root).images
    assert made.pixels.shape == (SIZE.height, SIZE.width, 3)


@pytest.mark.parametrize(
    "output",
    [
        image(()),
        image((1, 3, 8, 8)),
        image((1, SIZE.height, SIZE.width, 3)),
        image((3, *IMAGE[1:])),
        image(IMAGE, "float16"),
    ],
    ids=shown,
)
def test_pictures_that_do_not_fit(library: Library, tmp_path: Path, output: TensorSpec) -> None:
    root = write_bundle(tmp_path / "bundle")
    give(root, DECODER, [output])
    assert refusal(library, root) == does_not_fit(DECODER, output, str(list(IMAGE)))


@pytest.mark.parametrize(
    "output",
    [
        reference(()),
        reference((1, 4, 8, 8)),
        reference((2, *LATENT[1:])),
        reference(LATENT, "float16"),
    ],
    ids=shown,
)
def test_upsampled_latents_that_do_not_fit(
    library: Library, tmp_path: Path, output: TensorSpec
) -> None:
    root = write_bundle(tmp_path / "bundle")
    give(root, UPSAMPLE, [output])
    assert refusal(library, root) == does_not_fit(UPSAMPLE, output, str(list(LATENT)))


@pytest.mark.parametrize(
    "output",
    [
        tokens(()),
        tokens((3, 77, 6)),
        tokens((1, 76, 6)),
        tokens((1, 77, 6, 1)),
        tokens((1, 77, 6), "float16"),
        tokens((1, 77, 6), "int64"),
    ],
    ids=shown,
)
@pytest.mark.parametrize("guidance", [True, False])
def test_embeddings_that_are_none_of_a_text(
    library: Library, tmp_path: Path, output: TensorSpec, guidance: bool
) -> None:
    root = write_bundle(tmp_path / "bundle", guidance=guidance)
    give(root, TEXT, [output])
    assert refusal(library, root) == does_not_fit(TEXT, output, "[1, 77, D]")


@pytest.mark.parametrize(
    ("graph", "output", "expected"),
    [
        (TEXT, tokens((1, 77, 4), "float16"), "[1, 77, D]"),
        (TEXT_2, tokens((4, 77, 2)), "[1, 77, D]"),
        (TEXT_2, tokens((1, 76, 2)), "[1, 77, D]"),
        (TEXT_2, pooled(()), "[1, P]"),
        (TEXT_2, pooled((2, 2)), "[1, P]"),
        (TEXT_2, pooled((1, 2), "float16"), "[1, P]"),
    ],
    ids=shown,
)
def test_embeddings_of_two_encoders(
    library: Library, tmp_path: Path, graph: str, output: TensorSpec, expected: str
) -> None:
    root = write_bundle(tmp_path / "bundle", family="sdxl")
    others = {TEXT: [], TEXT_2: [tokens((1, 77, 2)), pooled((1, 2))]}[graph]
    give(root, graph, [output, *(other for other in others if other.name != output.name)])
    assert refusal(library, root) == does_not_fit(graph, output, expected)


def test_embeddings_of_another_width(library: Library, tmp_path: Path) -> None:
    """They only meet the graph that they are for."""
    root = write_bundle(tmp_path / "bundle")
    give(root, TEXT, [tokens((1, 77, 5))])
    kind, text = refusal(library, root)
    assert kind == "BackendError"
    assert text.startswith("unet/native.onnx: input prompt_embeds has the wrong shape | ")


def test_a_picture_that_no_memory_holds(library: Library, tmp_path: Path) -> None:
    """The number of its bytes does not fit 64 bits."""
    root = write_bundle(tmp_path / "bundle")
    describe(root, DECODER, [image((2**40,) * 8)])
    with pytest.raises(LibraryError, match="a tensor is too large for any memory") as raised:
        generate(library, root)
    assert raised.value.kind == "OutOfMemory"
