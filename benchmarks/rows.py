"""Collections of any size without embedding a picture: rows put in through the server's own index."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipseek_server.config import Settings
from clipseek_server.encoding.bundle import Manifest, read_manifest
from clipseek_server.index.milvus import MilvusIndex
from clipseek_server.index.records import Record, Row
from clipseek_server.telemetry import Call

GROUPS = 10
"""``metadata.group`` takes so many values, each in as many rows."""

COLLECTION = "default"

_CLUSTERS = 500
_AT_A_TIME = 1000


def vectors(count: int, dimension: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Unit vectors shaped like CLIP's of pictures: a common direction, clusters around it, and noise.

    The mean cosine of two of them is about 0.5, within a cluster about 0.8.
    """
    random = np.random.default_rng(seed)

    def normal(rows: int) -> npt.NDArray[np.float32]:
        return random.normal(size=(rows, dimension)).astype(np.float32) / np.float32(dimension**0.5)

    common, clusters = normal(1), normal(_CLUSTERS)
    made: npt.NDArray[np.float32] = (
        common + 0.77 * clusters[random.integers(0, _CLUSTERS, count)] + 0.63 * normal(count)
    )
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def fill(data_dir: Path, bundle: Path, count: int, *, milvus_uri: str = "") -> None:
    """Make a default collection with so many rows; there are no bytes behind them.

    Args:
        data_dir: Made if missing. Milvus Lite's rows are in it.
        bundle: Whose embeddings the vectors stand for.
        count: Rows.
        milvus_uri: Of a Milvus server that gets the rows instead.
    """
    manifest = read_manifest(bundle)
    settings = Settings(data_dir=data_dir, bundles=[bundle], milvus_uri=milvus_uri)
    asyncio.run(_fill(settings, manifest, count))


async def _fill(settings: Settings, manifest: Manifest, count: int) -> None:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    index = await MilvusIndex.connect(settings)
    try:
        collection, is_new = await index.create(
            COLLECTION, space_id=manifest.space_id, precision=manifest.precision, dimension=manifest.dimension
        )
        if not is_new:
            raise RuntimeError(f"there is a collection {COLLECTION} already, which is not to be written to")
        left = rows(count, manifest.dimension)
        while some := list(itertools.islice(left, _AT_A_TIME)):
            await asyncio.gather(*(collection.upsert(row, Call(bulk=True)) for row in some))
    finally:
        await index.close()


def rows(count: int, dimension: int, first: int = 0) -> Iterator[Row]:
    """Rows with made-up vectors, numbered from the first on."""
    for number, vector in enumerate(vectors(count, dimension), first):
        yield Row(
            Record(
                image_id=f"row-{number:07}",
                content_sha256=f"{number:064x}",
                blob_key=f"none/row-{number:07}/0",
                media_type="image/jpeg",
                width=1920,
                height=1080,
                size_bytes=500_000,
                create_time=1_700_000_000_000_000 + number,
                update_time=1_700_000_000_000_000 + number,
                metadata={"group": number % GROUPS, "file": f"album/{number:07}.jpg"},
            ),
            vector,
        )
