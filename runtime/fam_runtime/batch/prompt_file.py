"""Files of prompts: JSON Lines, a picture a line.

A line is an object with ``prompt`` and any of the other inputs of the served models, which have the
same names and meanings there (:data:`fam_runtime.triton.interface.INPUTS`); ``null`` says nothing.
A line without ``seed`` has its number, from 1, as its seed. ``name`` names the picture's file,
which is the line's number otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fam_runtime.arguments import text_of, whole_number
from fam_runtime.batch.index import IndexEntry
from fam_runtime.errors import FamError, InvalidRequest
from fam_runtime.request import resolve_request
from fam_runtime.schedulers import NoiseSchedule, make_plan
from fam_runtime.triton.interface import INPUTS, NEGATIVE_PROMPT, PROMPT, SEED

if TYPE_CHECKING:
    from fam_runtime.bundle import Bundle
    from fam_runtime.request import Request

NAME = "name"
"""The only key of a line that is no input of the pipeline."""

PNG_SUFFIX = ".png"

MAX_NAME_BYTES = 200
"""In UTF-8, with room for the suffix and for a temporary name while the file is written."""

_ARGUMENTS = {served.name: served.argument for served in INPUTS}


@dataclass(frozen=True)
class PromptLine:
    """A line of a file of prompts, with its defaults; it survives JSON.

    Attributes:
        number: in the file, from 1, as an editor counts.
        file: name of its picture, a plain name in any folder.
        inputs: what it asks for, under the keys of a line.
    """

    number: int
    file: str
    inputs: Mapping[str, Any]

    def arguments(self) -> dict[str, Any]:
        """The arguments of :meth:`FamPipeline.__call__`."""
        arguments = {_ARGUMENTS[key]: value for key, value in self.inputs.items()}
        if isinstance(arguments.get("scale"), list):  # JSON has no tuples
            arguments["scale"] = tuple(arguments["scale"])
        return arguments

    def request(self, bundle: Bundle) -> Request:
        """The request of one picture, checked as far as the manifest goes, with every default.

        Raises:
            InvalidRequest: an input cannot be used, or the bundle has no such size.
        """
        arguments = self.arguments()
        for key in (PROMPT, NEGATIVE_PROMPT):  # the pipeline takes lists, which mean more pictures
            text_of(key, arguments.get(key, ""))
        whole_number(SEED, arguments[SEED], minimum=0)
        request = resolve_request(bundle, **arguments)
        schedule = NoiseSchedule.from_config(bundle.manifest.noise_schedule)
        make_plan(request.scheduler, schedule, request.num_inference_steps)
        return request


def read_prompts(
    path: Path, defaults: Mapping[str, Any], bundle: Bundle
) -> tuple[list[PromptLine], list[IndexEntry]]:
    """The lines of which pictures can be made, and the entries of those that cannot.

    Args:
        path: the file, UTF-8; blank lines are left out, and counted.
        defaults: inputs of lines that do not say otherwise, under the keys of a line.
        bundle: makes the pictures; only its manifest is read.

    Raises:
        InvalidRequest: the file cannot be read, or holds no line.
    """
    lines: list[PromptLine] = []
    refused: list[IndexEntry] = []
    owners: dict[str, int] = {}
    for number, data in _numbered_lines(path):
        try:
            line = line_from_json(number, data, defaults)
            if (owner := owners.setdefault(line.file, number)) != number:
                raise InvalidRequest(
                    f"the picture would be that of line {owner}",
                    got=line.file,
                    expected="a name of its own for every line",
                    fix="give another name",
                )
            line.request(bundle)
            lines.append(line)
        except FamError as error:
            refused.append(IndexEntry(number, "failed", error=str(error)))
    if not lines and not refused:
        raise InvalidRequest(
            f"{path} has no line", expected='lines such as {"prompt": "a red ring"}', fix="add one"
        )
    return lines, refused


def _numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank; they end at LF only, since JSON texts may hold U+2028 and so on."""
    try:
        with path.open("rb") as file:
            yield from ((n, data) for n, data in enumerate(file, start=1) if data.strip())
    except OSError as error:
        raise InvalidRequest(
            "the prompts cannot be read",
            got=str(error),
            expected="a file of JSON Lines",
            fix="check its path",
        ) from error


def line_from_json(number: int, data: bytes, defaults: Mapping[str, Any]) -> PromptLine:
    """Line `number`, with the defaults that it does not replace; a request judges its values.

    Raises:
        InvalidRequest: it is no JSON object, has an unknown key, a truth value or a bad name.
    """
    try:
        given = {k: v for k, v in json.loads(data.decode("utf-8-sig")).items() if v is not None}
    except (ValueError, AttributeError, RecursionError) as error:
        raise InvalidRequest(
            "the line is no JSON object",
            got=str(error),
            expected='an object such as {"prompt": "a red ring", "seed": 3}',
            fix="write one object per line",
        ) from error
    name = given.pop(NAME, None)
    if unknown := sorted(given.keys() - _ARGUMENTS.keys()):
        raise InvalidRequest(
            "the line has keys that mean nothing here",
            got=", ".join(unknown),
            expected=", ".join([*_ARGUMENTS, NAME]),
            fix="check their spelling",
        )
    if truths := sorted(key for key, value in given.items() if isinstance(value, bool)):
        raise InvalidRequest(  # Python takes true for 1, and the picture's settings would say true
            "no input is true or false",
            got=", ".join(truths),
            expected="texts and numbers",
            fix="write a number",
        )
    inputs = {PROMPT: "", SEED: number, **defaults, **given}
    if given.keys() & {"height", "width"} and "scale" not in given:
        inputs.pop("scale", None)  # the line's own size replaces a default scale
    file = f"{number:06d}{PNG_SUFFIX}" if name is None else file_from_name(name)
    return PromptLine(number, file, inputs)


def file_from_name(name: object) -> str:
    """The name of the picture's file that a line's `name` means, with or without its suffix.

    Raises:
        InvalidRequest: it is no plain file name, and could mean a file outside of the folder.
    """
    text = text_of(NAME, name)
    stem = text[: -len(PNG_SUFFIX)] if text.lower().endswith(PNG_SUFFIX) else text
    plain = stem.strip() == stem and stem.isprintable() and not set("/\\") & set(stem)
    if not plain or not stem or stem.startswith(".") or len(stem.encode()) > MAX_NAME_BYTES:
        raise InvalidRequest(
            "the name is no plain file name",
            got=name,
            expected=f"at most {MAX_NAME_BYTES} bytes without slashes, and no dot at the start",
            fix="choose another, or leave it out for the line's number",
        )
    return stem + PNG_SUFFIX
