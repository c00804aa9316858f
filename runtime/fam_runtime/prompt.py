"""Prompts to embeddings: CLIP tokens, the bundle's text encoders, and SDXL's conventions.

Every prompt is encoded in a batch of its own, so that its embedding does not depend on its company.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fam_runtime import contract
from fam_runtime.backends.checks import check_output
from fam_runtime.errors import BundleDamaged, InvalidRequest

if TYPE_CHECKING:
    from fam_runtime.backends.base import Values
    from fam_runtime.backends.pool import RunnerPool
    from fam_runtime.bundle import Bundle, TextEncoderInfo

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

MAX_PROMPT_CHARACTERS = 20_000
"""Longer texts are refused: a model reads 75 tokens, and tokenizing takes time."""

_MAX_WARNED_CHARACTERS = 200


class PromptTruncated(UserWarning):
    """A prompt is longer than a text encoder reads; the message says what was cut.

    Attributes:
        text: the prompt.
    """

    def __init__(self, text: str, message: str) -> None:
        super().__init__(message)
        self.text = text


@dataclass(frozen=True, eq=False)
class TextEmbedding:
    """What the UNet is told about one text.

    Attributes:
        tokens: float32 ``[1, 77, D]``.
        pooled: float32 ``[1, P]`` for SDXL, else None.
    """

    tokens: Float32Array
    pooled: Float32Array | None

    def zeros_like(self) -> TextEmbedding:
        """The embedding that SDXL takes for "no negative prompt"."""
        pooled = None if self.pooled is None else np.zeros_like(self.pooled)
        return TextEmbedding(np.zeros_like(self.tokens), pooled)


def check_prompt(what: str, text: object, *, may_be_empty: bool = False) -> str:
    """Check that `text` can be a prompt.

    Raises:
        InvalidRequest: it is no text, empty, too long, or holds lone surrogates.
    """
    if not isinstance(text, str):
        raise InvalidRequest(
            f"{what} is not a text", got=type(text).__name__, expected="a string", fix="pass a str"
        )
    if not text.strip() and not may_be_empty:
        raise InvalidRequest(
            f"{what} is empty", got=text, expected="some words", fix="say what to draw"
        )
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise InvalidRequest(
            f"{what} is too long",
            got=f"{len(text)} characters",
            expected=f"at most {MAX_PROMPT_CHARACTERS}",
            fix="shorten it: a text encoder reads 75 tokens",
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{what} is not valid Unicode",
            got=f"a lone surrogate at character {error.start}",
            expected="text that can be written as UTF-8",
            fix="check the encoding of the terminal or of the file it came from",
        ) from error
    return text


class PromptTokenizer:
    """A CLIP tokenizer of the bundle.

    Args:
        bundle: whose tokenizer.
        encoder: the text encoder it belongs to.

    Raises:
        BundleDamaged: the tokenizer's file cannot be read.
    """

    def __init__(self, bundle: Bundle, encoder: TextEncoderInfo) -> None:
        from tokenizers import Tokenizer

        self.encoder = encoder
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(bundle.path(encoder.tokenizer)))
        except Exception as error:  # tokenizers raises plain Exception
            raise BundleDamaged(
                f"{encoder.tokenizer} is no tokenizer",
                got=str(error),
                expected="a tokenizer.json of the tokenizers library",
                fix="export the bundle again",
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def input_ids(self, text: str) -> tuple[Int64Array, str]:
        """Token ids, int64 ``[1, max_length]``, and the end of `text` that did not fit.

        The ids are the start token, the text's, the end token, padding. The end token is there even
        when the text was cut, as in transformers.
        """
        info = self.encoder
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        room = info.max_length - 2
        cut = text[encoding.offsets[room][0] :].strip() if len(encoding.ids) > room else ""
        ids = [info.bos_token_id, *encoding.ids[:room], info.eos_token_id]
        ids += [info.pad_token_id] * (info.max_length - len(ids))
        return np.asarray([ids], np.int64), cut


class PromptEncoder:
    """All text encoders of a bundle.

    Args:
        pool: loads their graphs.
        bundle: the bundle.
    """

    def __init__(self, pool: RunnerPool, bundle: Bundle) -> None:
        self._pool = pool
        self._tokenizers = [
            PromptTokenizer(bundle, encoder) for encoder in bundle.manifest.text_encoders
        ]

    def encode(self, texts: Sequence[str]) -> dict[str, TextEmbedding]:
        """Embeddings of the distinct `texts`, keyed by text; warns about what does not fit."""
        distinct = list(dict.fromkeys(texts))
        states: dict[str, list[Float32Array]] = {text: [] for text in distinct}
        pooled: dict[str, Float32Array | None] = dict.fromkeys(distinct)
        for tokenizer in self._tokenizers:
            widths: dict[str, int] = {}
            with self._pool.borrow(tokenizer.encoder.graph, B=1) as runner:
                for text in distinct:
                    ids, cut = tokenizer.input_ids(text)
                    if cut:
                        warn_truncated(text, cut)
                    values = runner.run({contract.INPUT_IDS: ids})
                    check_embeddings(tokenizer.encoder, values, widths)
                    download = self._pool.backend.download
                    states[text].append(download(values[contract.PROMPT_EMBEDS]))
                    if contract.POOLED_PROMPT_EMBEDS in values:
                        pooled[text] = download(values[contract.POOLED_PROMPT_EMBEDS])
        return {
            text: TextEmbedding(np.concatenate(states[text], axis=-1), pooled[text])
            for text in distinct
        }


def check_embeddings(encoder: TextEncoderInfo, values: Values, widths: dict[str, int]) -> None:
    """Check what a text encoder gave for one text.

    Args:
        encoder: of the bundle.
        values: its outputs.
        widths: of earlier texts, which are those of all; filled.

    Raises:
        BundleDamaged: it is no float32 ``[1, 77, D]``, or for the pooled one ``[1, P]``.
    """
    shapes = {
        contract.PROMPT_EMBEDS: (1, encoder.max_length, "D"),
        contract.POOLED_PROMPT_EMBEDS: (1, "P"),
    }
    for name, shape in shapes.items():
        if name in values:
            check_output(encoder.graph, name, values[name], shape, widths)


def warn_truncated(text: str, cut: str) -> None:
    """Say which end of a prompt the model does not see."""
    shown = cut if len(cut) <= _MAX_WARNED_CHARACTERS else f"{cut[:_MAX_WARNED_CHARACTERS]}…"
    message = (
        f"the prompt is too long for the text encoder; the model does not see: {shown!r} "
        f"({len(cut)} of {len(text)} characters)"
    )
    warnings.warn(PromptTruncated(text, message), stacklevel=2)
