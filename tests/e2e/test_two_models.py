"""Several bundles in one server: which one serves which collection."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from clipseek import Client, FailedPreconditionError, NotFoundError
from clipseek_server.app import Server
from clipseek_server.config import Settings
from clipseek_server.encoding.bundle import MANIFEST_FILE, read_manifest
from clipseek_server.errors import StartupError
from models import export_bundle
from pictures import picture
from servers import ServerThread


@pytest.fixture(scope="module")
def int8_bundle(small_clip, tmp_path_factory) -> Path:
    """The same model as ``bundle``, at another precision."""
    bundle = export_bundle(small_clip, tmp_path_factory.mktemp("bundles") / "int8", "int8")
    assert read_manifest(bundle).fp32_agreement >= 0.99
    return bundle


@pytest.fixture(scope="module")
def poor_bundle(int8_bundle, tmp_path_factory) -> Path:
    """One whose precision cost too much for collections of another."""
    poor = Path(shutil.copytree(int8_bundle, tmp_path_factory.mktemp("bundles") / "poor"))
    content = json.loads((poor / MANIFEST_FILE).read_text())
    content["agreement"]["text"]["similarity"]["cosine_min"] = 0.985
    (poor / MANIFEST_FILE).write_text(json.dumps(content))
    return poor


@contextmanager
def serving(data_dir: Path, bundles: Sequence[Path]) -> Iterator[Client]:
    settings = Settings(listen="127.0.0.1:0", bundles=list(bundles), data_dir=data_dir)
    with ServerThread(settings) as running, Client(running.address) as client:
        yield client


def name(bundle: Path) -> str:
    return read_manifest(bundle).name


async def test_one_name_twice_is_refused_at_the_start(bundle, tmp_path):
    again = Path(shutil.copytree(bundle, tmp_path / "again"))
    with pytest.raises(StartupError, match="--name") as caught:
        async with Server(Settings(listen="127.0.0.1:0", bundles=[bundle, again], data_dir=tmp_path / "data")):
            pass
    for said in (bundle, again, name(bundle)):
        assert str(said) in str(caught.value)


def test_each_collection_has_its_model(bundle, int8_bundle, other_bundle, tmp_path):
    fp32, int8, other = map(name, (bundle, int8_bundle, other_bundle))
    assert int8 == f"{fp32}-int8"
    with serving(tmp_path, [bundle, int8_bundle, other_bundle]) as client:
        assert [model.name for model in client.info().models] == [fp32, int8, other]
        assert client.create_collection("quick", model=int8).model.name == int8
        assert client.create_collection("foreign", model=other).model.name == other
        for collection, model in {"exact": fp32, "quick": int8, "foreign": other}.items():
            assert client.insert(picture(1), image_id="a", collection=collection).model.name == model
            assert client.get_collection(collection).model.name == model
            assert client.search_text("a cat", collection=collection).model.name == model
            assert client.search_image(picture(1), collection=collection).model.name == model
            # By the model's own embedding, whatever the server's default is.
            stored = client.get("a", collection=collection, with_embedding=True).embedding
            embedded = client.embed_image(picture(1), model=model)
            assert stored.space_id == embedded.space_id
            np.testing.assert_allclose(stored.values, embedded.values, atol=1e-5)
        with pytest.raises(NotFoundError) as caught:
            client.create_collection("none", model="clip")
        assert caught.value.reason == "MODEL_NOT_FOUND"


def test_texts_are_embedded_by_the_model_that_is_named(bundle, int8_bundle, other_bundle, tmp_path):
    with serving(tmp_path, [bundle, int8_bundle, other_bundle]) as client:
        default = client.embed_text("a photo of a cat")
        exact, quick, other = (
            client.embed_text("a photo of a cat", model=name(each)) for each in (bundle, int8_bundle, other_bundle)
        )
        assert exact.values == default.values
        assert quick.values != exact.values
        assert np.dot(quick.values, exact.values) > 0.98
        assert default.space_id == exact.space_id == quick.space_id != other.space_id
        with pytest.raises(NotFoundError) as caught:
            client.embed_text("a cat", model="clip")
        assert caught.value.reason == "MODEL_NOT_FOUND"


def test_another_precision_serves_while_it_agrees(bundle, int8_bundle, poor_bundle, tmp_path):
    fp32, int8 = name(bundle), name(int8_bundle)
    with serving(tmp_path, [bundle, int8_bundle]) as client:
        client.create_collection("quick", model=int8)
        for collection in ("exact", "quick"):
            client.insert(picture(1), image_id="a", collection=collection)

    def models(client: Client) -> dict[str, str]:
        return {each.name: each.model.name for each in client.collections()}

    for loaded, expected in (
        ([bundle], {"exact": fp32, "quick": fp32}),
        ([int8_bundle], {"exact": int8, "quick": int8}),
        ([int8_bundle, bundle], {"exact": fp32, "quick": int8}),
        ([poor_bundle, bundle], {"exact": fp32, "quick": int8}),
        ([poor_bundle], {"exact": "", "quick": int8}),
    ):
        with serving(tmp_path, loaded) as client:
            assert models(client) == expected
            for collection, model in expected.items():
                if model:
                    assert client.search_image(picture(1), collection=collection)[0].image_id == "a"
                    continue
                with pytest.raises(FailedPreconditionError, match=r"0\.985.*0\.99") as caught:
                    client.search_text("a cat", collection=collection)
                assert caught.value.reason == "SPACE_MISMATCH"


def test_a_rebuild_changes_the_precision(bundle, int8_bundle, other_bundle, tmp_path):
    fp32, int8, other = map(name, (bundle, int8_bundle, other_bundle))
    with serving(tmp_path, [bundle, int8_bundle, other_bundle]) as client:
        for seed in range(3):
            client.insert(picture(seed), image_id=f"p{seed}", collection="pets")
        before = client.get_collection("pets")
        assert before.model.name == fp32
        for model, error, reason in (
            (other, FailedPreconditionError, "SPACE_MISMATCH"),
            ("clip", NotFoundError, "MODEL_NOT_FOUND"),
        ):
            with pytest.raises(error) as caught:
                list(client.rebuild("pets", model=model))
            assert caught.value.reason == reason
        assert client.get_collection("pets") == before
        for model, expected in ((int8, int8), ("", int8), (fp32, fp32)):
            assert [progress.phase for progress in client.rebuild("pets", model=model)][-1] == "done"
            after = client.get_collection("pets")
            assert (after.model.name, after.uid, after.image_count) == (expected, before.uid, 3)
            assert client.search_text("a cat", collection="pets").model.name == expected
            stored = client.get("p1", collection="pets", with_embedding=True).embedding
            at_fp32 = client.embed_image(picture(1), model=fp32)
            assert np.allclose(stored.values, at_fp32.values, atol=1e-5) == (expected == fp32)
            assert np.dot(stored.values, at_fp32.values) > 0.98
