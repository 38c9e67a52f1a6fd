import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipseek_server.catalog.page_tokens import PagePosition
from clipseek_server.errors import InvalidField


@given(st.text(), st.text(), st.text())
def test_tokens_come_back_as_they_went(after, uid, mark):
    assert PagePosition.parse(PagePosition(after, uid, mark).format(), uid=uid, filter_mark=mark).after == after


@given(st.text())
def test_anything_else_is_refused(token):
    with pytest.raises(InvalidField):
        PagePosition.parse(token)


def test_tokens_of_another_collection_or_filter_are_refused():
    token = PagePosition("a", "uid", "mark").format()
    with pytest.raises(InvalidField, match="collection"):
        PagePosition.parse(token, uid="other", filter_mark="mark")
    with pytest.raises(InvalidField, match="filter"):
        PagePosition.parse(token, uid="uid", filter_mark="other")
