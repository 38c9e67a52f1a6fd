"""Pictures to send when there are none at hand: JPEGs as large as a telephone's, each another one."""

import io
import random
from pathlib import Path

COUNT = 16
SIZE = (1280, 960)
_BLOBS = 40
_QUALITY = 85


def make_pictures(folder: Path, count: int = COUNT, size: tuple[int, int] = SIZE) -> tuple[str, ...]:
    """Write them into a folder; the same on every machine, but for what an encoder makes of them.

    Coloured shapes, blurred, with a sensor's noise over them: they take as long to decode as photographs of that size.
    """
    # Only who has none needs pillow.
    from PIL import Image, ImageDraw, ImageFilter

    paths = []
    for number in range(count):
        chance = random.Random(number)  # noqa: S311 -- no secrets here
        picture = Image.new("RGB", size, tuple(chance.randrange(256) for _ in range(3)))
        draw = ImageDraw.Draw(picture)
        for _ in range(_BLOBS):
            x, y = chance.randrange(size[0]), chance.randrange(size[1])
            radius = chance.randrange(20, size[1] // 3)
            colour = tuple(chance.randrange(256) for _ in range(3))
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
        picture = picture.filter(ImageFilter.GaussianBlur(3))
        noise = Image.frombytes("L", size, chance.randbytes(size[0] * size[1])).convert("RGB")
        buffer = io.BytesIO()
        Image.blend(picture, noise, 0.08).save(buffer, "JPEG", quality=_QUALITY)
        path = folder / f"sample-{number:02}.jpg"
        path.write_bytes(buffer.getvalue())
        paths.append(str(path))
    return tuple(paths)
