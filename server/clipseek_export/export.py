"""From a source model to a bundle: export, convert, measure, describe, publish."""

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final

from clipseek_export import graphs
from clipseek_export.errors import ExportError
from clipseek_export.measure import Tower, Towers, measure_agreement, measure_decoding, measure_parity
from clipseek_export.source import Embeddings, SourceModel
from clipseek_export.space import describe_space
from clipseek_export.writer import whole_folder
from clipseek_server.encoding.bundle import (
    MANIFEST_FILE,
    TEXT_FILE,
    TOKENIZER_FILE,
    VISION_FILE,
    Agreement,
    Golden,
    Manifest,
    Precision,
    file_sha256,
    golden_pixels,
    read_manifest,
    verify_files,
)

_FP32_PREFIX: Final = "fp32."
_GOLDEN_SEEDS: Final = (0, 1)
_GOLDEN_TEXTS: Final = ("a photo of a cat", "Two red cups of coffee, on a table!")
_PACKAGES: Final = ("clipseek", "torch", "transformers", "tokenizers", "onnx", "onnxruntime")

Announce = Callable[[str], None]


def steps(precision: Precision) -> int:
    """How many steps ``export`` announces."""
    return 6 if precision == "fp32" else 9


def export(
    model: SourceModel,
    output: Path,
    precision: Precision = "fp32",
    *,
    name: str | None = None,
    announce: Announce = lambda step: None,
) -> Manifest:
    """Write a bundle.

    Args:
        model: What to export.
        output: The bundle's folder; a bundle that is there is replaced.
        precision: Of the graphs' weights.
        name: The bundle's name; without one it is the model's, with the precision as a suffix unless that is fp32.
        announce: Called at the beginning of each step.

    Raises:
        ExportError: The graphs do not agree with the source model, or the place is taken. Nothing is left behind.
    """
    name = _checked_name(name or (model.name if precision == "fp32" else f"{model.name}-{precision}"))
    with whole_folder(output) as folder:
        announce("exporting the vision tower")
        prefix = "" if precision == "fp32" else _FP32_PREFIX
        graphs.export_vision(model, folder / f"{prefix}{VISION_FILE}")
        announce("exporting the text tower")
        graphs.export_text(model, folder / f"{prefix}{TEXT_FILE}")
        (folder / TOKENIZER_FILE).write_text(model.tokenizer_json, encoding="utf-8")

        announce("comparing with the source model")
        fp32 = Towers(folder, model.text_spec, prefix)
        parity = measure_parity(model, fp32)
        announce("measuring how far JPEGs may be reduced")
        decoding = measure_decoding(model.pixels, fp32)
        agreement: dict[Tower, Agreement] = {}
        towers = fp32
        if precision != "fp32":
            for file in (VISION_FILE, TEXT_FILE):
                announce(f"converting {file} to {precision}")
                graphs.convert(folder / f"{prefix}{file}", folder / file, precision)
            announce(f"comparing {precision} with fp32")
            towers = Towers(folder, model.text_spec)
            shares = [
                graphs.weight_share(folder / f"{prefix}{file}", folder / file) for file in (VISION_FILE, TEXT_FILE)
            ]
            agreement = measure_agreement(model, precision, fp32, towers, shares)
            for file in (VISION_FILE, TEXT_FILE):
                (folder / f"{prefix}{file}").unlink()

        announce("describing the bundle")
        space = describe_space(model)
        manifest = Manifest(
            name=name,
            description=model.description,
            space_id=space.space_id,
            space=space,
            text=model.text_spec,
            dimension=model.dimension,
            logit_scale=model.logit_scale,
            precision=precision,
            parity=parity,
            agreement=agreement,
            decoding=decoding,
            source=model.source,
            versions={package: version(package) for package in _PACKAGES} | model.package_versions,
            files={file: file_sha256(folder / file) for file in (VISION_FILE, TEXT_FILE, TOKENIZER_FILE)},
            golden=_golden(model, towers),
        )
        (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")

        announce("checking what was written")
        verify_files(folder, read_manifest(folder))
    return manifest


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
        raise ExportError(
            f"a bundle cannot be named {name!r}: letters, digits, dots, dashes and underscores; see --name"
        )
    return name


def _golden(model: SourceModel, towers: Towers) -> tuple[Golden, ...]:
    # One by one: what int8 gives depends a little on what else is in the batch.
    texts = [Golden(text=text, embedding=_numbers(towers.texts([text]))) for text in _GOLDEN_TEXTS]
    pictures = [
        Golden(picture_seed=seed, embedding=_numbers(towers.pictures(golden_pixels(seed, model.pixels)[None])))
        for seed in _GOLDEN_SEEDS
    ]
    return (*texts, *pictures)


def _numbers(embedding: Embeddings) -> tuple[float, ...]:
    # Nine digits are all that a float32 has.
    return tuple(float(f"{value:.9g}") for value in embedding[0].tolist())
