"""A loaded bundle: pictures and texts in, embeddings out."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipseek_server import metrics, telemetry
from clipseek_server.batching import Batcher
from clipseek_server.config import Settings
from clipseek_server.encoding.bundle import (
    TEXT_FILE,
    TOKENIZER_FILE,
    VISION_FILE,
    Golden,
    Manifest,
    golden_pixels,
    read_manifest,
    verify_files,
)
from clipseek_server.encoding.decoding import DecodePool
from clipseek_server.encoding.pictures import DecodedPicture
from clipseek_server.encoding.sessions import GraphSession, check_runtime
from clipseek_server.encoding.text_cache import TextCache
from clipseek_server.encoding.texts import EmbeddedText
from clipseek_server.encoding.tokenizing import TextTokenizer, TokenizedText
from clipseek_server.errors import StartupError
from clipseek_server.telemetry import Call, Stage, log
from clipseek_server.threads import thread_pool

Vector = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Item = TypeVar("Item")

_TOKENIZE_ON_THE_LOOP_CHARACTERS = 1000
"""Longer texts take longer than the event loop should wait: a thread has them."""

_PICTURE_TOWER, _TEXT_TOWER = "picture tower", "text tower"

GOLDEN_COSINE = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.99, "int8": 0.99}
"""How near a golden embedding must be: other processors round differently, most of all where numbers have few bits."""


class LoadedModel:
    """A bundle that serves. It implements the domain's ``Model``.

    Make one with ``load``.
    """

    def __init__(
        self,
        manifest: Manifest,
        vision: GraphSession,
        text: GraphSession,
        tokenizer: TextTokenizer,
        settings: Settings,
        decode_pool: DecodePool,
        thumbnail: Callable[[Image.Image], bytes],
    ) -> None:
        self._manifest = manifest
        self._vision = vision
        self._text = text
        self._tokenizer = tokenizer
        self._decode_pool = decode_pool
        self._thumbnail = thumbnail
        self._text_cache = TextCache(settings.text_cache)
        self._vision_tower = _Tower(
            _PICTURE_TOWER,
            self._run_vision,
            settings,
            max_batch=settings.vision_batch,
            weigh=lambda _: 1.0,
            giving_way=True,
        )
        self._text_tower = _Tower(
            _TEXT_TOWER,
            self._run_text,
            settings,
            max_batch=settings.text_batch,
            weigh=lambda text: text.like_length,
            may_join=lambda batch, text: text.like_length == batch[0].like_length,
        )

    @classmethod
    def load(
        cls, folder: Path, settings: Settings, decode_pool: DecodePool, *, thumbnail: Callable[[Image.Image], bytes]
    ) -> Self:
        """Load a bundle, check it and warm it up. It blocks for seconds: call it on a thread.

        Args:
            folder: The bundle.
            settings: For providers, threads, batches and queues.
            decode_pool: Decodes the pictures; all models share one.
            thumbnail: Makes a thumbnail of an upright RGB picture.

        Raises:
            StartupError: The bundle is missing or damaged, its golden pairs do not hold, or a provider was not got.
        """
        check_runtime()
        manifest = read_manifest(folder)
        open_session = partial(
            GraphSession,
            providers=settings.providers,
            threads=settings.cores,
            openvino_precision=settings.openvino_precision,
        )
        # Side by side: none of the three keeps more than one core busy. ONNX Runtime's threads take after those that
        # open its sessions.
        with (
            thread_pool("verify") as verifying,
            thread_pool(_PICTURE_TOWER, giving_way=True) as opening_vision,
            thread_pool(_TEXT_TOWER) as opening_text,
        ):
            verified = verifying.submit(verify_files, folder, manifest)
            opened = [
                thread.submit(open_session, folder / file)
                for thread, file in ((opening_vision, VISION_FILE), (opening_text, TEXT_FILE))
            ]
            # Before what ONNX Runtime makes of a damaged file.
            verified.result()
            vision, text = (session.result() for session in opened)
        tokenizer = TextTokenizer(folder / TOKENIZER_FILE, manifest.text)
        model = cls(manifest, vision, text, tokenizer, settings, decode_pool, thumbnail)
        computes_in = "bf16" if vision.openvino_precision == "bf16" else manifest.precision
        for golden in manifest.golden:
            model._check(golden, GOLDEN_COSINE[computes_in])
        model._warm()
        log.info("model is loaded", model=manifest.name, vision=vision.providers, text=text.providers)
        if manifest.precision == "int8" and vision.openvino_precision:
            log.warning(
                "OpenVINO takes longer for an int8 bundle than for one at fp32; serve the fp32 bundle",
                model=manifest.name,
            )
        for tower, session in (("vision", vision), ("text", text)):
            for rank, provider in enumerate(session.providers):
                metrics.PROVIDERS.labels(manifest.name, tower, provider, rank).set(1)
        return model

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._manifest

    @property
    def vision_providers(self) -> Sequence[str]:
        """The ONNX Runtime providers that the vision session got."""
        return self._vision.providers

    @property
    def text_providers(self) -> Sequence[str]:
        """The ONNX Runtime providers that the text session got."""
        return self._text.providers

    async def decode(self, data: bytes, call: Call, *, thumbnail: bool) -> DecodedPicture:
        """Decode a picture off the event loop, unless ``embed_picture`` would refuse it.

        Raises:
            InvalidImage: Not a whole picture of a supported format.
            ImageTooLarge: Too many pixels, by its header.
            Overloaded: Too many pictures wait to be decoded, or to be embedded.
            DeadlineExceeded: The deadline passed before decoding began, or will before the picture could be embedded.
        """
        return await self._decode_pool.decode(
            data,
            self._manifest.space.pixels,
            call,
            place=lambda: self._vision_tower.place(call),
            jpeg_scale=self._manifest.jpeg_scale,
            thumbnail=self._thumbnail if thumbnail else None,
        )

    async def embed_picture(self, pixels: Pixels, call: Call) -> Vector:
        """Embed uint8 ``[3, height, width]``: float32 ``[dimension]``, L2-normalised.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: The deadline passed before the run, or would before it is done.
        """
        return await self._vision_tower.submit(pixels, call)

    async def embed_text(self, text: str, call: Call) -> EmbeddedText:
        """Embed a text; one that is longer than the context is truncated, and the result says so.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: The deadline passed before the run, or would before it is done.
        """
        call.check_deadline()
        known = self._text_cache.get(text)
        metrics.TEXT_CACHE.labels(self._manifest.name, "no" if known is None else "yes").inc()
        if known is not None:
            return known
        if len(text) > _TOKENIZE_ON_THE_LOOP_CHARACTERS:
            tokens = await asyncio.to_thread(self._tokenizer.tokenize, text)
        else:
            tokens = self._tokenizer.tokenize(text)
        embedded = EmbeddedText(await self._text_tower.submit(tokens, call), tokens.truncated)
        self._text_cache.put(text, embedded)
        return embedded

    async def close(self) -> None:
        """Finish what waits and end the threads. The decode pool stays."""
        await asyncio.gather(self._vision_tower.close(), self._text_tower.close())

    def _run_vision(self, pictures: Sequence[Pixels]) -> list[Vector | Exception]:
        embeddings = self._vision.run(pixels=np.stack(pictures))
        return [_finite(vector) for vector in embeddings]

    def _run_text(self, texts: Sequence[TokenizedText]) -> list[Vector | Exception]:
        input_ids, attention_mask = self._tokenizer.pad(texts)
        embeddings = self._text.run(input_ids=input_ids, attention_mask=attention_mask)
        return [_finite(vector) for vector in embeddings]

    def _check(self, golden: Golden, least_cosine: float) -> None:
        name = self._manifest.name
        what = (
            f"the text {golden.text!r}" if golden.text is not None else f"the generated picture {golden.picture_seed}"
        )
        try:
            vector = self._embed(golden)
        except Exception as error:
            raise StartupError(f"the model {name!r} fails at {what}: {error}") from error
        expected = np.array(golden.embedding, np.float32)
        if not vector.size == expected.size == self._manifest.dimension:
            raise StartupError(
                f"the model {name!r} makes embeddings of {vector.size} numbers, its manifest says "
                f"{self._manifest.dimension} and its golden pairs have {expected.size}; export the bundle again"
            )
        cosine = float(vector @ expected / (np.linalg.norm(vector) * np.linalg.norm(expected)))
        if not cosine >= least_cosine:
            raise StartupError(
                f"the model {name!r} does not give what it gave when it was exported: for {what} the cosine to the "
                f"golden embedding is {cosine:.5f}, below {least_cosine}; export the bundle again on this kind of "
                "machine"
            )

    def _embed(self, golden: Golden) -> Vector:
        if golden.text is not None:
            (vector,) = self._run_text([self._tokenizer.tokenize(golden.text)])
        else:
            (vector,) = self._run_vision([golden_pixels(golden.picture_seed or 0, self._manifest.space.pixels)])
        if isinstance(vector, Exception):
            raise vector
        return vector

    def _warm(self) -> None:
        """Run the largest batches once, so that no caller waits for memory to be taken, and the pace is known."""
        self._vision_tower.warm(golden_pixels(0, self._manifest.space.pixels))
        self._text_tower.warm(self._tokenizer.tokenize("a" + " a" * self._manifest.text.context_length))


class _Tower(Generic[Item]):
    """A queue and the one thread that runs its batches."""

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item]], list[Vector | Exception]],
        settings: Settings,
        *,
        max_batch: int,
        weigh: Callable[[Item], float],
        may_join: Callable[[Sequence[Item], Item], bool] | None = None,
        giving_way: bool = False,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._thread = thread_pool(name, giving_way=giving_way)
        self._batcher: Batcher[Item, Vector] = Batcher(
            name,
            self._run_on_thread,
            max_batch=max_batch,
            max_queue=settings.queue_length,
            stage=Stage.INFERENCE,
            may_join=may_join,
            in_order=False,
            weigh=weigh,
            max_seconds=settings.batch_seconds,
            delay=settings.batch_delay,
        )

    def warm(self, item: Item) -> None:
        """Run as many of an item as go together: one, to learn how many that is, and then those."""
        for _ in range(2):
            items = [item] * self._batcher.largest(item)
            begin = telemetry.now()
            self._run(items)
            self._batcher.learn(items, telemetry.now() - begin)

    def place(self, call: Call) -> AbstractContextManager[None]:
        return self._batcher.place(call)

    async def submit(self, item: Item, call: Call) -> Vector:
        return await self._batcher.submit(item, call)

    async def close(self) -> None:
        await self._batcher.close()
        self._thread.shutdown()

    async def _run_on_thread(self, items: Sequence[Item]) -> list[Vector | Exception]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, items)


def _finite(vector: Vector) -> Vector | Exception:
    # A copy: a view would keep the whole batch alive as long as any of its vectors.
    return vector.copy() if np.isfinite(vector).all() else ValueError("the model gave an embedding that is not finite")
