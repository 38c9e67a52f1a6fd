import asyncio
import io
import json
import math
import os
import shutil
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from clipseek_server.config import Settings
from clipseek_server.encoding import decoding
from clipseek_server.encoding.bundle import (
    MANIFEST_FILE,
    TEXT_FILE,
    TOKENIZER_FILE,
    VISION_FILE,
    PictureRule,
    read_manifest,
    space_digest,
)
from clipseek_server.encoding.decoding import DecodePool
from clipseek_server.encoding.model import LoadedModel
from clipseek_server.encoding.pictures import decode_picture
from clipseek_server.errors import DeadlineExceeded, InvalidImage, NotServing, Overloaded, StartupError
from clipseek_server.telemetry import Call, Stage
from models import disturbed

SETTINGS = Settings(threads=1)
TEXTS = ["a cat", "a photo of a red cup of coffee on the rocket", "horse " * 100, "x"]


def load(folder, pool):
    return LoadedModel.load(folder, SETTINGS, pool, thumbnail=lambda image: f"{image.width}".encode())


@pytest.fixture
async def pool():
    pool = DecodePool(1, max_pixels=10**6, max_queue=8)
    yield pool
    await pool.close()


@pytest.fixture
async def model(bundle, pool):
    model = load(bundle, pool)
    yield model
    await model.close()


def encoded(image, format="PNG"):
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities for threads")
async def test_pictures_give_way_to_texts(model):
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    of_pictures, of_texts = (
        tower._thread.submit(niceness).result() for tower in (model._vision_tower, model._text_tower)
    )
    assert of_texts == niceness() < of_pictures


async def test_jpegs_are_reduced_as_far_as_the_bundle_says(model):
    manifest = model.manifest
    assert manifest.jpeg_scale is not None
    side = 4 * math.ceil(manifest.jpeg_scale * manifest.space.pixels.resize_to)
    data = encoded(Image.fromarray(photographs.astronaut()).resize((side, side)), "JPEG")
    spec = manifest.space.pixels
    reduced = decode_picture(data, spec, max_pixels=side**2, jpeg_scale=manifest.jpeg_scale)
    whole = decode_picture(data, spec, max_pixels=side**2)
    found = await model.decode(data, Call(), thumbnail=False)
    np.testing.assert_array_equal(found.pixels, reduced.pixels)
    assert not np.array_equal(found.pixels, whole.pixels)


async def test_pictures_get_the_embeddings_of_the_source_model(model, model_folder):
    source = CLIPModel.from_pretrained(model_folder).eval()
    processor = CLIPImageProcessorPil.from_pretrained(model_folder)
    for name in ("astronaut", "chelsea", "coffee"):
        image = Image.fromarray(getattr(photographs, name)())
        picture = await model.decode(encoded(image), Call(), thumbnail=False)
        vector = await model.embed_picture(picture.pixels, Call())
        with torch.no_grad():
            output = source.get_image_features(**processor(image, return_tensors="pt"))
        expected = torch.nn.functional.normalize(getattr(output, "pooler_output", output), dim=-1)[0].numpy()
        assert (vector.shape, vector.dtype) == ((32,), np.float32)
        assert vector @ expected > 0.9999


async def test_texts_get_the_embeddings_of_the_source_model_in_any_company(model, model_folder):
    source = CLIPModel.from_pretrained(model_folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(model_folder)
    together = await asyncio.gather(*(model.embed_text(text, Call()) for text in TEXTS))
    for text, embedded in zip(TEXTS, together, strict=True):
        alone = await model.embed_text(text, Call())
        tokens = tokenizer(text, truncation=True, max_length=77, padding="max_length", return_tensors="pt")
        with torch.no_grad():
            output = source.get_text_features(**tokens)
        expected = torch.nn.functional.normalize(getattr(output, "pooler_output", output), dim=-1)[0].numpy()
        assert embedded.vector @ expected > 0.9999
        assert alone.vector @ expected > 0.9999
        assert embedded.truncated == alone.truncated == (text == TEXTS[2])


async def test_decoding_gives_what_the_bundle_asks_for(model):
    data = encoded(Image.new("RGB", (60, 40), (1, 2, 3)), "BMP")
    picture = await model.decode(data, Call(), thumbnail=True)
    assert picture.pixels.shape == (3, 32, 32)
    assert (picture.width, picture.height, picture.media_type, picture.thumbnail) == (60, 40, "image/bmp", b"60")
    with pytest.raises(InvalidImage):
        await model.decode(b"?", Call(), thumbnail=True)


async def test_what_waits_is_batched_and_comes_back_to_its_caller(model):
    pictures = [np.full((3, 32, 32), shade, np.uint8) for shade in range(0, 250, 10)]
    alone = [await model.embed_picture(picture, Call()) for picture in pictures]
    calls = [Call() for _ in pictures]
    together = await asyncio.gather(*map(model.embed_picture, pictures, calls))
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert all(call.seconds[Stage.INFERENCE] > 0 and Stage.QUEUE in call.seconds for call in calls)


async def test_a_passed_deadline_costs_nothing(model):
    late = Call(deadline=time.monotonic())
    for work in (
        model.embed_text("a cat", late),
        model.embed_picture(np.zeros((3, 32, 32), np.uint8), late),
        model.decode(encoded(Image.new("L", (9, 9))), late, thumbnail=False),
    ):
        with pytest.raises(DeadlineExceeded):
            await work
    assert late.seconds == {}


async def test_a_picture_that_the_tower_would_refuse_is_not_decoded(bundle, pool, monkeypatch):
    settings = SETTINGS.model_copy(update={"queue_length": 2})
    model = LoadedModel.load(bundle, settings, pool, thumbnail=lambda _: b"")
    entered, free = threading.Event(), threading.Event()
    real = model._vision.run

    def run(**inputs):
        entered.set()
        free.wait(60)
        return real(**inputs)

    decoded = []
    monkeypatch.setattr(model._vision, "run", run)
    monkeypatch.setattr(
        decoding, "decode_picture", lambda *args, **options: decoded.append(args) or decode_picture(*args, **options)
    )
    pixels, file = np.zeros((3, 32, 32), np.uint8), encoded(Image.new("L", (40, 40)))
    running = asyncio.create_task(model.embed_picture(pixels, Call()))
    await asyncio.to_thread(entered.wait)
    # It would have to wait for longer than its deadline leaves, by what a run is known to take.
    for _ in range(200):
        model._vision_tower._batcher.learn([pixels], 1000.0)
    waiting = [asyncio.create_task(model.embed_picture(pixels, Call()))]
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded, match="wait for the picture tower already"):
        await model.decode(file, Call(deadline=time.monotonic() + 60), thumbnail=False)
    waiting.append(asyncio.create_task(model.embed_picture(pixels, Call())))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="picture tower queue is full"):
        await model.decode(file, Call(), thumbnail=False)
    assert decoded == []
    free.set()
    await asyncio.gather(running, *waiting)
    await model.decode(file, Call(), thumbnail=False)
    assert len(decoded) == 1
    await model.close()


async def test_an_embedding_that_is_not_finite_is_refused_alone(model, monkeypatch):
    def run(**inputs):
        embeddings = np.ones((len(next(iter(inputs.values()))), 32), np.float32)
        embeddings[0, 3] = np.nan
        return embeddings

    monkeypatch.setattr(model._vision, "run", run)
    monkeypatch.setattr(model._text, "run", run)
    pixels = np.zeros((3, 32, 32), np.uint8)
    pictures = await asyncio.gather(*(model.embed_picture(pixels, Call()) for _ in range(2)), return_exceptions=True)
    texts = await asyncio.gather(*(model.embed_text("a", Call()) for _ in range(2)), return_exceptions=True)
    for bad, good in (pictures, texts):
        assert isinstance(bad, ValueError)
        assert "not finite" in str(bad)
        assert not isinstance(good, Exception)


async def test_a_closed_model_takes_nothing(bundle, pool):
    model = load(bundle, pool)
    await model.close()
    with pytest.raises(NotServing):
        await model.embed_text("a cat", Call())


async def test_it_says_what_it_is(model, bundle):
    assert model.manifest == read_manifest(bundle)
    assert list(model.vision_providers) == list(model.text_providers) == ["CPUExecutionProvider"]


# --- what is refused at the start ---------------------------------------------------------------------------------


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "copy")


def edit_manifest(folder, change):
    content = json.loads((folder / MANIFEST_FILE).read_text())
    change(content)
    (folder / MANIFEST_FILE).write_text(json.dumps(content))


def test_a_missing_bundle(tmp_path, pool):
    with pytest.raises(StartupError, match="holds no model bundle"):
        load(tmp_path, pool)


@pytest.mark.parametrize("file", [VISION_FILE, TEXT_FILE, TOKENIZER_FILE])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.unlink()])
def test_a_damaged_file(copy, pool, file, damage):
    damage(copy / file)
    with pytest.raises(StartupError, match=f"{file} is missing or damaged"):
        load(copy, pool)


@pytest.mark.parametrize(
    ("is_the_one", "named"),
    [
        (lambda golden: golden["text"] is not None, "for the text 'a photo of a cat'"),
        (lambda golden: golden["picture_seed"] is not None, "for the generated picture 0"),
    ],
)
@pytest.mark.parametrize(("precision", "noise"), [("fp32", 0.02), ("fp16", 0.06), ("int8", 0.2)])
def test_a_golden_pair_that_does_not_hold(copy, pool, is_the_one, named, precision, noise):
    def disturb(content):
        content["precision"] = precision
        golden = next(filter(is_the_one, content["golden"]))
        golden["embedding"] = disturbed(golden["embedding"], noise)

    edit_manifest(copy, disturb)
    with pytest.raises(StartupError, match="does not give what it gave") as caught:
        load(copy, pool)
    assert named in str(caught.value)


def test_a_golden_pair_that_is_near_enough_for_int8(copy, pool):
    def disturb(content):
        content["precision"] = "int8"
        for golden in content["golden"]:
            golden["embedding"][0] += 0.01

    edit_manifest(copy, disturb)
    assert load(copy, pool).manifest.precision == "int8"


def test_another_dimension(copy, pool):
    def shorten(content):
        content["dimension"] = 16
        for golden in content["golden"]:
            golden["embedding"] = golden["embedding"][:16]

    edit_manifest(copy, shorten)
    with pytest.raises(StartupError, match="makes embeddings of 32 numbers, its manifest says 16"):
        load(copy, pool)


def test_a_changed_space(copy, pool):
    def enlarge(content):
        content["space"]["pixels"] |= {"height": 64, "width": 64, "resize_to": 64}

    edit_manifest(copy, enlarge)
    with pytest.raises(StartupError, match="its space_id does not belong to its space"):
        load(copy, pool)


def test_a_space_that_is_older_than_a_field_with_a_default(copy, pool):
    def grow_older(content):
        del content["space"]["picture"]
        content["space_id"] = space_digest(content["space"])

    edit_manifest(copy, grow_older)
    manifest = load(copy, pool).manifest
    assert manifest.space.picture == PictureRule()
    assert manifest.space_id != manifest.space.space_id


def test_no_golden_pair(copy, pool):
    edit_manifest(copy, lambda content: content["golden"].clear())
    with pytest.raises(StartupError, match="golden"):
        load(copy, pool)


def test_a_crop_that_would_need_padding(copy, pool):
    edit_manifest(copy, lambda content: content["space"]["pixels"].update(resize_to=16))
    with pytest.raises(StartupError, match="padding is not supported"):
        load(copy, pool)


async def test_the_same_text_again_costs_no_run(model, monkeypatch):
    runs = []
    run = model._text.run
    monkeypatch.setattr(model._text, "run", lambda **inputs: runs.append(inputs["input_ids"].shape) or run(**inputs))
    first = await model.embed_text("horse " * 100, Call())
    call = Call()
    assert await model.embed_text("horse " * 100, call) is first
    assert first.truncated
    assert len(runs) == 1
    assert call.seconds == {}
    with pytest.raises(DeadlineExceeded):
        await model.embed_text("horse " * 100, Call(deadline=0.0))


async def test_a_long_text_does_not_make_short_ones_pay(model, monkeypatch):
    """What is of like length goes together, whatever came in between."""
    shapes = []
    run = model._text.run
    monkeypatch.setattr(model._text, "run", lambda **inputs: shapes.append(inputs["input_ids"].shape) or run(**inputs))
    texts = ["a", "a cat", "horse " * 100, "a dog", "the rocket on the cup", "horse " * 90]
    together = await asyncio.gather(*(model.embed_text(text, Call()) for text in texts))
    assert [shape[0] for shape in shapes] == [4, 2]
    assert shapes[0][1] <= 8
    assert shapes[1][1] == 77
    monkeypatch.undo()
    for text, embedded in zip(texts, together, strict=True):
        alone = model._run_text([model._tokenizer.tokenize(text)])[0]
        np.testing.assert_allclose(embedded.vector, alone, atol=1e-5)
