"""How near two sets of embeddings are."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np

from clipseek_export.errors import ExportError
from clipseek_export.samples import SENTENCES, jpegs, photographs, photographs_and_details
from clipseek_export.source import Embeddings, Pixels, SourceModel
from clipseek_server.encoding.bundle import (
    TEXT_FILE,
    TOKENIZER_FILE,
    VISION_FILE,
    Agreement,
    Decoding,
    PixelSpec,
    Precision,
    Similarity,
    TextSpec,
)
from clipseek_server.encoding.pictures import decode_picture
from clipseek_server.encoding.sessions import GraphSession
from clipseek_server.encoding.tokenizing import TextTokenizer

Tower = Literal["vision", "text"]

LOWEST_COSINE: Final[dict[Precision, float]] = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.98}
"""For every input: fp32 against the source model, the others against fp32. Below it nothing is exported."""

JPEG_SCALES: Final = (1.0, 1.5, 2.0, 2.4, 3.0, 4.0)
"""How far JPEGs may be reduced, the fastest first. 2.4: 1920 x 1080 is halved for an input of 224."""

LOWEST_REDUCED_COSINE: Final = 0.999
"""Of a reduced JPEG to the same one decoded in full; it must be above."""

_BATCH: Final = 8
_NEAREST: Final = 10


class Towers:
    """The graphs of a folder, run as the server runs them.

    Args:
        folder: Where graphs and tokenizer lie.
        spec: For padding and truncation.
        prefix: Of the graphs' file names.
    """

    def __init__(self, folder: Path, spec: TextSpec, prefix: str = "") -> None:
        providers = ["CPUExecutionProvider"]
        self._vision = GraphSession(folder / f"{prefix}{VISION_FILE}", providers, threads=0)
        self._text = GraphSession(folder / f"{prefix}{TEXT_FILE}", providers, threads=0)
        self._tokenizer = TextTokenizer(folder / TOKENIZER_FILE, spec)

    def pictures(self, pixels: Pixels, batch: int = _BATCH) -> Embeddings:
        """uint8 ``[count, 3, height, width]`` -> float32 ``[count, dimension]``."""
        return np.concatenate([self._vision.run(pixels=pixels[at : at + batch]) for at in range(0, len(pixels), batch)])

    def texts(self, texts: list[str], batch: int = _BATCH) -> Embeddings:
        """Sentences -> float32 ``[count, dimension]``."""
        found = []
        for at in range(0, len(texts), batch):
            tokens = [self._tokenizer.tokenize(text) for text in texts[at : at + batch]]
            input_ids, attention_mask = self._tokenizer.pad(tokens)
            found.append(self._text.run(input_ids=input_ids, attention_mask=attention_mask))
        return np.concatenate(found)


def measure_parity(model: SourceModel, towers: Towers) -> dict[Tower, Similarity]:
    """Compare the fp32 graphs with the source model, by photographs and sentences.

    Raises:
        ExportError: They are not the same.
    """
    pixels, sentences = photographs(model.pixels), list(SENTENCES)
    parity: dict[Tower, Similarity] = {
        "vision": similarity(towers.pictures(pixels), model.reference_pictures(pixels)),
        "text": similarity(towers.texts(sentences), model.reference_texts(sentences)),
    }
    _require(parity, "fp32", "the source model")
    return parity


def measure_agreement(
    model: SourceModel, precision: Precision, fp32: Towers, towers: Towers, weight_shares: Sequence[float]
) -> dict[Tower, Agreement]:
    """Compare graphs with those at fp32, by photographs with their details and by sentences.

    Overlap is counted among the pictures: pictures near a picture, and pictures near a sentence.

    Args:
        model: What was exported.
        precision: Of ``towers``.
        fp32: The graphs to compare with.
        towers: The graphs to judge.
        weight_shares: Share of the vision's and the text tower's weights that were touched.

    Raises:
        ExportError: They are too far apart.
    """
    pixels, sentences = photographs_and_details(model.pixels), list(SENTENCES)
    pictures, pictures_fp32 = towers.pictures(pixels), fp32.pictures(pixels)
    texts, texts_fp32 = towers.texts(sentences), fp32.texts(sentences)
    near: dict[Tower, Similarity] = {
        "vision": similarity(pictures, pictures_fp32),
        "text": similarity(texts, texts_fp32),
    }
    _require(near, precision, "fp32")
    overlaps = (
        overlap_at_10((pictures, pictures), (pictures_fp32, pictures_fp32)),
        overlap_at_10((texts, pictures), (texts_fp32, pictures_fp32)),
    )
    return {
        tower: Agreement(similarity=near[tower], overlap_at_10=overlap, weight_share=share)
        for tower, overlap, share in zip(near, overlaps, weight_shares, strict=True)
    }


def measure_decoding(spec: PixelSpec, fp32: Towers) -> Decoding | None:
    """Find how far the decoder may reduce JPEGs, by photographs that it reduces to just that.

    At fp32, whatever the bundle's precision: rounding to int8 would drown what is measured.

    Args:
        spec: The vision tower's input.
        fp32: The graphs.

    Returns:
        The first of ``JPEG_SCALES`` that costs no picture 0.001 cosine, or ``None``.
    """
    for scale in JPEG_SCALES:
        pairs = []
        for jpeg in jpegs(math.ceil(scale * spec.resize_to)):
            reduced, full = (
                decode_picture(jpeg, spec, max_pixels=sys.maxsize, jpeg_scale=allowed).pixels
                for allowed in (scale, None)
            )
            pairs.append(fp32.pictures(np.stack([reduced, full])))
            if not similarity(pairs[-1][:1], pairs[-1][1:]).cosine_min > LOWEST_REDUCED_COSINE:
                break
        else:
            found = np.stack(pairs)
            return Decoding(jpeg_scale=scale, similarity=similarity(found[:, 0], found[:, 1]))
    return None


def similarity(found: Embeddings, expected: Embeddings) -> Similarity:
    """Compare embeddings of the same inputs, both ``[count, dimension]``."""
    one, other = (array.astype(np.float64) for array in (found, expected))
    cosine = (one * other).sum(axis=1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))
    return Similarity(
        count=len(cosine),
        cosine_min=float(cosine.min()),
        cosine_mean=float(cosine.mean()),
        max_abs_difference=float(np.abs(one - other).max()),
    )


def overlap_at_10(found: tuple[Embeddings, Embeddings], expected: tuple[Embeddings, Embeddings]) -> float:
    """Mean share of each query's ten nearest rows that are the same in both.

    Args:
        found: Queries ``[count, dimension]`` and the rows to search ``[rows, dimension]``.
        expected: The same from other towers. Where the queries are the rows, no query finds itself.
    """
    pairs = zip(_nearest(*found), _nearest(*expected), strict=True)
    return float(np.mean([len({*one} & {*other}) / _NEAREST for one, other in pairs]))


def _nearest(queries: Embeddings, rows: Embeddings) -> list[list[int]]:
    scores = queries @ rows.T
    if queries is rows:
        np.fill_diagonal(scores, -np.inf)
    ranked: list[list[int]] = np.argsort(-scores, axis=1, kind="stable")[:, :_NEAREST].tolist()
    return ranked


def _require(measured: dict[Tower, Similarity], precision: Precision, other: str) -> None:
    lowest = LOWEST_COSINE[precision]
    for tower, similar in measured.items():
        # Written so that NaN fails too.
        if not similar.cosine_min >= lowest:
            raise ExportError(
                f"the {tower} tower at {precision} does not agree with {other}: the lowest cosine of {similar.count} "
                f"inputs is {similar.cosine_min:.5f}, and {lowest} is needed; nothing was written"
                + ("; --precision fp32 is always exact" if precision != "fp32" else "")
            )
