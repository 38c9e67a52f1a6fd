"""What embedding a text gives."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class EmbeddedText:
    """A text's embedding.

    Attributes:
        vector: float32 ``[dimension]``, L2-normalised.
        truncated: Whether the text was longer than the model's context and only its beginning was read.
    """

    vector: npt.NDArray[np.float32]
    truncated: bool
