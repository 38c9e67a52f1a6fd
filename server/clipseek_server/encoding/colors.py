"""Every mode of a picture to 8-bit RGB."""

import numpy as np
from PIL import Image

_WHITE = (255, 255, 255)
_BITS_PER_SAMPLE = 258


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in 8-bit RGB.

    Transparency lies on white. 16-bit samples keep their high byte, as Pillow itself does for 16-bit colour. Samples
    without a natural range (32-bit integers, floats) are stretched from black to white. ICC profiles are ignored.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _from_16_bits(image).convert("RGB")
    if image.mode in ("I", "F"):
        return _stretched(image).convert("RGB")
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        # A 16-bit key of a picture of which Pillow kept the high bytes.
        image.info["transparency"] = tuple(sample >> 8 for sample in key)
    if image.mode == "La":
        # Pillow has no direct way from premultiplied grey to RGBA.
        image = image.convert("LA")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    opaque = Image.new("RGB", image.size, _WHITE)
    opaque.paste(image, mask=image)
    return opaque


def _from_16_bits(image: Image.Image) -> Image.Image:
    samples = np.asarray(image)
    # Pillow hands 12-bit TIFFs out unscaled.
    twelve_bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE) == (12,)
    gray = (samples >> (4 if twelve_bits else 8)).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray[samples == transparent] = 255
    return Image.fromarray(gray)


def _stretched(image: Image.Image) -> Image.Image:
    samples = np.array(image, dtype=np.float32)
    finite = np.isfinite(samples)
    darkest = samples.min(where=finite, initial=np.inf)
    brightest = samples.max(where=finite, initial=-np.inf)
    if not brightest > darkest:
        return Image.new("L", image.size)
    # Halves, so that the range of the largest floats does not overflow.
    samples *= 0.5
    samples -= darkest * np.float32(0.5)
    samples *= np.float32(255.0 / (float(brightest) * 0.5 - float(darkest) * 0.5))
    samples[~finite] = 0.0
    # In place: these are four bytes a pixel each.
    np.clip(samples, 0, 255, out=samples)
    np.rint(samples, out=samples)
    return Image.fromarray(samples.astype(np.uint8))
