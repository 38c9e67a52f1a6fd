"""Rows for the index, and settings for a Milvus Lite of its own."""

from pathlib import Path
from typing import Any

import numpy as np

from clipseek_server.config import Settings
from clipseek_server.index.collection import MilvusCollection
from clipseek_server.index.filters import Filter
from clipseek_server.index.milvus import MilvusIndex
from clipseek_server.index.records import Effort, Match, Record, Row, Vector
from clipseek_server.telemetry import Call

DIMENSION = 8


def vector(seed: int, dimension: int = DIMENSION) -> Vector:
    values = np.random.default_rng(seed).normal(size=dimension).astype(np.float32)
    return (values / np.linalg.norm(values)).astype(np.float32)


def record(image_id: str, **metadata: Any) -> Record:
    return Record(
        image_id=image_id,
        content_sha256="0" * 64,
        blob_key=f"uid/{image_id}/key",
        media_type="image/png",
        width=640,
        height=480,
        size_bytes=1000,
        create_time=1_700_000_000_000_000,
        update_time=1_700_000_000_000_001,
        metadata=metadata,
    )


def row(image_id: str, seed: int = 0, **metadata: Any) -> Row:
    return Row(record(image_id, **metadata), vector(seed))


def lite_settings(folder: Path, **settings: Any) -> Settings:
    return Settings(data_dir=folder, **settings)


async def make(index: MilvusIndex, name: str = "default", space_id: str = "space") -> MilvusCollection:
    collection, _ = await index.create(name, space_id=space_id, precision="fp32", dimension=DIMENSION)
    return collection


async def nearest(
    collection: MilvusCollection,
    query: Vector,
    limit: int = 10,
    *,
    condition: Filter | None = None,
    effort: Effort = Effort.DEFAULT,
    strong: bool = True,
) -> list[Match]:
    return await collection.search(query, limit, Call(), filter=condition, effort=effort, strong=strong)


async def listed(collection: MilvusCollection, condition: Filter | None = None) -> list[str]:
    return [found.image_id for found in await collection.page("", 1000, Call(), filter=condition, strong=True)]
