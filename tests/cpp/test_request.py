"""What C++ makes of a call: the same defaults, refusals and words as Python's, and its settings.

Calls are drawn at random, most of their arguments valid, some at or beyond an edge. Both runtimes
resolve them against hand-made manifests of every kind of checkpoint and of many sizes.
"""

from __future__ import annotations

import dataclasses
import json
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fam_runtime import contract
from fam_runtime.bundle import Manifest, PixelSize, Target
from fam_runtime.bundle.manifest import NATIVE_GRAPH
from fam_runtime.bundle.manifest_parts import FileRecord, GraphSpec, TensorSpec
from fam_runtime.errors import FamError
from fam_runtime.methods import METHODS
from fam_runtime.pipeline import _warn_without_guidance
from fam_runtime.request import Request, resolve_request
from fam_runtime.settings import arguments_from_settings, settings_of_picture
from fam_runtime.tiling import Tiling
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


@dataclass
class Drawn:
    """One call in the words of both runtimes."""

    python: dict[str, Any] = field(default_factory=dict)
    cpp: dict[str, Any] = field(default_factory=dict)

    def both(self, name: str, value: object) -> None:
        self.python[name], self.cpp[name] = value, value

    def number(self, name: str, value: float) -> None:
        self.python[name], self.cpp[name] = value, repr(value)


TEXTS = ["a cat", "Ünïcode 赤い輪", 'quotes " and \\', "tab\tbell\x07", "x" * 20_000, " a "]
BAD_TEXTS = ["", " \n ", "x" * 20_001, "é" * 20_001]
FLOATS = [0.0, -0.0, 1.0, 0.7, 0.1 + 0.2, 1e-300, 999.999, 1000.0]
BAD_FLOATS = [-1e-9, 1000.0000001, 1e308, float("inf"), float("-inf"), float("nan")]


def pick(rng: random.Random, good: Sequence[Any], bad: Sequence[Any]) -> Any:
    """One of `good`; sometimes one of `bad`, rarely enough that most calls have one mistake."""
    return rng.choice(bad if rng.random() < 0.12 else good)


def draw_call(rng: random.Random, native: PixelSize, targets: tuple[Target, ...]) -> Drawn:
    drawn = Drawn()
    draw_texts(rng, drawn)
    draw_size(rng, drawn, native, targets)
    draw_seeds(rng, drawn)
    strengths = [*BAD_FLOATS, 1.01]
    draws: list[Callable[[], None]] = [
        lambda: drawn.both("num_inference_steps", pick(rng, [1, 2, 1000, 10**12], [0, -3])),
        lambda: drawn.number("guidance_scale", pick(rng, FLOATS, BAD_FLOATS)),
        lambda: drawn.number("am_strength", pick(rng, [0.0, 0.5, 1.0], strengths)),
        lambda: drawn.both("method", pick(rng, [*METHODS], ["", "FAM", "ünknown\n"])),
        lambda: drawn.both("scheduler", rng.choice(["ddim", "dpm++2m", "no such sampler"])),
        lambda: drawn.both("noise", pick(rng, ["torch-cpu", "torch-cuda"], ["torch", ""])),
        lambda: drawn.both("native_attention", pick(rng, ["auto", "store", "replay"], ["", "x"])),
        lambda: drawn.both("pictures_per_batch", pick(rng, [1, 2, 1000, 2**62], [0, -1])),
        lambda: draw_tile(rng, drawn),
    ]
    for draw in draws:
        if rng.random() < 0.3:
            draw()
    return drawn


def draw_texts(rng: random.Random, drawn: Drawn) -> None:
    def text(bad: float) -> str:
        return rng.choice(BAD_TEXTS if rng.random() < bad else TEXTS)

    count = rng.choice([1, 1, 1, 2, 3, 5])
    prompts = [text(0.02) for _ in range(count)]
    drawn.cpp["prompts"] = prompts
    drawn.python["prompt"] = prompts[0] if count == 1 and rng.random() < 0.5 else prompts
    if rng.random() < 0.02:
        drawn.cpp["prompts"], drawn.python["prompt"] = [], []
    kind = rng.random()
    if kind < 0.3:
        one = rng.choice([text(0.1), "", None])
        drawn.python["negative_prompt"], drawn.cpp["negative_prompts"] = one, [one]
    elif kind < 0.6:
        several = [rng.choice([text(0.05), "", None]) for _ in range(count)]
        several += ["one more"] * (rng.random() < 0.1)
        drawn.python["negative_prompt"] = drawn.cpp["negative_prompts"] = several
    if rng.random() < 0.4:
        drawn.both("num_images_per_prompt", pick(rng, [1, 2, 7, 200], [501, 0, -1, 2**60]))


def draw_size(
    rng: random.Random, drawn: Drawn, native: PixelSize, targets: tuple[Target, ...]
) -> None:
    kind = rng.random()
    if kind < 0.25:
        return
    if kind < 0.6:
        pair = rng.choice(
            [
                *(
                    (target.height / native.height, target.width / native.width)
                    for target in targets
                ),
                (2.0, 2.0),
                (3.0, 3.0),
                (2.0, 4.0),
                (4 / 3, 2.0),
                (1.0, 1.0),
                (8.0, 8.0),
                (9.0, 1.0),
                (2.0000001, 2.0),
                (1.99, 1.99),
                (0.0, 2.0),
                (rng.uniform(0, 10), rng.uniform(0, 10)),
                (rng.choice(BAD_FLOATS), 2.0),
                (2.0, rng.choice(BAD_FLOATS)),
            ],
        )
        drawn.python["scale"] = pair[0] if pair[0] == pair[1] else pair
        drawn.cpp["scale"] = [repr(pair[0]), repr(pair[1])]
    if kind > 0.58:
        bad = [(128, 128), (100, 128), (0, 64), (-8, 64), (2**40, 64)]
        bad.append((64 * rng.randint(1, 40), 64 * rng.randint(1, 40)))
        built_sizes = [(target.height, target.width) for target in targets]
        height, width = pick(rng, built_sizes or bad, bad)
        if rng.random() < 0.95:
            drawn.both("height", height)
        if rng.random() < 0.95:
            drawn.both("width", width)


def draw_seeds(rng: random.Random, drawn: Drawn) -> None:
    kind = rng.random()
    edges = [0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 2**64 - 3]
    if kind < 0.5:
        seed = rng.choice([*edges, rng.getrandbits(64)])
        drawn.python["seed"], drawn.cpp["seeds"] = seed, [seed]
    elif kind < 0.8:
        given = drawn.cpp["prompts"], drawn.cpp.get("num_images_per_prompt", 1)
        count = len(given[0]) * given[1] if 0 < given[1] < 1000 else 3
        seeds = [rng.choice(edges) for _ in range(max(count + pick(rng, [0], [1, -1]), 0))]
        drawn.python["seed"], drawn.cpp["seeds"] = seeds, seeds
        drawn.cpp["one_seed_per_picture"] = True


def draw_tile(rng: random.Random, drawn: Drawn) -> None:
    kind = rng.random()
    if kind < 0.2:
        drawn.both("tile", None)
        return
    tile = pick(rng, [16, 17, 64, 128, 500, 4096], [15, 1, 0, -4])
    overlap = pick(rng, [0, 0, tile // 4, tile // 2, 1], [tile // 2 + 1])
    if overlap <= 0 or tile < 1:
        drawn.python["tile"], drawn.cpp["tile"] = tile, [tile, 0]
        return
    drawn.cpp["tile"] = [tile, overlap]
    # What Python refuses when it is made; as an argument it is a Tiling.
    drawn.python["tile"] = (tile, overlap)


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
