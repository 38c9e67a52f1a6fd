import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipseek_server.catalog.page_tokens import PagePosition
from clipseek_server.errors import InvalidField
from clipseek_server.index.records import IMAGE_ID

IMAGE_IDS = st.from_regex(IMAGE_ID, fullmatch=True)


@given(IMAGE_IDS, st.text(), st.text())
def test_tokens_come_back_as_they_went(after, uid, mark):
    assert PagePosition.parse(PagePosition(after, uid, mark).format(), uid=uid, filter_mark=mark).after == after


@given(st.text())
def test_anything_else_is_refused(token):
    with pytest.raises(InvalidField):
        PagePosition.parse(token)


@pytest.mark.parametrize("after", ['x" or image_id > "', "é", "\ud800", "", "a\n", "x" * 129])
def test_only_an_id_can_be_the_end_of_a_page(after):
    with pytest.raises(InvalidField, match="not a page token"):
        PagePosition.parse(PagePosition(after, "uid").format(), uid="uid")


def test_tokens_of_another_collection_or_filter_are_refused():
    token = PagePosition("a", "uid", "mark").format()
    with pytest.raises(InvalidField, match="collection"):
        PagePosition.parse(token, uid="other", filter_mark="mark")
    with pytest.raises(InvalidField, match="filter"):
        PagePosition.parse(token, uid="uid", filter_mark="other")
