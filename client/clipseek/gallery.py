"""Search results as one HTML file that needs nothing else: thumbnails are inside, and no request leaves it."""

import html
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

from clipseek.pictures import SHOWN_BY_BROWSERS, data_uri, sniff
from clipseek.results import Hit, Json

# A query picture larger than this would make the page slow to open.
_LARGEST_INLINE = 4 * 1024 * 1024


@dataclass(frozen=True)
class Section:
    """One query and what it found.

    Attributes:
        query: The sentence, or what to call the query.
        hits: Best first; those with a thumbnail show it.
        picture: The query's own picture, if it had one: the file's bytes.
        offset: How many better hits were skipped.
        note: A line below the query, e.g. the filter and how long it took.
    """

    query: str
    hits: Sequence[Hit]
    picture: bytes | None = None
    offset: int = 0
    note: str = ""


def gallery_html(sections: Iterable[Section], *, title: str = "clipseek", subtitle: str = "") -> str:
    """A page with one section a query. Everything from outside is escaped.

    Example:
        >>> result = client.search_text("a cat", with_thumbnails=True)
        >>> Path("cats.html").write_text(gallery_html([Section("a cat", result.hits)]), encoding="utf-8")
    """
    template = string.Template(resources.files("clipseek").joinpath("gallery.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(title),
        subtitle=html.escape(subtitle),
        sections="\n".join(_section(section) for section in sections),
    )


def _section(section: Section) -> str:
    picture = _img(section.picture, 'class="asked" alt=""')
    note = f'<p class="note">{html.escape(section.note)}</p>' if section.note else ""
    cards = "\n".join(_card(rank, hit) for rank, hit in enumerate(section.hits, section.offset + 1))
    hits = f'<ol class="hits">\n{cards}\n</ol>' if cards else '<p class="note">Nothing found.</p>'
    head = f"<header>{picture}<div><h2>{html.escape(section.query)}</h2>{note}</div></header>"
    return f"<section>\n{head}\n{hits}\n</section>"


def _card(rank: int, hit: Hit) -> str:
    image = hit.image
    name = str(image.metadata.get("file") or image.image_id)
    thumbnail = _img(image.thumbnail, f'alt="{html.escape(name)}"') or '<span class="blank">no thumbnail</span>'
    rows = {
        "id": image.image_id,
        "size": f"{image.width} x {image.height}",
        "type": image.media_type,
        **{key: value for key, value in image.metadata.items() if key != "file"},
    }
    facts = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(_text(value))}</dd>" for key, value in rows.items())
    return (
        f'<li><div class="picture">{thumbnail}<span class="rank">{rank}</span></div>'
        f'<div class="score"><meter min="0" max="1" value="{max(hit.score, 0.0):.4f}"></meter>{hit.score:.3f}</div>'
        f'<p class="name" title="{html.escape(name)}">{html.escape(name)}</p>'
        f"<details><summary>details</summary><dl>{facts}</dl></details></li>"
    )


def _img(picture: bytes | None, attributes: str) -> str:
    if picture is None or len(picture) > _LARGEST_INLINE or sniff(picture[:32]) not in SHOWN_BY_BROWSERS:
        return ""
    return f'<img src="{data_uri(picture)}" {attributes}>'


def _text(value: Json) -> str:
    return value if isinstance(value, str) else str(value)
