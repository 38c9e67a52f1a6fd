"""Measure how the starter joins its towers, beside simpler joinings.

Queries are the captions of the pictures that Debian's ``tuxpaint-stamps-default`` brings::

    apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb stamps
    python benchmarks/starter_joining.py stamps

The joining was chosen on the captions of the ``tuned`` half alone; each half is searched by itself, then all pictures.
A caption that several pictures share may find any of them. By picture: the share of the other pictures found that lie
in the same folder (``animals/birds``), among the first and among as many as the folder has, ten at most. On
scikit-image's wheel: how far the right picture is before the best wrong one, in cosine between the meanings.
"""

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from clipseek_export import starter
from clipseek_export import starter_parts as parts
from clipseek_export.source import SourceModel
from clipseek_server.encoding.pictures import decode_picture
from clipseek_server.errors import InvalidImage

Matrix = npt.NDArray[np.float32]

EXPECTED = {
    "a cat": {"chelsea.png"},
    "a cup of coffee": {"coffee.png"},
    "a rocket launch": {"rocket.jpg"},
    "a motorcycle": {"motorcycle_left.png", "motorcycle_right.png"},
    "a photographer with a camera": {"camera.png"},
}


@dataclass
class Seen:
    """What the classifier says of pictures, and what they are called."""

    labels: npt.NDArray[np.str_]
    folders: npt.NDArray[np.str_]
    features: Matrix
    logits: Matrix


@dataclass
class Joining:
    """One way from the classifier's answer and from a sentence's embedding to two comparable vectors."""

    name: str
    picture: Callable[[Seen], Matrix]
    text: Callable[[Matrix], Matrix]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stamps", type=Path, help="folder with PNGs and their captions (.txt beside each)")
    stamps_folder = parser.parse_args().stamps
    model = starter.load()
    stamps = _see(model, captioned(stamps_folder))
    photographs = _see(model, [(Path(str(path)), path.name) for path in (files("skimage") / "data").iterdir()])
    captions, queries = _sentences(model, list(stamps.labels)), _sentences(model, list(EXPECTED))
    tuned = np.array([hashlib.sha256(label.encode()).digest()[-1] % 2 == 0 for label in stamps.labels])
    halves = {"tuned": tuned, "untouched": ~tuned, "all": np.ones_like(tuned)}
    print(f"{len(stamps.labels)} stamps, {tuned.sum()} in the tuned half; {len(photographs.labels)} photographs\n")
    print(f"{'joining':36} {'half':10} text→picture R@1/5/10   by picture P@1/10   photographs: lead of the right one")
    for joining in _joinings(model):
        pictures, texts = joining.picture(stamps), joining.text(captions)
        scores = joining.text(queries) @ joining.picture(photographs).T
        leads = [_lead(row, photographs.labels, right) for row, right in zip(scores, EXPECTED.values(), strict=True)]
        for half, rows in halves.items():
            found = " ".join(f"{share:.3f}" for share in recall(texts[rows], pictures[rows], stamps.labels[rows]))
            alike = " ".join(f"{share:.3f}" for share in _alike(pictures[rows], stamps.folders[rows]))
            lead = " ".join(f"{lead:+.2f}" for lead in leads) if half == "all" else ""
            print(f"{joining.name if half == 'tuned' else '':36} {half:10} {found:23} {alike:19} {lead}", flush=True)


def captioned(stamps: Path) -> list[tuple[Path, str]]:
    """The PNGs of a folder that have a caption, and the captions."""
    return [(path, caption) for path in sorted(stamps.rglob("*.png")) if (caption := _caption(path))]


def recall(texts: Matrix, pictures: Matrix, labels: npt.NDArray[np.str_]) -> list[float]:
    """Share of the texts that find a picture of their label among the first 1, 5 and 10.

    Args:
        texts: float32 ``[count, dimension]``.
        pictures: float32 ``[count, dimension]``.
        labels: What the row of either is called; texts may find any picture that is called the same.
    """
    scores, right = texts @ pictures.T, labels[:, None] == labels
    best = scores.max(axis=1, where=right, initial=-np.inf, keepdims=True)
    ranks = ((scores > best) & ~right).sum(axis=1)
    return [float((ranks < depth).mean()) for depth in (1, 5, 10)]


def _joinings(model: SourceModel) -> list[Joining]:
    classes = parts.class_texts()
    names = _sentences(model, [text.name for text in classes])
    codes = model.vision.get_buffer("class_codes").numpy()
    directions = model.vision.get_buffer("look_directions").numpy()
    centre = names.mean(axis=0)

    def conse(codes: Matrix, temperature: float) -> Callable[[Seen], Matrix]:
        return lambda seen: _unit(_softmax(seen.logits / temperature) @ codes)

    def centred(texts: Matrix) -> Matrix:
        return _unit(texts - centre)

    def widened(texts: Matrix) -> Matrix:
        return np.pad(centred(texts), ((0, 0), (0, starter.LOOK_DIMENSIONS)))

    meaning = conse(codes, starter.TEMPERATURE)
    share = starter.LOOK_SHARE

    def with_look(seen: Seen) -> Matrix:
        return np.hstack([(1 - share) ** 0.5 * meaning(seen), share**0.5 * _unit(seen.features @ directions)])

    return [
        Joining("names", conse(names, 1.0), _unit),
        Joining("names, centred", conse(names - centre, 1.0), centred),
        Joining("names, centred, temperature", conse(names - centre, starter.TEMPERATURE), centred),
        Joining("+ descriptions", meaning, centred),
        Joining("+ look = the starter", with_look, widened),
    ]


def _see(model: SourceModel, labelled: list[tuple[Path, str]]) -> Seen:
    """Run the classifier; what is no picture is left out."""
    classifier = model.vision.get_submodule("classifier")
    labels, folders, features = [], [], []
    for path, label in labelled:
        try:
            pixels = decode_picture(path.read_bytes(), model.pixels, max_pixels=50_000_000).pixels
        except (InvalidImage, OSError):
            continue
        with torch.inference_mode():
            scaled = (torch.from_numpy(pixels[None]).float() - 127) / 128
            features.append(classifier.extract_features(scaled).mean(dim=(2, 3)).numpy())  # type: ignore[operator]  # EfficientNet is untyped
        labels.append(label)
        folders.append(str(path.parent))
    stacked = np.concatenate(features)
    with torch.inference_mode():
        logits = classifier._fc(torch.from_numpy(stacked)).numpy()  # type: ignore[operator]  # EfficientNet is untyped
    return Seen(np.array(labels), np.array(folders), stacked, logits)


def _sentences(model: SourceModel, texts: list[str]) -> Matrix:
    encoder = model.text.get_submodule("encoder")
    assert isinstance(encoder, starter.SentenceEncoder)
    return starter.embed(encoder, parts.load_tokenizer(), texts).numpy()


def _caption(path: Path) -> str:
    text = path.with_suffix(".txt")
    return text.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip() if text.is_file() else ""


def _alike(pictures: Matrix, folders: npt.NDArray[np.str_]) -> tuple[float, float]:
    scores = pictures @ pictures.T
    np.fill_diagonal(scores, -np.inf)
    same = folders[np.argsort(-scores, axis=1)] == folders[:, None]
    others = (folders == folders[:, None]).sum(axis=1) - 1
    shares = [row[: min(10, count)].mean() for row, count in zip(same, others, strict=True) if count]
    return float(same[others > 0, 0].mean()), float(np.mean(shares))


def _lead(scores: Matrix, labels: npt.NDArray[np.str_], right: set[str]) -> float:
    expected = np.isin(labels, list(right))
    return float(scores[expected].max() - scores[~expected].max())


def _softmax(logits: Matrix) -> Matrix:
    odds: Matrix = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Matrix = odds / odds.sum(axis=1, keepdims=True)
    return shares


def _unit(vectors: Matrix) -> Matrix:
    unit: Matrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


if __name__ == "__main__":
    main()
