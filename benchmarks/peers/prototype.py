"""The prototype's way: transformers and torch for each request by itself, and a search in Milvus.

    python -m benchmarks.peers.prototype ADDRESS CHECKPOINT DATA ROWS

A search in the collection ``load-and-release`` loads the rows before it and releases them after it; in any other it
finds them loaded. Milvus is Milvus Lite, as in the server it is compared with.
"""

import io
import sys
import threading
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pymilvus import DataType, MilvusClient
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.peers.service import Embedding, Found, Search, Vector, serve
from benchmarks.rows import vectors

LOAD_AND_RELEASE = "load-and-release"

_THREADS = 10
"""What gRPC's examples have."""

_INSERT_AT_A_TIME = 1000


class Prototype:
    """Embeds and searches."""

    def __init__(self, checkpoint: Path, data: Path, rows: int) -> None:
        self._model = CLIPModel.from_pretrained(checkpoint).eval()  # type: ignore[no-untyped-call]
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self._processor = CLIPImageProcessorPil.from_pretrained(checkpoint)
        self._milvus = MilvusClient(str(data))
        # Two searches at a time would release what the other has just loaded.
        self._loading = threading.Lock()
        for name in ("loaded", "released"):
            self._fill(name, rows)
        self._milvus.release_collection("released")

    @torch.inference_mode()
    def picture(self, data: bytes) -> Vector:
        """Embed a picture."""
        with Image.open(io.BytesIO(data)) as image:
            inputs = self._processor(images=image.convert("RGB"), return_tensors="pt")
        return _unit(self._model.visual_projection(self._model.vision_model(**inputs).pooler_output))

    @torch.inference_mode()
    def text(self, text: str) -> Vector:
        """Embed a sentence."""
        inputs = self._tokenizer([text], return_tensors="pt", padding=True, truncation=True)
        return _unit(self._model.text_projection(self._model.text_model(**inputs).pooler_output))

    def search(self, collection: str, text: str, limit: int) -> Found:
        """Embed a sentence and find what is near."""
        vector = self.text(text)
        if collection != LOAD_AND_RELEASE:
            return self._nearest("loaded", vector, limit)
        with self._loading:
            self._milvus.load_collection("released")
            try:
                return self._nearest("released", vector, limit)
            finally:
                self._milvus.release_collection("released")

    def _nearest(self, name: str, vector: Vector, limit: int) -> Found:
        (hits,) = self._milvus.search(name, [vector.tolist()], limit=limit, output_fields=["path"])
        return [(hit["entity"]["path"], float(hit["distance"])) for hit in hits]

    def _fill(self, name: str, rows: int) -> None:
        dimension = int(self._model.config.projection_dim)
        schema = MilvusClient.create_schema()
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("path", DataType.VARCHAR, max_length=256)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
        index = MilvusClient.prepare_index_params()
        # What Lite searches fastest.
        index.add_index("vector", index_type="HNSW", metric_type="COSINE", params={"M": 16, "efConstruction": 200})
        self._milvus.create_collection(name, schema=schema, index_params=index)
        made = vectors(rows, dimension)
        for at in range(0, rows, _INSERT_AT_A_TIME):
            some = enumerate(made[at : at + _INSERT_AT_A_TIME], at)
            self._milvus.insert(name, [{"id": key, "path": f"{key}.jpg", "vector": vector} for key, vector in some])
        self._milvus.flush(name)
        self._milvus.load_collection(name)


def _unit(embedding: torch.Tensor) -> Vector:
    vector: Vector = torch.nn.functional.normalize(embedding, dim=-1)[0].numpy()
    return np.ascontiguousarray(vector)


def main() -> None:
    """Serve."""
    address, checkpoint, data, rows = sys.argv[1:]
    prototype = Prototype(Path(checkpoint), Path(data), int(rows))
    serve(address, _THREADS, Embedding(prototype.picture, prototype.text), Search(prototype.search))  # type: ignore[abstract]  # what it does not serve is never called


if __name__ == "__main__":
    main()
