"""What users do, over a real channel, against the real server over a Milvus Lite file."""

import pytest

from clipseek import AlreadyExistsError, InvalidArgumentError, NotFoundError, Term
from pictures import large_picture, picture


def test_insert_search_delete_search(client, collection):
    ids = [client.insert(picture(seed), collection=collection).image_id for seed in range(5)]
    found = client.search_image(picture(3), collection=collection, top_k=2)
    assert found[0].image_id == ids[3]
    assert found[0].score == pytest.approx(1, abs=1e-3)
    assert client.delete(ids[3], collection=collection).count == 1
    found = client.search_image(picture(3), collection=collection)
    assert {hit.image_id for hit in found} == set(ids) - {ids[3]}
    assert client.delete([ids[3]], collection=collection).missing == (ids[3],)
    assert client.get_collection(collection).image_count == 4


def test_a_record_says_what_was_stored(client, collection):
    data = picture(1, size=(48, 40), format="JPEG")
    client.insert(
        data, image_id="a:1", metadata={"album": "summer", "year": 2020, "tags": ["x", None]}, collection=collection
    )
    image = client.get("a:1", collection=collection, with_thumbnail=True, with_embedding=True)
    assert (image.width, image.height, image.media_type, image.size_bytes) == (48, 40, "image/jpeg", len(data))
    assert image.metadata == {"album": "summer", "year": 2020, "tags": ["x", None]}
    assert image.thumbnail is not None
    assert image.thumbnail.startswith(b"\xff\xd8")
    assert image.embedding is not None
    assert sum(value * value for value in image.embedding.values) == pytest.approx(1, abs=1e-5)
    assert image.embedding.values == pytest.approx(client.embed_image(data).values, abs=1e-5)
    assert client.download("a:1", collection=collection) == data


def test_the_same_bytes_twice_change_nothing_and_are_not_embedded_again(client, collection):
    first = client.insert(picture(1), collection=collection)
    again = client.insert(picture(1), collection=collection)
    assert (first.outcome, again.outcome) == ("created", "unchanged")
    assert again.image == first.image
    assert again.timing.inference == again.timing.decode == 0


def test_an_id_that_looks_like_a_hash_must_be_the_pictures_own(client, collection):
    own = client.insert(picture(1), collection=collection).image_id
    assert client.insert(picture(1), image_id=own, collection=collection).outcome == "unchanged"
    for wrong in (own.upper(), "0" * 64):
        with pytest.raises(InvalidArgumentError) as caught:
            client.insert(picture(2), image_id=wrong, collection=collection)
        assert caught.value.field == "image_id"


def test_replace_keeps_the_vector_of_the_same_bytes_and_replaces_the_metadata_if_given(client, collection):
    client.insert(picture(1), image_id="a", metadata={"n": 1}, collection=collection)
    before = client.get("a", collection=collection, with_embedding=True)
    assert client.insert(picture(1), image_id="a", collection=collection).outcome == "unchanged"
    changed = client.insert(picture(1), image_id="a", metadata={"m": 2}, collection=collection)
    assert changed.outcome == "updated"
    assert changed.timing.inference == 0
    after = client.get("a", collection=collection, with_embedding=True)
    assert after.metadata == {"m": 2}
    assert after.embedding == before.embedding
    assert after.created == before.created
    assert after.updated > before.updated


def test_replace_replaces_everything_for_other_bytes(client, collection):
    client.insert(picture(1), image_id="a", metadata={"n": 1}, collection=collection)
    replaced = client.insert(picture(2, size=(20, 30)), image_id="a", collection=collection)
    assert replaced.outcome == "updated"
    assert (replaced.image.width, replaced.image.metadata) == (20, {})
    assert client.download("a", collection=collection) == picture(2, size=(20, 30))
    assert client.search_image(picture(2, size=(20, 30)), collection=collection)[0].score == pytest.approx(1, abs=1e-3)
    assert client.get_collection(collection).image_count == 1


def test_keep_leaves_what_is_stored(client, collection):
    client.insert(picture(1), image_id="a", metadata={"n": 1}, collection=collection)
    for seed in (1, 2):
        kept = client.insert(picture(seed), image_id="a", metadata={"n": 2}, collection=collection, on_exists="keep")
        assert kept.outcome == "unchanged"
    assert client.get("a", collection=collection).metadata == {"n": 1}
    assert client.download("a", collection=collection) == picture(1)
    assert client.insert(picture(2), image_id="b", collection=collection, on_exists="keep").outcome == "created"


def test_fail_says_whose_bytes_are_stored(client, collection):
    stored = client.insert(picture(1), image_id="a", collection=collection, on_exists="fail").image.content_sha256
    for seed in (1, 2):
        with pytest.raises(AlreadyExistsError) as caught:
            client.insert(picture(seed), image_id="a", collection=collection, on_exists="fail")
        assert caught.value.reason == "IMAGE_EXISTS"
        assert caught.value.metadata["content_sha256"] == stored


def test_metadata_is_updated_without_the_picture(client, collection):
    client.insert(picture(1), image_id="a", metadata={"n": 1, "m": 1}, collection=collection)
    before = client.get("a", collection=collection, with_embedding=True)
    assert client.update("a", {"n": 2}, merge=True, collection=collection).metadata == {"n": 2, "m": 1}
    assert client.update("a", {"k": 3}, collection=collection).metadata == {"k": 3}
    after = client.get("a", collection=collection, with_embedding=True)
    assert after.embedding == before.embedding
    assert [hit.image_id for hit in client.search_text("x", collection=collection, filter="metadata.k == 3")] == ["a"]
    assert not client.search_text("x", collection=collection, filter="metadata.n == 2").hits
    with pytest.raises(NotFoundError):
        client.update("b", {"n": 2}, collection=collection)


def test_two_collections_with_the_same_bytes_are_independent(client, collection):
    other = f"{collection}_b"
    for name in (collection, other):
        client.insert(picture(1), image_id="a", collection=name)
    assert client.delete_collection(collection) == 1
    with pytest.raises(NotFoundError):
        client.get("a", collection=collection)
    assert client.download("a", collection=other) == picture(1)
    assert client.insert(picture(1), image_id="a", collection=collection).outcome == "created"


def test_a_picture_over_four_megabytes_goes_in_and_comes_out(client, collection):
    data = large_picture(5_000_000)
    assert len(data) > 4 * 1024 * 1024
    client.insert(data, image_id="large", collection=collection)
    assert client.download("large", collection=collection) == data


def test_weighted_terms_are_one_query(client, collection):
    for seed in range(6):
        client.insert(picture(seed), image_id=f"p{seed}", collection=collection)
    one = client.search(Term.picture(picture(2)), collection=collection, top_k=6)
    assert [hit.image_id for hit in one] == [
        hit.image_id for hit in client.search_image(picture(2), collection=collection, top_k=6)
    ]
    opposite = client.search(Term.picture(picture(2), weight=-1), collection=collection, top_k=6)
    assert [hit.image_id for hit in opposite] == [hit.image_id for hit in reversed(one.hits)]
    text = client.search(Term.text("a cat"), collection=collection, top_k=6)
    assert [hit.score for hit in text] == pytest.approx(
        [hit.score for hit in client.search_text("a cat", collection=collection, top_k=6)], abs=1e-5
    )
    embedded = client.get("p2", collection=collection, with_embedding=True).embedding
    assert embedded is not None
    mixed = client.search(Term.embedding(embedded), Term.image("p4"), collection=collection, top_k=6)
    assert "p4" not in [hit.image_id for hit in mixed]
    assert mixed[0].image_id == "p2"
    with pytest.raises(InvalidArgumentError, match="cancel"):
        client.search(
            Term.embedding(embedded.values), Term.embedding(embedded.values, weight=-1), collection=collection
        )


def test_a_stored_picture_is_left_out_of_its_own_hits(client, collection):
    for seed in range(4):
        client.insert(picture(seed), image_id=f"p{seed}", collection=collection)
    found = client.search_image(image_id="p1", collection=collection, top_k=3)
    assert len(found) == 3
    assert "p1" not in [hit.image_id for hit in found]


def test_offset_and_min_score_cut_the_same_order(client, collection):
    for seed in range(8):
        client.insert(picture(seed), collection=collection)
    everything = client.search_text("a dog", collection=collection, top_k=8)
    scores = [hit.score for hit in everything]
    assert scores == sorted(scores, reverse=True)
    part = client.search_text("a dog", collection=collection, top_k=3, offset=2)
    assert [hit.image_id for hit in part] == [hit.image_id for hit in everything.hits[2:5]]
    good = client.search_text("a dog", collection=collection, top_k=8, min_score=scores[4])
    assert len(good) == 5


def test_long_texts_are_cut_and_the_answer_says_so(client, collection):
    client.insert(picture(1), collection=collection)
    assert not client.search_text("a cat", collection=collection).text_truncated
    assert client.search_text("a cat " * 200, collection=collection).text_truncated
    assert [each.text_truncated for each in client.embed_texts(["a cat", "a cat " * 200])] == [False, True]


def test_pages_while_rows_come_and_go(client, collection):
    stay = [f"s{number:02}" for number in range(20)]
    for seed, image_id in enumerate(stay):
        client.insert(picture(seed % 3), image_id=image_id, collection=collection)
    client.insert(picture(1), image_id="s05x", collection=collection)
    seen = []
    for image in client.list(collection=collection, page_size=4):
        seen.append(image.image_id)
        if image.image_id == "s03":
            client.delete(["s05x"], collection=collection)
            client.insert(picture(1), image_id="s15x", collection=collection)
            client.insert(picture(1), image_id="a", collection=collection)
    assert [image_id for image_id in seen if image_id in stay] == stay
    assert "s05x" not in seen
    assert "s15x" in seen


def test_which_of_these_do_you_have(client, collection):
    client.insert(picture(1), image_id="a", collection=collection)
    client.insert(picture(2), image_id="b", collection=collection)
    batch = client.get_many(["c", "b", "a", "b"], collection=collection)
    assert [image.image_id for image in batch] == ["b", "a"]
    assert batch.missing == ("c",)


def test_collections_are_listed_with_their_model(client, collection):
    made = client.create_collection(collection)
    assert made.model.name == client.info().models[0].name
    assert (made.image_count, made.dimension) == (0, 32)
    assert collection in [each.name for each in client.collections()]
    assert not client.search_text("a cat", collection=collection).hits
    with pytest.raises(AlreadyExistsError):
        client.create_collection(collection)


def test_a_rebuild_keeps_every_record_and_answers_meanwhile(client, collection):
    for seed in range(10):
        client.insert(picture(seed), image_id=f"p{seed}", metadata={"seed": seed}, collection=collection)
    before = list(client.list(collection=collection))
    uid, generations = client.get_collection(collection), []
    phases = []
    for progress in client.rebuild(collection):
        phases.append(progress.phase)
        assert client.search_image(picture(3), collection=collection)[0].image_id == "p3"
        generations.append(len(client.get_collection(collection).generations))
    assert list(dict.fromkeys(phases)) == ["embedding", "checking", "switching", "dropping", "done"]
    assert list(client.list(collection=collection)) == before
    after = client.get_collection(collection)
    assert after.uid == uid.uid
    assert after.generations != uid.generations
    assert [found for report in client.check(collection, verify_bytes=True) for found in report.differences] == []
