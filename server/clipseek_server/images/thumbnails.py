"""Small pictures for lists of hits."""

import io

from PIL import Image

MAX_SIDE = 256
"""Longest side of a thumbnail in pixels."""

MAX_BYTES = 32 * 1024
"""Largest thumbnail; a response with 75 of them, and the embeddings, stays below gRPC's 4 MB."""

_QUALITIES = (80, 60, 40, 20)


def make_thumbnail(image: Image.Image) -> bytes:
    """A JPEG of an RGB picture, at most 256 pixels a side and 32 KB; smaller pictures keep their size."""
    scale = min(1.0, MAX_SIDE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    # Pillow would carry the original's comment over.
    small.info = {}
    for quality in _QUALITIES:
        jpeg = io.BytesIO()
        small.save(jpeg, "JPEG", quality=quality)
        if jpeg.tell() <= MAX_BYTES:
            break
    return jpeg.getvalue()
