"""From texts to the token ids that a text tower takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from clipseek_server.encoding.bundle import TextSpec
from clipseek_server.errors import StartupError

TokenIds = npt.NDArray[np.int64]

_SHORTEST_TEXT = 8
"""Tokens; shorter texts cost as much."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedText:
    """A text's tokens.

    Attributes:
        ids: int64 ``[length]``, the special tokens among them; not padded.
        truncated: Whether the text was longer than the model's context.
    """

    ids: TokenIds
    truncated: bool

    @property
    def like_length(self) -> int:
        """Tokens that the text is taken for: the next power of two, so that texts of like length go together."""
        return max(_SHORTEST_TEXT, 1 << (len(self.ids) - 1).bit_length())


class TextTokenizer:
    """A bundle's own tokenizer. Safe to use from several threads.

    Args:
        path: ``tokenizer.json`` of Hugging Face's tokenizers.
        spec: Length and padding.

    Raises:
        StartupError: The file is no tokenizer.
    """

    def __init__(self, path: Path, spec: TextSpec) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise StartupError(f"{path} is no tokenizer that can be read: {error}; export the bundle again") from error
        # Whatever the file says: the special tokens stay, the text's own end is cut off.
        self._tokenizer.enable_truncation(spec.context_length)
        self._tokenizer.no_padding()
        self._spec = spec

    def tokenize(self, text: str) -> TokenizedText:
        """Tokenize a text as the model was trained to."""
        encoding = self._tokenizer.encode(text)
        return TokenizedText(np.array(encoding.ids, np.int64), truncated=bool(encoding.overflowing))

    def pad(self, texts: Sequence[TokenizedText]) -> tuple[TokenIds, TokenIds]:
        """``input_ids`` and ``attention_mask``, each int64 ``[batch, sequence]``.

        Texts are padded on the right, to the longest of them or to the whole context, as the bundle says.
        """
        longest = max(len(text.ids) for text in texts)
        length = self._spec.context_length if self._spec.padding == "context" else longest
        input_ids = np.full((len(texts), length), self._spec.pad_id, np.int64)
        attention_mask = np.zeros((len(texts), length), np.int64)
        for row, text in enumerate(texts):
            input_ids[row, : len(text.ids)] = text.ids
            attention_mask[row, : len(text.ids)] = 1
        return input_ids, attention_mask
