"""A naive ONNX server: the same graphs, one item a run, texts padded to their full length, transformers' pictures.

python -m benchmarks.peers.naive ADDRESS CHECKPOINT BUNDLE
"""

import io
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image
from transformers import AutoTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.peers.service import Embedding, Vector, serve

_THREADS = 10


class Naive:
    """Embeds."""

    def __init__(self, checkpoint: Path, bundle: Path) -> None:
        self._vision = ort.InferenceSession(bundle / "vision.onnx", providers=["CPUExecutionProvider"])
        self._text = ort.InferenceSession(bundle / "text.onnx", providers=["CPUExecutionProvider"])
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        # The graph scales and normalises by itself.
        self._processor = CLIPImageProcessorPil.from_pretrained(checkpoint, do_rescale=False, do_normalize=False)

    def picture(self, data: bytes) -> Vector:
        """Embed a picture."""
        with Image.open(io.BytesIO(data)) as image:
            pixels = self._processor(images=image.convert("RGB"), return_tensors="np")["pixel_values"]
        return _only(self._vision.run(["embedding"], {"pixels": pixels.astype(np.uint8)}))

    def text(self, text: str) -> Vector:
        """Embed a sentence."""
        inputs = self._tokenizer([text], return_tensors="np", padding="max_length", truncation=True)
        names = ("input_ids", "attention_mask")
        return _only(self._text.run(["embedding"], {name: inputs[name].astype(np.int64) for name in names}))


def _only(outputs: list[Vector]) -> Vector:
    vector: Vector = outputs[0][0]
    return vector


def main() -> None:
    """Serve."""
    address, checkpoint, bundle = sys.argv[1:]
    naive = Naive(Path(checkpoint), Path(bundle))
    serve(address, _THREADS, Embedding(naive.picture, naive.text))


if __name__ == "__main__":
    main()
