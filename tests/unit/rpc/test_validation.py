import math

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from clipseek_server.catalog.inserts import OnExists
from clipseek_server.catalog.views import ReadMask
from clipseek_server.config import Settings
from clipseek_server.errors import ClipseekError, ImageTooLarge, InvalidField, InvalidImage
from clipseek_server.rpc import validation as check

SETTINGS = Settings()


@pytest.mark.parametrize("name", ["a", "default", "a_1", "a" * 63])
def test_collection_names(name):
    assert check.collection_name(name) == name


@pytest.mark.parametrize("name", ["A", "1a", "_a", "a-b", "a" * 64, "a\n", "ä", "a b"])
def test_bad_collection_names(name):
    with pytest.raises(InvalidField) as caught:
        check.collection_name(name)
    assert caught.value.field == "collection"


def test_an_empty_collection_is_the_default_one():
    assert check.collection_name("") == "default"


@pytest.mark.parametrize("value", ["a", "..", "A.b_c:d-9", "x" * 128])
def test_image_ids(value):
    assert check.image_id(value) == value


@pytest.mark.parametrize("value", ["", "a/b", "a b", "x" * 129, 'a"b', "a\\b", "a\n", "é"])
def test_bad_image_ids(value):
    with pytest.raises(InvalidField):
        check.image_id(value)


def test_a_bad_id_among_many_is_named():
    with pytest.raises(InvalidField) as caught:
        check.image_ids(["a", "b/c"], 10)
    assert caught.value.field == "image_ids[1]"


@pytest.mark.parametrize("number", [0, 11])
def test_the_number_of_ids_is_limited(number):
    with pytest.raises(InvalidField):
        check.image_ids(["a"] * number, 10)


def test_pictures_are_neither_empty_nor_too_large():
    with pytest.raises(InvalidImage):
        check.image_data(b"", SETTINGS)
    with pytest.raises(ImageTooLarge):
        check.image_data(bytes(SETTINGS.max_image_bytes + 1), SETTINGS)


@pytest.mark.parametrize("value", ["", "  \n\t", "x" * 10_001])
def test_bad_texts(value):
    with pytest.raises(InvalidField):
        check.text(value, SETTINGS)


def struct(values) -> Struct:
    message = Struct()
    message.update(values)
    return message


def test_whole_numbers_become_int_and_others_stay():
    given = {"year": 2020, "half": 0.5, "huge": 1e300, "nested": {"list": [1, "a", None]}}
    values = check.metadata(struct(given), SETTINGS)
    assert values == given
    assert isinstance(values["year"], int)
    assert isinstance(values["huge"], float)


@pytest.mark.parametrize(
    "values",
    [
        {"a b": 1},
        {"": 1},
        {"1a": 1},
        {"a": {"b-c": 1}},
        {"x" * 65: 1},
        {"a": math.inf},
        {"a": math.nan},
        {"a": ["x" * 3000]},
    ],
)
def test_bad_metadata(values):
    with pytest.raises(InvalidField) as caught:
        check.metadata(struct(values), SETTINGS)
    assert caught.value.field.startswith("metadata")


@pytest.mark.parametrize("wrap", [lambda value: {"a": value}, lambda value: [value]])
def test_metadata_is_not_nested_too_deep(wrap):
    value: object = 1
    for _ in range(16):
        value = wrap(value)
    with pytest.raises(InvalidField):
        check.metadata(struct({"a": value}), SETTINGS)


@pytest.mark.parametrize("values", [{"a": [[]] * 340}, {"a": [True] * 511}, {f"k{n:03}": n for n in range(120)}])
def test_metadata_counts_as_it_is_on_the_wire(values):
    size = struct(values).ByteSize()
    assert check.metadata(struct(values), Settings(max_metadata_bytes=size)) == values
    with pytest.raises(InvalidField, match=f"{size} bytes"):
        check.metadata(struct(values), Settings(max_metadata_bytes=size - 1))


def test_a_value_of_no_kind_is_no_null():
    """It takes no bytes, but the null that it would be kept as does."""
    message = Struct()
    message.fields["a"].list_value.values.add()
    with pytest.raises(InvalidField) as caught:
        check.metadata(message, SETTINGS)
    assert caught.value.field == "metadata.a"


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=4))
def test_any_metadata_is_taken_or_refused_in_words(values):
    try:
        taken = check.metadata(struct(values), SETTINGS)
    except ClipseekError as error:
        assert error.message
    else:
        assert taken == values


def test_update_masks():
    assert check.update_keys(FieldMask()) is None
    assert check.update_keys(FieldMask(paths=["metadata.a", "metadata"])) is None
    assert check.update_keys(FieldMask(paths=["metadata.a", "metadata.b"])) == {"a", "b"}
    for path in ["width", "metadata.", "metadata.a.b", "metadata.a-b", ""]:
        with pytest.raises(InvalidField):
            check.update_keys(FieldMask(paths=[path]))


def test_read_masks():
    assert check.read_mask(FieldMask(paths=["embedding"])) == ReadMask(embedding=True)
    with pytest.raises(InvalidField):
        check.read_mask(FieldMask(paths=["metadata"]))


def test_counts():
    assert check.count(0, 5, 10, field="top_k") == 5
    assert check.count(0, 100, 10, field="page_size") == 10
    for value in (-1, 11):
        with pytest.raises(InvalidField):
            check.count(value, 5, 10, field="top_k")


def test_unknown_enum_values_are_refused():
    assert check.on_exists(0) is OnExists.REPLACE
    for function in (check.on_exists, check.effort):
        with pytest.raises(InvalidField):
            function(99)
    with pytest.raises(InvalidField):
        check.strong(99, default=True)


@pytest.mark.parametrize("weight", [0.0, -0.0, math.nan, math.inf])
def test_bad_weights(weight):
    with pytest.raises(InvalidField):
        check.finite_weight(weight, field="terms[0].weight")


@pytest.mark.parametrize("score", [-1.1, 1.1, math.nan])
def test_bad_scores(score):
    with pytest.raises(InvalidField):
        check.min_score(score)
