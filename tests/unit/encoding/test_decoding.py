import asyncio
import io
import threading
import time
from contextlib import contextmanager

import pytest
from PIL import Image

from clipseek_server.encoding.bundle import PixelSpec
from clipseek_server.encoding.decoding import DecodePool
from clipseek_server.errors import DeadlineExceeded, ImageTooLarge, InvalidImage, NotServing, Overloaded
from clipseek_server.telemetry import Call, Stage

SPEC = PixelSpec(
    height=8, width=8, resize="shortest_edge", resize_to=8, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
)


def png(shade=0, size=(20, 10)):
    file = io.BytesIO()
    Image.new("L", size, shade).save(file, "PNG")
    return file.getvalue()


class Gate:
    """A thumbnailer that notes who is decoded, and holds every thread until it is opened."""

    def __init__(self):
        self.lock = threading.Lock()
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.decoded = []
        self.running = 0
        self.most_running = 0

    def __call__(self, image):
        with self.lock:
            self.decoded.append(image.getpixel((0, 0))[0])
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        self.entered.release()
        assert self.open.wait(60)
        with self.lock:
            self.running -= 1
        return b"thumbnail"

    async def until_entered(self, count):
        for _ in range(count):
            assert await asyncio.to_thread(self.entered.acquire, timeout=60)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
async def pool():
    pool = DecodePool(2, max_pixels=1000, max_queue=20)
    yield pool
    await pool.close()


def start(pool, gate, shade, call=None):
    return asyncio.ensure_future(pool.decode(png(shade), SPEC, call or Call(), thumbnail=gate))


@pytest.fixture
async def single():
    pool = DecodePool(1, max_pixels=1000, max_queue=20)
    yield pool
    await pool.close()


async def occupied(pool, gate, threads):
    """Decodes that hold all threads."""
    tasks = [start(pool, gate, shade) for shade in range(threads)]
    await gate.until_entered(threads)
    gate.decoded.clear()
    return tasks


async def test_a_picture_is_decoded_and_timed(pool):
    call = Call()
    picture = await pool.decode(png(7), SPEC, call)
    assert (picture.width, picture.height, picture.media_type, picture.thumbnail) == (20, 10, "image/png", b"")
    assert picture.pixels.max() == picture.pixels.min() == 7
    assert call.seconds[Stage.DECODE] > 0
    assert Stage.QUEUE in call.seconds


async def test_a_bad_picture_fails_alone(pool):
    results = await asyncio.gather(
        pool.decode(b"nothing", SPEC, Call()),
        pool.decode(png(size=(100, 100)), SPEC, Call()),
        pool.decode(png(), SPEC, Call()),
        return_exceptions=True,
    )
    assert [type(result).__name__ for result in results] == ["InvalidImage", "ImageTooLarge", "DecodedPicture"]
    assert isinstance(results[0], InvalidImage)
    assert isinstance(results[1], ImageTooLarge)


async def test_no_more_than_its_threads_at_a_time(pool, gate):
    tasks = [start(pool, gate, shade) for shade in range(8)]
    await gate.until_entered(2)
    gate.open.set()
    await asyncio.gather(*tasks)
    assert len(gate.decoded) == 8
    assert gate.most_running == 2


async def test_the_loop_is_free_meanwhile(pool, gate):
    tasks = await occupied(pool, gate, 2)
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    gate.open.set()
    assert all(picture.thumbnail == b"thumbnail" for picture in await asyncio.gather(*tasks))


async def test_interactive_pictures_go_before_bulk_ones(single, gate):
    tasks = await occupied(single, gate, 1)
    tasks += [start(single, gate, 100 + n, Call(bulk=True)) for n in range(3)]
    tasks += [start(single, gate, 10 + n) for n in range(3)]
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(*tasks)
    assert gate.decoded == [10, 11, 12, 100, 101, 102]


async def test_bulk_is_not_starved(single, gate):
    tasks = await occupied(single, gate, 1)
    tasks.append(start(single, gate, 200, Call(bulk=True)))
    tasks += [start(single, gate, shade) for shade in range(10, 29)]
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(*tasks)
    assert gate.decoded.index(200) < 8


async def test_what_nobody_waits_for_is_not_decoded(single, gate):
    tasks = await occupied(single, gate, 1)
    gone = start(single, gate, 50)
    late_call = Call(deadline=time.monotonic() + 3600)
    late = start(single, gate, 60, late_call)
    kept = start(single, gate, 70)
    await asyncio.sleep(0)
    gone.cancel()
    late_call.deadline = time.monotonic()
    gate.open.set()
    await asyncio.gather(*tasks, kept)
    with pytest.raises(DeadlineExceeded):
        await late
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert gate.decoded == [70]


async def test_a_passed_deadline_is_refused_at_once(pool):
    with pytest.raises(DeadlineExceeded):
        await pool.decode(png(), SPEC, Call(deadline=time.monotonic()))


async def test_a_full_queue_refuses(gate):
    pool = DecodePool(1, max_pixels=1000, max_queue=2)
    tasks = [start(pool, gate, 1)]
    await gate.until_entered(1)
    tasks += [start(pool, gate, shade) for shade in (2, 3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="picture decoding queue is full"):
        await pool.decode(png(), SPEC, Call())
    gate.open.set()
    await asyncio.gather(*tasks)
    await pool.close()


async def test_room_is_asked_for_again_when_the_turn_comes(gate):
    pool = DecodePool(1, max_pixels=1000, max_queue=5)
    first = start(pool, gate, 1)
    await gate.until_entered(1)
    asked = []

    @contextmanager
    def place():
        asked.append(None)
        if len(asked) == 2:
            raise Overloaded("meanwhile")
        yield

    second = asyncio.ensure_future(pool.decode(png(), SPEC, Call(), place=place, thumbnail=gate))
    await asyncio.sleep(0)
    assert len(asked) == 1
    gate.open.set()
    with pytest.raises(Overloaded, match="meanwhile"):
        await second
    await first
    await pool.close()


async def test_a_place_is_kept_while_a_picture_is_decoded(gate):
    pool = DecodePool(1, max_pixels=1000, max_queue=5)
    kept = 0

    @contextmanager
    def place():
        nonlocal kept
        kept += 1
        yield
        kept -= 1

    decoding = asyncio.ensure_future(pool.decode(png(), SPEC, Call(), place=place, thumbnail=gate))
    await gate.until_entered(1)
    assert kept == 1
    gate.open.set()
    await decoding
    assert kept == 0
    await pool.close()


async def test_closing_finishes_what_waits(gate):
    pool = DecodePool(1, max_pixels=1000, max_queue=5)
    tasks = [start(pool, gate, shade) for shade in (1, 2, 3)]
    await gate.until_entered(1)
    closing = asyncio.ensure_future(pool.close())
    gate.open.set()
    await closing
    assert all(task.done() for task in tasks)
    await asyncio.gather(*tasks)
    with pytest.raises(NotServing):
        await pool.decode(png(), SPEC, Call())
