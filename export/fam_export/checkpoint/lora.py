"""LoRAs as a user names them: a file, and how much of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from fam_export.checkpoint.hashing import file_hash
from fam_runtime.errors import InvalidRequest


@dataclass(frozen=True)
class Lora:
    """An adapter to be merged into the weights.

    Attributes:
        path: a safetensors file of kohya's, peft's or diffusers' kind.
        strength: factor of its update; 0 leaves it out, negative values subtract it.

    Raises:
        InvalidRequest: the strength is no finite number.
    """

    path: Path
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise InvalidRequest(
                f"the strength of the LoRA {self.path} is not usable",
                got=self.strength,
                expected="a finite number, such as 0.8",
            )

    @property
    def name(self) -> str:
        """What the adapter is called: its file's name without the ending."""
        return self.path.stem

    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal digits."""
        return file_hash(self.path)


def lora_from_text(text: str) -> Lora:
    """The LoRA that ``FILE`` or ``FILE:0.8`` means; a name may hold colons of its own.

    Raises:
        InvalidRequest: there is no file name, or the strength is no finite number.
    """
    path, colon, strength = text.rpartition(":")
    if not colon or strength.endswith(".safetensors"):
        path, strength = text, "1"
    try:
        number = float(strength)
    except ValueError:
        number = math.nan
    if not path or not math.isfinite(number):
        raise InvalidRequest(
            "this does not name a LoRA",
            got=text,
            expected="FILE.safetensors or FILE.safetensors:STRENGTH, as in style.safetensors:0.8",
        )
    return Lora(Path(path), number)
