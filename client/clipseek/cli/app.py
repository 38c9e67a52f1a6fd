"""The commands, put together."""

import typer

from clipseek.cli.bench import bench
from clipseek.cli.collections import check, collections, drop, rebuild
from clipseek.cli.help import help_text
from clipseek.cli.images import delete, get, list_images
from clipseek.cli.importing import import_pictures
from clipseek.cli.info import info
from clipseek.cli.search import search
from clipseek.cli.session import root
from clipseek.cli.ui import ui

_HELP = """
Store pictures, and find them again by sentence, by picture or by both.

A first try, with a server running (clipseek-server serve):

  clipseek import holiday/

  clipseek search "children on a beach" --html beach.html

  clipseek search --image cat.jpg --json

Exit codes:

  0    all well
  1    refused, not found, a file that cannot be read, or some pictures failed
  2    wrong usage
  3    the server is away, overloaded or too slow, and a later try may help
  130  interrupted
"""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback(help=help_text(_HELP))(root)
app.command("import")(import_pictures)
app.command()(search)
app.command()(get)
app.command("list")(list_images)
app.command()(delete)
app.command()(collections)
app.command()(drop)
app.command()(rebuild)
app.command()(check)
app.command()(info)
app.command()(bench)
app.command()(ui)
