"""Reads of Milvus Lite beside a flush, which moves rows from memory to files, and beside writes."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from clipseek_server.index.lite import Lite

Beside = Callable[[Any, str, Callable[[], Any]], list[Future[Any]]]

LONG = 0.3
"""Seconds that one waits for what may be waiting for it: longer than a read or a flush of a few rows takes."""


def _by_id(rows: Any) -> dict[str, str]:
    return _texts(rows.get(["again", "new", "newer", "deleted"]))


def _by_condition(rows: Any) -> dict[str, str]:
    return _texts(rows.query('id != ""'))


def _by_vector(rows: Any) -> dict[str, str]:
    return _texts({"id": hit["id"], **hit["entity"]} for hit in rows.search([[1.0, 0.0]])[0])


def _by_pages(rows: Any) -> dict[str, str]:
    pages = list(rows.pages(["id", "text"], 2))
    assert [len(page) for page in pages] == [2, 1]
    found = [row for page in pages for row in page]
    assert [row["id"] for row in found] == sorted(NOW)
    assert all(row["vector"].tolist() == [1.0, 0.0] for row in found)
    return _texts(found)


READS = [_by_id, _by_condition, _by_vector, _by_pages]
NOW = {"again": "now", "new": "now", "newer": "now"}


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Any]:
    """One that holds ``NOW``: one row was replaced, and one deleted, since they were written to a file."""
    lite = Lite(tmp_path / "milvus")
    lite.start()
    # Not before: it is configured when it is first imported.
    from milvus_lite.schema.types import CollectionSchema, DataType, FieldSchema

    fields = [
        FieldSchema("id", DataType.VARCHAR, is_primary=True, max_length=9),
        FieldSchema("vector", DataType.FLOAT_VECTOR, dim=2),
        FieldSchema("text", DataType.VARCHAR, max_length=9),
    ]
    made = lite._database.create_collection("rows", CollectionSchema(fields))
    made.load()
    made.insert([_row("again", "old"), _row("deleted", "old")])
    made.flush()
    made.insert([_row(row_id, text) for row_id, text in NOW.items()])
    made.delete(["deleted"])
    yield made
    lite.stop()


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Beside]:
    """Has something done in another thread when ``owner.name`` was called for the first time; gives its future."""
    with ThreadPoolExecutor(1) as pool:

        def arrange(owner: Any, name: str, what: Callable[[], Any]) -> list[Future[Any]]:
            original, futures = getattr(owner, name), list[Future[Any]]()

            def interrupted(*args: Any, **options: Any) -> Any:
                result = original(*args, **options)
                if not futures:
                    futures.append(pool.submit(what))
                    wait(futures, timeout=LONG)
                return result

            monkeypatch.setattr(owner, name, interrupted)
            return futures

        yield arrange


@pytest.mark.parametrize("read", READS)
def test_a_flush_in_the_middle_of_a_read(collection: Any, beside: Beside, read: Callable[[Any], Any]) -> None:
    flushed = beside(collection, "_read_snapshot", collection.flush)
    assert read(collection) == NOW
    flushed[0].result()
    assert read(collection) == NOW


@pytest.mark.parametrize("read", READS)
def test_a_read_in_the_middle_of_a_flush(collection: Any, beside: Beside, read: Callable[[Any], Any]) -> None:
    import milvus_lite.engine.collection

    # What a flush makes when it has set aside the rows in memory.
    found = beside(milvus_lite.engine.collection, "WAL", lambda: read(collection))
    collection.flush()
    assert found[0].result() == NOW


def test_a_count_in_the_middle_of_a_flush(collection: Any, beside: Beside) -> None:
    import milvus_lite.engine.collection

    found = beside(milvus_lite.engine.collection, "WAL", lambda: collection.num_entities)
    collection.flush()
    assert found[0].result() == len(NOW)


@pytest.mark.parametrize(
    ("read", "part"),
    [
        (_by_id, "get"),
        (_by_condition, "to_search_snapshot"),
        (_by_vector, "to_search_snapshot"),
        (_by_pages, "to_search_snapshot"),
    ],
)
def test_a_write_in_the_middle_of_a_read(
    collection: Any, beside: Beside, read: Callable[[Any], Any], part: str
) -> None:
    """What was deleted, and is written again meanwhile, is not found as it was before."""
    from milvus_lite.storage.memtable import MemTable

    beside(MemTable, part, lambda: collection.insert([_row("deleted", "again")]))
    assert read(collection) == NOW


def _row(row_id: str, text: str) -> dict[str, Any]:
    return {"id": row_id, "vector": [1.0, 0.0], "text": text}


def _texts(rows: Iterable[dict[str, Any]]) -> dict[str, str]:
    return {row["id"]: row["text"] for row in rows}
