"""What differs between two results besides the program: machine, libraries, bundle, settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fam_bench.full_size_tables import gigabytes

SHOWN_CHARACTERS = 60
"""A value, such as a prompt, is shown up to this length."""

HASH_CHARACTERS = 12

NOTHING = "–"

Facts = dict[str, str]


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """A line for each group of facts in which the results `a` and `b` differ.

    ``"machine: cores 2 → 4; memory 25.28 GB → 50.56 GB"``
    """
    lines = []
    before, after = _facts(a), _facts(b)
    for group, own in before.items():
        other = after[group]
        changed = [
            f"{name} {_shown(name, own)} → {_shown(name, other)}"
            for name in dict.fromkeys((*own, *other))
            if own.get(name) != other.get(name)
        ]
        if changed:
            lines.append(f"{group}: {'; '.join(changed)}")
    return lines


def _facts(document: Mapping[str, Any]) -> dict[str, Facts]:
    machine = dict(document["machine"]) | {"device": document.get("device")}
    packages = machine.pop("packages", {})
    return {
        "machine": _as_text(machine),
        "GPU": _as_text(document.get("gpu") or {}),
        "libraries": _as_text(packages),
        "bundle": _as_text(document["bundle"]),
        "settings": _as_text(document["settings"]),
    }


def _as_text(values: Mapping[str, Any]) -> Facts:
    facts = {}
    for name, value in values.items():
        if name.endswith("_bytes"):
            # The kernel's share of the memory differs from boot to boot.
            facts[name.removesuffix("_bytes")] = gigabytes(value)
        elif isinstance(value, list):
            facts[name] = ", ".join(map(str, value))
        else:
            facts[name] = " ".join(str(value).split())
    return {name.replace("_", " "): text for name, text in facts.items()}


def _shown(name: str, facts: Facts) -> str:
    text = facts.get(name, NOTHING)
    if name == "hash":
        return text[:HASH_CHARACTERS]
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
