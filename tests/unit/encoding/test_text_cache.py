import numpy as np
import pytest

from clipseek_server.encoding.text_cache import TextCache
from clipseek_server.encoding.texts import EmbeddedText


def embedded(number: float) -> EmbeddedText:
    return EmbeddedText(np.array([number], np.float32), truncated=False)


def test_the_texts_that_were_asked_for_last_are_kept():
    cache = TextCache(2)
    one, two, three = embedded(1), embedded(2), embedded(3)
    cache.put("one", one)
    cache.put("two", two)
    assert cache.get("one") is one
    cache.put("three", three)
    assert [cache.get(text) for text in ("one", "two", "three")] == [one, None, three]
    cache.put("one", two)
    assert cache.get("one") is two
    assert len(cache) == 2


def test_a_cache_of_no_texts_keeps_none():
    cache = TextCache(0)
    cache.put("a", embedded(1))
    assert cache.get("a") is None
    assert len(cache) == 0


def test_what_is_shared_cannot_be_changed():
    cache = TextCache(1)
    cache.put("a", embedded(1))
    found = cache.get("a")
    assert found is not None
    with pytest.raises(ValueError, match="read-only"):
        found.vector[0] = 2
