"""How metadata lies in Milvus."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clipseek_server.index.metadata import decode, encode

_scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=5)
_values: st.SearchStrategy[Any] = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
_metadata = st.dictionaries(st.text(max_size=5), _values, max_size=4)


def test_keys_carry_types() -> None:
    metadata = {"n": 1, "f": 1.5, "s": "x", "b": True, "z": None, "l": [{"a": 1}], "o": {"a": False}, "n:n": 2}
    assert encode(metadata) == {
        "n:n": 1,
        "n:f": 1.5,
        "s:s": "x",
        "b:b": True,
        "0:z": None,
        "l:l": [{"a": 1}],
        "o:o": {"b:a": False},
        "n:n:n": 2,
    }


@given(_metadata)
def test_decode_gives_back_what_was_encoded(metadata: dict[str, Any]) -> None:
    assert repr(decode(encode(metadata))) == repr(metadata)
