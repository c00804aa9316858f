"""The configurations of SD 1.5, 2.1 and XL, and CLIP's tokenizer, for files that bring none.

``original_configs`` holds what the diffusers folders of these models were published with;
``clip_tokenizer`` CLIP's merges, from which its vocabulary follows.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from fam_export.checkpoint.configuration import ADD_FOLDER_LAYOUT, Configuration
from fam_runtime.errors import CheckpointError

SHIPPED = ("sd15", "sd21", "sd21-base", "sdxl")
"""Names of the configurations."""

WORD_END = "</w>"
SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")


class ShippedConfiguration(Configuration):
    """A configuration that ships with the project; its tokenizers share one vocabulary."""

    @contextmanager
    def tokenizer_folder(self, part: str) -> Iterator[Path]:
        """A temporary folder with the tokenizer `part`."""
        with tempfile.TemporaryDirectory(prefix="fam-tokenizer-") as name:
            folder = Path(name)
            for file in self.files(part):
                shutil.copyfile(file, folder / file.name)
            vocabulary = clip_vocabulary(_merges_file())
            (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
            yield folder

    def files(self, part: str) -> list[Path]:
        """The files that are read for a part or a tokenizer."""
        if part not in self.tokenizers:
            return super().files(part)
        return [self.root / part / "tokenizer_config.json", _merges_file()]


def configuration_named(config: Path | str) -> Configuration:
    """The configurations in the folder `config`, or those that ship under this name.

    Raises:
        CheckpointError: there are none.
    """
    if str(config) in SHIPPED:
        return ShippedConfiguration(_package_folder("original_configs") / str(config))
    if (Path(config) / "model_index.json").is_file():
        return Configuration(Path(config))
    raise CheckpointError(
        f"there are no configurations at {config}",
        expected=f"a folder in diffusers' layout, or one of {', '.join(SHIPPED)}",
        fix=ADD_FOLDER_LAYOUT,
    )


def clip_vocabulary(merges: Path) -> dict[str, int]:
    """CLIP's tokens and their ids: bytes, bytes that end a word, merges, start and end."""
    lines = merges.read_text(encoding="utf-8").splitlines()[1:]  # the first is a version
    characters = _byte_characters()
    tokens = [*characters, *(character + WORD_END for character in characters)]
    tokens += [line.replace(" ", "") for line in lines]
    return {token: index for index, token in enumerate((*tokens, *SPECIAL_TOKENS))}


def _byte_characters() -> list[str]:
    """Printable stand-ins of the 256 bytes, in CLIP's order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(code) for code in (*printable, *range(256, 256 + others))]


def _merges_file() -> Path:
    return _package_folder("clip_tokenizer") / "merges.txt"


def _package_folder(name: str) -> Path:
    return Path(str(resources.files("fam_export.checkpoint") / name))
