"""``clipseek collections``, ``drop``, ``rebuild`` and ``check``."""

import sys
from typing import Annotated

import typer

from clipseek.cli.session import FAILED, Session, command

Name = Annotated[str, typer.Argument(help="The collection; --collection or default if left out.", show_default=False)]


@command
def collections(session: Session) -> None:
    """List the collections.

    Try:

      clipseek collections
    """
    output = session.output
    with session.client() as client:
        found = tuple(client.collections())
    if session.json:
        output.value(found)
        return
    output.table(
        ("name", "pictures", "model", "precision", "dimension", "index", "created"),
        (
            (
                item.name,
                f"{item.image_count:,}",
                item.model.name or "(not loaded)",
                item.model.precision,
                item.dimension,
                item.index,
                item.created,
            )
            for item in found
        ),
        right=frozenset({"pictures", "dimension"}),
    )


@command
def drop(
    session: Session,
    name: Annotated[str, typer.Argument(help="The collection.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a collection with all its pictures.

    Try:

      clipseek drop holiday

      clipseek drop --yes holiday
    """
    with session.client() as client:
        if not yes:
            count = client.get_collection(name).image_count
            if not typer.confirm(f"Delete {name} and its {count:,} pictures?", err=True):
                sys.exit(FAILED)
        deleted = client.delete_collection(name)
    if session.json:
        session.output.value({"name": name, "deleted_count": deleted})
    else:
        session.output.note(f"{deleted:,} deleted")


@command
def rebuild(
    session: Session,
    name: Name = "",
    model: Annotated[
        str, typer.Option(help="Another loaded model of the collection's space, e.g. of another precision.")
    ] = "",
) -> None:
    """Embed every picture of a collection again. Searches go on meanwhile; writes are refused until it is done.

    Try:

      clipseek rebuild holiday

      clipseek rebuild holiday --model clip-vit-base-patch32-int8
    """
    output = session.output
    with session.client() as client:
        for progress in client.rebuild(name or session.collection, model=model, timeout=session.timeout):
            if session.json:
                output.value(progress)
            else:
                output.note(f"{progress.phase}: {progress.images_done:,} of {progress.images_total:,}")


@command
def check(
    session: Session,
    name: Name = "",
    verify_bytes: Annotated[bool, typer.Option("--verify-bytes", help="Also read all bytes; slow.")] = False,
) -> None:
    """Compare a collection's records, vectors and bytes. Exit code 1: something is damaged.

    Bytes that no record names are no damage: the sweep removes what deletes and replacements leave behind.

    Try:

      clipseek check holiday --verify-bytes
    """
    output = session.output
    damaged = orphaned = checked = 0
    with session.client() as client:
        name = name or session.collection
        for progress in client.check(name, verify_bytes=verify_bytes, timeout=session.timeout):
            checked = progress.images_checked
            orphans = sum(each.kind == "orphaned_bytes" for each in progress.differences)
            orphaned += orphans
            damaged += len(progress.differences) - orphans
            if session.json:
                for difference in progress.differences:
                    output.value(difference)
            elif progress.differences:
                output.table(("", "", ""), ((each.kind, each.image_id, each.message) for each in progress.differences))
    output.note(f"{checked:,} pictures checked, {damaged:,} damaged; the bytes of {orphaned:,} await the sweep")
    if damaged:
        sys.exit(FAILED)
