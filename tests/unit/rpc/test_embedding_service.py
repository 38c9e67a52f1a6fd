"""EmbeddingService: what waits for what."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from clipseek.v1 import embedding_service_pb2 as pb
from clipseek_server.config import Settings
from clipseek_server.rpc.embedding_service import EmbeddingService
from clipseek_server.telemetry import Call
from pictures import picture


class Model:
    """Texts are embedded at once, pictures when the test says so."""

    manifest = SimpleNamespace(name="m", space_id="5" * 64, precision="fp32", space=SimpleNamespace(dimension=2))
    space_id = "5" * 64

    def __init__(self) -> None:
        self.decoding = asyncio.Event()
        self.go = asyncio.Event()

    async def embed_text(self, text: str, call: Call) -> Any:
        return SimpleNamespace(vector=np.ones(2, np.float32), truncated=False)

    async def decode(self, data: bytes, call: Call, *, thumbnail: bool) -> Any:
        self.decoding.set()
        await self.go.wait()
        return SimpleNamespace(pixels=None)

    async def embed_picture(self, pixels: Any, call: Call) -> Any:
        return np.ones(2, np.float32)


async def test_batches_of_texts_never_wait_for_pictures() -> None:
    model = Model()
    models = cast(Any, SimpleNamespace(named=lambda _: model))
    service = EmbeddingService(models, Settings(queue_length=1))
    images = asyncio.create_task(service.embed_image(pb.EmbedImageRequest(images=[picture(1), picture(2)]), Call()))
    async with asyncio.timeout(10):
        await model.decoding.wait()
        answer = await service.embed_text(pb.EmbedTextRequest(texts=["a", "b"]), Call())
    assert [result.WhichOneof("result") for result in answer.results] == ["embedding"] * 2
    assert not images.done()
    model.go.set()
    assert len((await images).results) == 2
