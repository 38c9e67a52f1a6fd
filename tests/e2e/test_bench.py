"""The load generator against a real server."""

import pytest

from clipseek.bench import ClipseekTarget, ClosedLoop, GeneratorError, Load, OpenLoop, generate
from pictures import picture


@pytest.fixture
def target(server, client, collection, tmp_path) -> ClipseekTarget:
    paths = []
    for seed in range(4):
        path = tmp_path / f"{seed}.png"
        path.write_bytes(picture(seed))
        paths.append(str(path))
        client.insert(path, collection=collection)
    return ClipseekTarget(server.address, collection=collection, pictures=tuple(paths), bulk_items=5)


def test_every_operation_in_a_closed_loop_of_two_processes(target, client, collection) -> None:
    names = ("search_text", "search_image", "embed_text", "embed_image", "insert", "bulk_import")
    load = Load(
        shape=ClosedLoop(4), mix=dict.fromkeys(names, 1), warmup=0.0, seconds=60, calls=60, processes=2, first=7
    )
    result = generate(target, load)
    assert result.total.errors == {}
    assert result.total.calls == 60
    assert set(result.operations) == set(names)
    stored = result.operations["insert"].calls + result.operations["bulk_import"].items
    assert result.operations["bulk_import"].items == 5 * result.operations["bulk_import"].calls
    assert client.get_collection(collection).image_count == 4 + stored
    assert result.operations["search_text"].stages["total"] > 0
    assert result.cpu_seconds > 0


def test_open_loop(target) -> None:
    result = generate(target, Load(shape=OpenLoop(200), mix={"search_text": 1}, warmup=0.1, seconds=0.5))
    assert result.total.errors == {}
    assert result.total.calls == 100
    assert result.lateness is not None
    assert result.lateness.count == 100


def test_errors_are_counted_by_status(server, collection) -> None:
    target = ClipseekTarget(server.address, collection=collection)
    result = generate(target, Load(shape=ClosedLoop(1), mix={"search_text": 1}, warmup=0.0, seconds=60, calls=3))
    assert result.total.errors == {"NOT_FOUND": 3}
    assert result.total.latency is None


def test_what_cannot_be_called_is_said(server) -> None:
    load = Load(shape=ClosedLoop(1), mix={"embed_image": 1}, calls=1)
    with pytest.raises(GeneratorError, match="no such operation: embed_image"):
        generate(ClipseekTarget(server.address), load)
    with pytest.raises(GeneratorError, match="UnavailableError"):
        generate(ClipseekTarget("127.0.0.1:1", timeout=1), load)
