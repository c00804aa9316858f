"""What C++ makes of a call: the same defaults, refusals and words as Python's, and its settings.

Calls are drawn at random, most of their arguments valid, some at or beyond an edge. Both runtimes
resolve them against hand-made manifests of every kind of checkpoint and of many sizes.
"""

from __future__ import annotations

import dataclasses
import json
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fam_runtime import contract
from fam_runtime.bundle import Manifest, PixelSize, Target
from fam_runtime.bundle.manifest import NATIVE_GRAPH
from fam_runtime.bundle.manifest_parts import FileRecord, GraphSpec, TensorSpec
from fam_runtime.errors import FamError
from fam_runtime.pipeline import _warn_without_guidance
from fam_runtime.request import Request, resolve_request
from fam_runtime.settings import arguments_from_settings, settings_of_picture
from fam_runtime.tiling import Tiling
from tests.cpp.drawn_requests import Drawn, draw_call
from tests.cpp.probe import CppError, Probe
from tests.runtime.fake_bundle import write_bundle

HASH = "0123456789abcdef" * 4
MADE_WITH = [["libfam", "0.1.0"], ["backend", "onnxruntime"], ["gpu", 'the "best" of Zoë\n']]
KINDS: dict[str, dict[str, Any]] = {
    "guided": {},
    "sdxl": {"family": "sdxl"},
    "plain": {"guidance": False},
    "lcm": {"guidance": False, "guidance_embedding": True},
}
SIZES: dict[str, tuple[PixelSize, tuple[PixelSize, ...]]] = {
    "small": (PixelSize(64, 64), (PixelSize(128, 128), PixelSize(128, 256))),
    "large": (
        PixelSize(512, 512),
        tuple(map(PixelSize, (1024, 1024, 1536, 4096), (1024, 2048, 1536, 4096))),
    ),
    "upright": (PixelSize(768, 512), (PixelSize(1024, 1024), PixelSize(1536, 1024))),
    "none": (PixelSize(64, 64), ()),
}


@dataclass(frozen=True)
class Case:
    """A manifest on disk for C++, and what stands for its bundle in Python."""

    manifest: Manifest
    path: Path
    root: str = "/srv/bundles/my model"

    @property
    def bundle(self) -> Any:
        return SimpleNamespace(manifest=self.manifest, root=Path(self.root), hash=HASH)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("manifests")
    made: list[Case] = []
    for kind, options in KINDS.items():
        root = write_bundle(folder / f"bundle-{kind}", **options)
        plain = Manifest.from_bytes((root / "manifest.json").read_bytes())
        for sizes, (native, targets) in SIZES.items():
            manifest = with_other_defaults(of_sizes(plain, native, targets), len(made))
            path = folder / f"{kind}-{sizes}.json"
            path.write_bytes(manifest.to_bytes())
            made.append(Case(manifest, path))
    return made


def of_sizes(manifest: Manifest, native: PixelSize, targets: tuple[PixelSize, ...]) -> Manifest:
    """The manifest of the same checkpoint at other sizes."""
    first = manifest.targets[0]
    other = {name: spec for name, spec in manifest.graphs.items() if not name.startswith("unet/")}
    graphs = {NATIVE_GRAPH: at_size(manifest.graphs[NATIVE_GRAPH], native), **other}
    made = tuple(Target.for_size(size.height, size.width) for size in targets)
    for target in made:
        graphs[target.step] = at_size(manifest.graphs[first.step], target.size)
        graphs[target.upsample] = manifest.graphs[first.upsample]
    kernels = [target.kernels for target in made]
    tokenizers = [encoder.tokenizer for encoder in manifest.text_encoders]
    record = FileRecord(1, "0" * 64)
    files = {name: record for name in (*graphs, *kernels, *tokenizers)}
    return dataclasses.replace(
        manifest, native=native, targets=made, graphs=graphs, files=dict(sorted(files.items()))
    )


def at_size(spec: GraphSpec, size: PixelSize) -> GraphSpec:
    h, w = size.height // 8, size.width // 8

    def resized(tensor: TensorSpec) -> TensorSpec:
        shape = tensor.shape
        if len(shape) == 4:
            shape = (*shape[:2], h, w)
        elif tensor.name == contract.FM_KERNEL_ROWS:
            shape = (h,)
        elif tensor.name == contract.FM_KERNEL_COLUMNS:
            shape = (w,)
        return dataclasses.replace(tensor, shape=shape)

    return dataclasses.replace(
        spec, inputs=tuple(map(resized, spec.inputs)), outputs=tuple(map(resized, spec.outputs))
    )


def with_other_defaults(manifest: Manifest, index: int) -> Manifest:
    defaults = dataclasses.replace(
        manifest.defaults,
        scheduler=("ddim", "euler", "lcm")[index % 3],
        guidance_scale=(7.5, 0.0, 1.0, 12.0)[index % 4],
        am_strength=(0.7, 0.0, 1.0)[index % 3],
    )
    names = ("demo", "my model", "ünïcode's")
    model = dataclasses.replace(manifest.model, name=names[index % 3])
    return dataclasses.replace(manifest, defaults=defaults, model=model)


def resolved_in_python(case: Case, drawn: Drawn, *, low_memory: bool) -> Request:
    arguments = dict(drawn.python)
    if isinstance(arguments.get("tile"), tuple):
        tile, overlap = arguments["tile"]
        if tile < 16 or overlap > tile // 2:
            # Without the arguments after it, whose turn to be refused would come later.
            resolve_request(case.bundle, **_until_tile(arguments), low_memory=low_memory)
        arguments["tile"] = Tiling(tile, overlap)
    return resolve_request(case.bundle, **arguments, low_memory=low_memory)


def _until_tile(arguments: dict[str, Any]) -> dict[str, Any]:
    later = {"tile", "native_attention", "pictures_per_batch", "noise"}
    if isinstance(arguments.get("seed"), int):  # may leave the range at some picture
        later.add("seed")
    return {name: value for name, value in arguments.items() if name not in later}


def as_json(request: Request) -> dict[str, Any]:
    tiling = request.tiling
    return {
        "pictures": [[p.prompt, p.negative_prompt, p.seed] for p in request.pictures],
        "target": [request.target.height, request.target.width, request.target.step],
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": repr(request.guidance_scale),
        "scheduler": request.scheduler,
        "method": request.method_name,
        "am_strength": repr(request.am_strength),
        "noise": request.noise,
        "tiling": None if tiling is None else [tiling.tile, tiling.overlap],
        "native_attention": request.native_attention,
        "pictures_per_batch": request.pictures_per_batch,
    }


def ask(probe: Probe, command: str, case: Case, drawn: Drawn, **more: object) -> Any:
    return probe.ask(
        command, manifest=str(case.path), root=case.root, call=drawn.cpp, hash=HASH, **more
    )


def both_answers(
    probe: Probe, case: Case, drawn: Drawn, *, low_memory: bool = False
) -> tuple[object, object]:
    """What each runtime makes of a call: its request, or the class and the words of its refusal."""
    expected: object
    got: object
    try:
        expected = as_json(resolved_in_python(case, drawn, low_memory=low_memory))
    except FamError as error:
        expected = type(error).__name__, str(error)
    try:
        got = ask(probe, "call.resolve", case, drawn, low_memory=low_memory)
    except CppError as error:
        got = error.kind, error.text
    return expected, got


def test_random_calls(probe: Probe, cases: list[Case]) -> None:
    rng = random.Random(20)
    refused: dict[str, int] = {}
    made = 0
    for _ in range(1200):
        case = rng.choice(cases)
        drawn = draw_call(rng, case.manifest.native, case.manifest.targets)
        expected, got = both_answers(probe, case, drawn, low_memory=rng.random() < 0.3)
        assert got == expected, (case.path.name, drawn)
        if isinstance(expected, tuple):
            what = expected[1].split(" | ")[0]
            refused[what] = refused.get(what, 0) + 1
        else:
            made += 1
    assert made > 300, "too few calls are valid for the test to mean anything"
    assert len(refused) > 30, sorted(refused)


@pytest.mark.parametrize("seed", [2**64 - 1, 2**64 - 2, 2**64 - 999])
def test_seeds_beyond_the_last_one(probe: Probe, cases: list[Case], seed: int) -> None:
    drawn = Drawn()
    drawn.python["prompt"], drawn.cpp["prompts"] = ["a cat"], ["a cat"]
    drawn.python["seed"], drawn.cpp["seeds"] = seed, [seed]
    for count in (1, 2, 3, 1000):
        drawn.both("num_images_per_prompt", count)
        expected, got = both_answers(probe, cases[0], drawn)
        assert got == expected


def test_a_drawn_seed(probe: Probe, cases: list[Case]) -> None:
    drawn = Drawn(cpp={"prompts": ["a cat"], "seeds": [], "num_images_per_prompt": 3})
    firsts = set()
    for _ in range(5):
        made = ask(probe, "call.resolve", cases[0], drawn)
        seeds = [seed for _, _, seed in made["pictures"]]
        assert seeds == [seeds[0], seeds[0] + 1, seeds[0] + 2]
        assert 0 <= seeds[0] < 2**32
        firsts.add(seeds[0])
    assert len(firsts) > 1


def valid_calls(cases: list[Case], count: int) -> list[tuple[Case, Drawn, Request]]:
    rng = random.Random(21)
    found: list[tuple[Case, Drawn, Request]] = []
    while len(found) < count:
        case = rng.choice(cases)
        drawn = draw_call(rng, case.manifest.native, case.manifest.targets)
        try:
            request = resolved_in_python(case, drawn, low_memory=False)
        except FamError:
            continue
        if len(request.pictures) < 20:
            found.append((case, drawn, request))
    return found


@pytest.mark.parametrize("native", [False, True])
def test_settings_are_the_same_text(probe: Probe, cases: list[Case], native: bool) -> None:
    made_with = {name: value for name, value in MADE_WITH}
    for case, drawn, request in valid_calls(cases, 80):
        texts = ask(probe, "call.settings", case, drawn, made_with=MADE_WITH, native=native)
        assert len(texts) == len(request.pictures)
        for text, picture in zip(texts, request.pictures, strict=True):
            settings = settings_of_picture(case.bundle, request, picture, made_with, None)
            if native:  # as fam-generate --save-native writes them
                settings["stage"] = "native"
            assert text == json.dumps(settings, sort_keys=True, ensure_ascii=False)
            if not native:
                assert arguments_from_settings(json.loads(text))["seed"] == picture.seed


def test_warnings(probe: Probe, cases: list[Case]) -> None:
    seen = set()
    for case, drawn, request in valid_calls(cases, 80):
        with warnings.catch_warnings(record=True) as expected:
            warnings.simplefilter("always")
            _warn_without_guidance(request, case.manifest.model)
        sentences = [str(warning.message) for warning in expected]
        assert ask(probe, "call.warnings", case, drawn) == sentences
        seen.update(sentences)
    assert len(seen) == 4
