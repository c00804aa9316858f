"""What the documents point at exists, and they name no place outside the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SKIPPED = {".venv", ".venv-triton", "out", "node_modules"}

DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not SKIPPED & set(path.relative_to(ROOT).parts) and ".pytest_cache" not in path.parts
)

LINK = re.compile(r"\]\(([^)#\s]+)")
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
"""In which a lambda of C++ looks like a link."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(document: Path) -> None:
    text = CODE.sub("", document.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if not link.startswith(("http://", "https://")):
            assert (document.parent / link).exists(), f"{document.name} links {link}"


def test_the_demo_checkpoint_is_small_enough_to_ship() -> None:
    checkpoint = ROOT / "export/fam_export/demo/checkpoint"
    size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    assert 1e6 < size <= 30e6
