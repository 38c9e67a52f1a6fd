"""Where the vectors of pictures and texts lie, by which indexes are measured: made up, or from real ones.

Made-up pictures stand for CLIP's at 512 dimensions. They lie in a cone (mean cosine 0.5), in clusters of about 100 or,
the harder kind, spread evenly; pictures as queries are near one of them, and texts lie outside their cone (best cosine
about 0.32).

Real ones come from ``benchmarks.embeddings``: pictures and captions as the starter's two trained towers embed them.
There are thousands of them, so a larger collection has each more than once, with noise that is distributed as the
pictures themselves are (cosine 0.9 to the real one). The texts are captions as they are, of any of the pictures.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]

KINDS = ("clustered", "spread", "real")

_DIMENSION = 512
_ROWS_OF_A_CLUSTER = 100
_NOISE = np.float32(0.5)
"""Of a real picture's vector; of a query's picture it is less."""
_NEAR = np.float32(0.35)


class Population(Protocol):
    """Draws unit vectors: float32 ``[count, dimension]``, the same ones each time it is made."""

    dimension: int

    def pictures(self, count: int) -> Matrix:
        """New pictures."""

    def near(self, pictures: Matrix) -> Matrix:
        """A picture like each of these."""

    def texts(self, pictures: Matrix) -> Matrix:
        """As many texts, where possible of these pictures."""


def population(kind: str, size: int, real: Path | None) -> Population:
    """The population for a collection of that size.

    Args:
        kind: One of ``KINDS``.
        size: Rows.
        real: The file that ``benchmarks.embeddings`` wrote.
    """
    if kind != "real":
        return MadeUp(size // _ROWS_OF_A_CLUSTER if kind == "clustered" else 0)
    if real is None:
        raise SystemExit("--kinds real needs --real FILE, which python -m benchmarks.embeddings writes")
    return Real(real)


class MadeUp:
    """Nothing real.

    Args:
        clusters: How many clusters of pictures; 0 for none.
    """

    dimension = _DIMENSION

    def __init__(self, clusters: int) -> None:
        self._rng = np.random.default_rng(0)
        spectrum = np.arange(1, _DIMENSION + 1) ** -0.5
        rotation = np.linalg.qr(self._rng.normal(size=(_DIMENSION, _DIMENSION)))[0]
        self._mixing = (spectrum[:, None] * rotation).astype(np.float32)
        self._middle, self._text_middle = _unit(self._rng.normal(size=(2, _DIMENSION)).astype(np.float32))
        self._centres = _unit(self._bodies(clusters)) if clusters else None

    def pictures(self, count: int) -> Matrix:
        """In the cone."""
        bodies = _unit(self._bodies(count))
        if self._centres is not None:
            chosen = self._centres[self._rng.integers(0, len(self._centres), count)]
            bodies = _unit(chosen + np.float32(0.7) * bodies)
        return _unit(self._middle + bodies)

    def near(self, pictures: Matrix) -> Matrix:
        """Each with some noise."""
        return _unit(pictures + _NEAR * _unit(self._bodies(len(pictures))))

    def texts(self, pictures: Matrix) -> Matrix:
        """A text for each, outside the cone."""
        own = _unit(pictures - self._middle * (pictures @ self._middle)[:, None])
        return _unit(self._text_middle + np.float32(0.05) * self._middle + np.float32(0.39) * own)

    def _bodies(self, count: int) -> Matrix:
        bodies: Matrix = self._rng.standard_normal((count, _DIMENSION), dtype=np.float32) @ self._mixing
        return bodies


class Real:
    """Embeddings of real pictures, with noise, and of real captions.

    Args:
        file: ``pictures`` and ``texts``, each float32 ``[count, dimension]``, as an ``.npz``.
    """

    def __init__(self, file: Path) -> None:
        self._rng = np.random.default_rng(0)
        with np.load(file) as arrays:
            self._pictures: Matrix = arrays["pictures"]
            self._texts: Matrix = arrays["texts"]
        self.dimension = self._pictures.shape[1]
        variances, directions = np.linalg.eigh(np.cov(self._pictures, rowvar=False))
        self._mixing = (np.sqrt(variances.clip(min=0))[:, None] * directions.T).astype(np.float32)

    def pictures(self, count: int) -> Matrix:
        """Real ones with noise."""
        chosen = self._pictures[self._rng.integers(0, len(self._pictures), count)]
        return _unit(chosen + _NOISE * self._noise(count))

    def near(self, pictures: Matrix) -> Matrix:
        """Each with more noise."""
        return _unit(pictures + _NEAR * self._noise(len(pictures)))

    def texts(self, pictures: Matrix) -> Matrix:
        """Captions by chance."""
        return self._texts[self._rng.integers(0, len(self._texts), len(pictures))]

    def _noise(self, count: int) -> Matrix:
        return _unit(self._rng.standard_normal((count, self.dimension), dtype=np.float32) @ self._mixing)


def _unit(vectors: Matrix) -> Matrix:
    unit: Matrix = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit
