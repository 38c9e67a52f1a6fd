"""``clipseek search``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from clipseek import Client, SearchResult, Term
from clipseek.cli.files import check_writable, readable
from clipseek.cli.session import Freshness, Session, command
from clipseek.gallery import Section, gallery_html


@command
def search(
    session: Session,
    text: Annotated[str | None, typer.Argument(help="A sentence.", show_default=False)] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", "-i", help="A picture to compare with; together with a sentence, both count."),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many hits.", min=1)] = 5,
    offset: Annotated[int, typer.Option(help="How many of the best hits to skip.", min=0)] = 0,
    filter: Annotated[str, typer.Option("--filter", "-f", help="Only pictures that it holds for.")] = "",
    min_score: Annotated[float | None, typer.Option(help="Only hits with at least this score.")] = None,
    effort: Annotated[Literal["fast", "thorough", "exact"] | None, typer.Option(help="Latency against recall.")] = None,
    consistency: Freshness = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with thumbnails and scores to this file.")] = None,
) -> None:
    """Find the pictures nearest to a sentence, to a picture, or to both.

    Try:

      clipseek search "a cat asleep on a sofa"

      clipseek search --image cat.jpg --top-k 20

      clipseek search "at night" --image beach.jpg

      clipseek search "a cat" --filter 'metadata.album == "summer" and width >= 800'

      clipseek search "a cat" --html cats.html
    """
    terms = [Term.picture(image)] if image else []
    terms += [Term.text(text)] if text else []
    if not terms:
        raise typer.BadParameter('give a sentence, --image FILE, or both; e.g. clipseek search "a cat"')
    if html is not None:
        check_writable(html)
    with session.client() as client:
        result = client.search(
            *terms,
            collection=session.collection,
            top_k=top_k,
            offset=offset,
            filter=filter,
            min_score=min_score,
            effort=effort,
            consistency=consistency,
            with_thumbnails=html is not None,
        )
        if html is not None:
            page = _page(session, client, result, text=text, image=image, filter=filter, offset=offset)
            html.write_text(page, encoding="utf-8")
            session.output.note(f"wrote {html}")
    output = session.output
    if result.text_truncated:
        output.note("the sentence is longer than the model reads; only its beginning was used")
    if session.json:
        # Thumbnails are the page's.
        hits = tuple(replace(hit, image=replace(hit.image, thumbnail=None)) for hit in result)
        output.value(replace(result, hits=hits))
        return
    output.table(
        ("", "score", "file", "size", "metadata", "id"),
        (
            (
                rank,
                f"{hit.score:.4f}",
                hit.image.metadata.get("file"),
                f"{hit.image.width}x{hit.image.height}",
                {key: value for key, value in hit.image.metadata.items() if key != "file"},
                hit.image_id,
            )
            for rank, hit in enumerate(result, offset + 1)
        ),
        right=frozenset({"", "score", "size"}),
    )
    if not len(result):
        output.note("nothing found")


def _page(
    session: Session,
    client: Client,
    result: SearchResult,
    *,
    text: str | None,
    image: Path | None,
    filter: str,
    offset: int,
) -> str:
    milliseconds = result.timing.total * 1000
    asked = [f"“{text}”"] if text else []
    asked += [readable(Path(image.name))] if image else []
    section = Section(
        query=" + ".join(asked),
        hits=result.hits,
        offset=offset,
        picture=image.read_bytes() if image else None,
        note=", ".join([f"filter {filter}"] * bool(filter) + [f"{len(result)} hits in {milliseconds:.0f} ms"]),
    )
    where = session.collection or "default"
    return gallery_html([section], subtitle=f"collection {where}, model {result.model.name}, {client.address}")
