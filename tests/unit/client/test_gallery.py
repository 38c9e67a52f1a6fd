"""The gallery is one file: it shows what was found, escapes what comes from outside, and fetches nothing."""

import base64
import io
from datetime import UTC, datetime
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipseek import Hit
from clipseek import Image as Record
from clipseek.gallery import Section, gallery_html

NOW = datetime(2024, 5, 6, tzinfo=UTC)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(buffer, "JPEG")
    return buffer.getvalue()


def hit(image_id: str, *, score: float = 0.5, thumbnail: bytes | None = None, **metadata: object) -> Hit:
    record = Record(image_id, "default", 8, 6, "image/jpeg", 10, metadata, NOW, NOW, "0" * 64, thumbnail)  # type: ignore[arg-type]
    return Hit(record, score)


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_several_queries_on_one_page() -> None:
    thumbnail = jpeg()
    hits = [
        hit("cat-1", score=0.31415, thumbnail=thumbnail, file="cats/one.jpg", album="summer"),
        hit("cat-2", score=-0.2),
    ]
    sections = [Section("a cat", hits, note="2 hits in 5 ms"), Section("like this", [], picture=thumbnail)]
    page = Page(gallery_html(sections, title="My $title", subtitle="3 pictures"))
    for text in ("a cat", "like this", "0.314", "-0.200", "cats/one.jpg", "summer", "cat-2", "8 x 6", "Nothing found."):
        assert text in page.text, text
    assert page.text.count("My $title") == 2
    uri = "data:image/jpeg;base64," + base64.b64encode(thumbnail).decode()
    assert [attributes["src"] for tag, attributes in page.tags if tag == "img"] == [uri, uri]


text = st.text(max_size=30) | st.sampled_from(
    ['"><script>alert(1)</script>', "' onload='x", "${title}", "</style>", "&amp;"]
)


@given(text, text, text, text, st.binary(max_size=40))
def test_nothing_from_outside_becomes_markup(query: str, image_id: str, key: str, value: str, thumbnail: bytes) -> None:
    found = [hit(image_id, thumbnail=thumbnail, **{key: value, "file": value})]
    page = Page(gallery_html([Section(query, found, picture=thumbnail, note=value)], title=query, subtitle=value))
    plain = Page(
        gallery_html([Section("q", [hit("i", thumbnail=thumbnail, k="v", file="v")], picture=thumbnail, note="v")])
    )
    assert [tag for tag, _ in page.tags if tag not in {"dt", "dd", "p"}] == [
        tag for tag, _ in plain.tags if tag not in {"dt", "dd", "p"}
    ]
    for _, attributes in page.tags:
        assert not {"onload", "onerror", "onclick", "href"} & attributes.keys()
        assert str(attributes.get("src", "data:")).startswith("data:")


def test_a_picture_that_browsers_do_not_show_is_left_out() -> None:
    page = Page(gallery_html([Section("q", [hit("a", thumbnail=b"II*\x00 a tiff")], picture=b"x" * 100)]))
    assert [tag for tag, _ in page.tags if tag == "img"] == []
    assert "no thumbnail" in page.text
