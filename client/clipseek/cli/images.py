"""``clipseek get``, ``list`` and ``delete``."""

import sys
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from clipseek.cli.files import check_writable
from clipseek.cli.session import FAILED, Freshness, Session, command
from clipseek.downloads import destination


@command
def get(
    session: Session,
    image_id: Annotated[str, typer.Argument(help="The picture's id.", show_default=False)],
    output_file: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the picture itself to this file.")
    ] = None,
    consistency: Freshness = None,
) -> None:
    """Show the record of one picture, and fetch the picture itself with --output.

    Try:

      clipseek get 3f29c1…

      clipseek get cat-1 --output cat.jpg
    """
    if output_file is not None:
        check_writable(destination(output_file))
    with session.client() as client:
        image = client.get(image_id, collection=session.collection, consistency=consistency)
        if output_file is not None:
            client.download_to(
                image_id,
                output_file,
                collection=session.collection,
                consistency=consistency,
                timeout=session.timeout,
            )
            session.output.note(f"wrote {output_file} ({image.size_bytes:,} bytes)")
    output = session.output
    if session.json:
        output.value(image)
        return
    output.facts(
        {
            "id": image.image_id,
            "collection": image.collection,
            "size": f"{image.width}x{image.height}",
            "type": image.media_type,
            "bytes": f"{image.size_bytes:,}",
            "sha256": image.content_sha256,
            "created": image.created,
            "updated": image.updated,
            **{f"metadata.{key}": value for key, value in image.metadata.items()},
        }
    )


@command
def list_images(
    session: Session,
    filter: Annotated[str, typer.Option("--filter", "-f", help="Only pictures that it holds for.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", help="At most how many; 0 for all.", min=0)] = 0,
    consistency: Freshness = None,
) -> None:
    """List pictures in the order of their ids. With --json, one line a picture.

    Try:

      clipseek list --limit 20

      clipseek list --filter 'media_type == "image/png"' --json | jq -r .image_id
    """
    output = session.output
    with session.client() as client:
        images = client.list(collection=session.collection, filter=filter, consistency=consistency)
        wanted = islice(images, limit or None)
        if session.json:
            for image in wanted:
                output.value(image)
            return
        rows = (
            (image.image_id, f"{image.width}x{image.height}", image.media_type, f"{image.size_bytes:,}", image.metadata)
            for image in wanted
        )
        output.listing(("id", "size", "type", "bytes", "metadata"), rows, right=frozenset({"size", "bytes"}))


@command
def delete(
    session: Session,
    image_ids: Annotated[list[str], typer.Argument(help="Ids of pictures.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete pictures by their ids. Exit code 1: some were not there.

    Try:

      clipseek delete cat-1 cat-2

      clipseek delete --yes cat-1
    """
    where = session.collection or "default"
    if not yes and not typer.confirm(f"Delete {len(image_ids)} picture(s) from {where}?", err=True):
        sys.exit(FAILED)
    with session.client() as client:
        deleted = client.delete(image_ids, collection=session.collection)
    output = session.output
    if session.json:
        output.value(deleted)
    else:
        output.note(f"{deleted.count} deleted")
    for image_id in deleted.missing:
        output.note(f"not there: {image_id}")
    if deleted.missing:
        sys.exit(FAILED)
