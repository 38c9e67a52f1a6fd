"""Decoding pictures off the event loop, a bounded number at a time."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from PIL import Image

from clipseek_server.batching import Batcher
from clipseek_server.encoding.bundle import PixelSpec
from clipseek_server.encoding.pictures import DecodedPicture, decode_picture
from clipseek_server.telemetry import Call, Stage
from clipseek_server.threads import thread_pool


class DecodePool:
    """Threads that decode pictures.

    At most ``threads`` pictures are decoded at a time, so memory is bounded by that many of the largest ones, with
    ``config.DECODED_PIXEL_BYTES`` a pixel. Those of searches and single inserts go before bulk ones; one whose caller
    has gone or whose deadline has passed is dropped before it is decoded.

    Args:
        threads: Pictures decoded at a time.
        max_pixels: Largest picture, width times height.
        max_queue: Pictures that may wait; one more is ``Overloaded``.
    """

    def __init__(self, threads: int, *, max_pixels: int, max_queue: int) -> None:
        self._max_pixels = max_pixels
        self._threads = thread_pool("decode", threads, giving_way=True)
        self._queue: Batcher[_Waiting, DecodedPicture] = Batcher(
            "picture decoding", self._run, max_batch=1, max_queue=max_queue, stage=Stage.DECODE, workers=threads
        )

    async def decode(
        self,
        data: bytes,
        spec: PixelSpec,
        call: Call,
        *,
        place: Callable[[], AbstractContextManager[None]] = nullcontext,
        jpeg_scale: float | None = None,
        thumbnail: Callable[[Image.Image], bytes] | None = None,
    ) -> DecodedPicture:
        """Decode a picture when its turn comes.

        Args:
            data: The picture's file.
            spec: What the model takes.
            call: Whose it is.
            place: Keeps a place in what comes after decoding, or raises if there is none. It is tried now, and kept
                from the picture's turn until it is decoded, so that a picture that cannot be used costs nothing.
            jpeg_scale: See ``decode_picture``.
            thumbnail: See ``decode_picture``.

        Raises:
            InvalidImage: Not a whole picture of a supported format.
            ImageTooLarge: Too many pixels.
            Overloaded: Too many pictures wait.
            DeadlineExceeded: The deadline passed before decoding began.
        """
        with place():
            pass
        decode = partial(
            decode_picture, data, spec, max_pixels=self._max_pixels, jpeg_scale=jpeg_scale, thumbnail=thumbnail
        )
        return await self._queue.submit(_Waiting(decode, place), call)

    async def close(self) -> None:
        """Finish what waits and end the threads."""
        await self._queue.close()
        self._threads.shutdown()

    async def _run(self, pictures: Sequence["_Waiting"]) -> list[DecodedPicture]:
        [picture] = pictures
        with picture.place():
            return [await asyncio.get_running_loop().run_in_executor(self._threads, picture.decode)]


@dataclass(frozen=True, slots=True)
class _Waiting:
    decode: Callable[[], DecodedPicture]
    place: Callable[[], AbstractContextManager[None]]
