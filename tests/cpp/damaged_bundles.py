"""Ways to damage a bundle, each a function of its root, by name; seeded, so that a name stays."""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from tests.attacks import hostile as untyped

hostile: Any = untyped

Damage = Callable[[Path], object]

GRAPHS = ("unet/native.onnx", "vae_decoder/model.onnx")
EXTERNAL = "unet/native.onnx"
"""The graph whose first tensor lies in unet/weights.bin."""

LOCATIONS = (*hostile.OTHER_LOCATIONS, "wéights.bin", "x" * 300)
NAMES = (
    "../outside",
    "unet/../../outside",
    "./unet/x",
    "unet//x",
    "unet/",
    "/etc/passwd",
    "C:/x",
    "unet\\..\\x",
    "x\0y",
    "x\ny",
    "x\u202ey",
    "unet /x",
    "unet/x.",
    "a" * 256,
    "é" * 128,
    "a/" * 256 + "a",
    "",
    "manifest.json/x",
    "tokenizer/tokenizer.json/x",
)


def _flip(path: Path, where: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def _replace_by_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(path.parent, os.O_RDONLY)
        try:  # the path of a socket may have 108 bytes only
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)


def _link_to(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def _outside(path: Path, root: Path) -> Path:
    return root.parent / f"outside-{path.name}"


def _linked_folder(path: Path, root: Path) -> None:
    hostile.linked_directory(path, root.parent / "outside-folder")


def _of_file(name: str, rng: random.Random) -> Iterator[tuple[str, Damage]]:
    """What can be wrong with one file, seen without reading what is in it."""
    where, more = rng.random(), rng.randrange(1, 2000)
    changes: dict[str, Callable[[Path, Path], object]] = {
        "a flipped byte": lambda path, _: _flip(path, where),
        "cut": lambda path, _: os.truncate(path, int(where * path.stat().st_size)),
        "longer": lambda path, _: path.write_bytes(path.read_bytes() + bytes(more)),
        "empty": lambda path, _: path.write_bytes(b""),
        "missing": lambda path, _: path.unlink(),
        "its folder missing": lambda path, _: shutil.rmtree(path.parent),
        "a link": lambda path, root: hostile.symbolic_link(path, _outside(path, root)),
        "a link to nowhere": lambda path, _: _link_to(path, "nowhere"),
        "a link to itself": lambda path, _: _link_to(path, path.name),
        "a linked folder": _linked_folder,
        "two names": lambda path, root: hostile.hard_link(path, _outside(path, root)),
        "a pipe": lambda path, root: hostile.pipe(path, root),
        "a socket": lambda path, _: _replace_by_socket(path),
        "a directory": lambda path, root: hostile.directory(path, root),
        "a file for its folder": lambda path, root: hostile.file_for_folder(
            path, root.parent / "outside-folder"
        ),
        "the manifest": lambda path, root: shutil.copy(root / "manifest.json", path),
    }
    for kind, change in changes.items():
        yield f"{name}: {kind}", partial(_change, name, change)


def _change(name: str, change: Callable[[Path, Path], object], root: Path) -> None:
    change(root / name, root)


def _flip_and_cut(names: list[str], root: Path) -> None:
    """The sizes are compared first: it is the cut that is told."""
    _flip(root / names[0], 0.5)
    os.truncate(root / names[-1], 1)


def _spoil_manifest(spoil: Callable[[Path, Path], object], root: Path) -> None:
    spoil(root / "manifest.json", root.parent / "outside")


def _rename(new: str, root: Path) -> None:
    hostile.rename_file(root, "tokenizer/tokenizer.json", new)


def of_files(names: list[str]) -> dict[str, Damage]:
    """Damage of every kind to every file of `names`, and to the manifest."""
    rng = random.Random(11)
    found: dict[str, Damage] = {}
    for name in names:
        found.update(_of_file(name, rng))
    first, second = rng.sample(names, 2)
    found["two files swapped"] = lambda root: _swap(root / first, root / second)
    found["one altered and a later one cut"] = partial(_flip_and_cut, names)
    for kind in ("symbolic_link", "hard_link", "pipe", "directory"):
        found[f"manifest.json: {kind}"] = partial(_spoil_manifest, getattr(hostile, kind))
    return found


def _swap(one: Path, other: Path) -> None:
    one_data, other_data = one.read_bytes(), other.read_bytes()
    one.write_bytes(other_data)
    other.write_bytes(one_data)


def of_names() -> dict[str, Damage]:
    """A listed file that the manifest calls by a name that leads elsewhere."""
    return {f"the name {name[:20]!r} of {len(name)}": partial(_rename, name) for name in NAMES}


def edit_graph(root: Path, name: str, edit: Callable[[Any], object]) -> None:
    """Change a graph as somebody would who computes hashes, too."""
    model = onnx.load(root / name, load_external_data=False)
    edit(model)
    hostile.replace_graph(root, name, model)


def _with_tensor(location: str, **entries: int) -> Damage:
    tensor = hostile.external_tensor(location, **entries)
    return lambda root: edit_graph(
        root, EXTERNAL, lambda model: model.graph.initializer.append(tensor)
    )


def _put_tensor(put: Callable[[Any, Any], object], root: Path) -> None:
    tensor = hostile.external_tensor("../../../etc/passwd")
    edit_graph(root, GRAPHS[1], lambda model: put(model, tensor))


def _engine(place: str) -> Damage:
    def edit(model: Any) -> None:
        node = onnx.helper.make_node("EPContext", [], ["x"], domain="com.microsoft")
        graph = onnx.helper.make_graph([node], "inner", [], [])
        if place == "main":
            model.graph.node.append(node)
        elif place == "subgraph":
            model.graph.node.append(onnx.helper.make_node("If", ["x"], ["y"], then_branch=graph))
        elif place == "function":
            model.functions.append(onnx.helper.make_function("evil", "F", [], ["x"], [node], []))
        else:
            model.training_info.add().algorithm.CopyFrom(graph)

    return lambda root: edit_graph(root, GRAPHS[1], edit)


def of_graphs() -> dict[str, Damage]:
    """Graphs that lead out of the bundle, well-formed and recorded in the manifest."""
    found: dict[str, Damage] = {}
    for place, put in hostile.PLACES.items():
        found[f"data outside in {place}"] = partial(_put_tensor, put)
    for location in LOCATIONS:
        found[f"data in {location[:20]!r}"] = _with_tensor(location)
    big = 10**19 - 1
    for offset, length in [(0, 1 << 40), (1 << 40, 4), (6, 4), (big, big), (big, 1), (big, 2)]:
        found[f"data at {offset} of {length}"] = _with_tensor(
            "weights.bin", offset=offset, length=length
        )
    for place in ("main", "subgraph", "function", "training"):
        found[f"an engine in {place}"] = _engine(place)
    return found


def of_graph_bytes(count: int) -> dict[str, Damage]:
    """A graph with bytes changed, cut or added, and recorded in the manifest."""
    return {f"bytes {seed}": partial(_spoil_bytes, seed) for seed in range(count)}


def _spoil_bytes(seed: int, root: Path) -> None:
    rng = random.Random(seed)
    name = rng.choice(GRAPHS)
    (root / name).write_bytes(spoilt((root / name).read_bytes(), rng))
    hostile.record_again(root, name)


def spoilt(data: bytes, rng: random.Random) -> bytes:
    """`data` with some bytes changed, and sometimes cut, repeated or emptied."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        # Most of a graph is data, whose bytes mean nothing to its reader: more at the beginning.
        end = rng.choice([len(data), min(200, len(data))])
        changed[rng.randrange(end)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    kind = rng.randrange(6)
    if kind == 0:
        del changed[rng.randrange(len(changed)) :]
    elif kind == 1:
        begin = rng.randrange(len(changed))
        changed[begin:begin] = changed[begin : begin + rng.randrange(64)]
    return bytes(changed)
