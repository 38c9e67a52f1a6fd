"""The model bundle: a folder with all that serving needs of a model.

``vision.onnx`` (``pixels`` uint8 ``[batch, 3, height, width]`` -> ``embedding`` float32 ``[batch, dimension]``),
``text.onnx`` (``input_ids`` and ``attention_mask`` int64 ``[batch, sequence]`` -> ``embedding``), ``tokenizer.json``
(Hugging Face tokenizers) and ``bundle.json``, which this module describes. The exporter writes bundles, the server
reads them. Scaling, mean and deviation, pooling, projection and L2 normalisation are inside the graphs.
"""

import hashlib
import json
import mmap
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from clipseek_server.config import MAX_DIMENSION
from clipseek_server.errors import StartupError

VISION_FILE = "vision.onnx"
TEXT_FILE = "text.onnx"
TOKENIZER_FILE = "tokenizer.json"
MANIFEST_FILE = "bundle.json"

Precision = Literal["fp32", "fp16", "int8"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PixelSpec(_Part):
    """How a picture becomes the vision tower's input: geometry outside the graph, scaling inside it."""

    height: int = Field(gt=0, description="Rows of the input.")
    width: int = Field(gt=0, description="Columns of the input.")
    resize: Literal["shortest_edge", "exact"] = Field(
        description="shortest_edge: the shorter side is scaled to resize_to, then the centre is cut out; exact: both."
    )
    resize_to: int = Field(gt=0, description="Length of the shorter side after scaling; height and width when exact.")
    interpolation: Literal["bilinear", "bicubic", "lanczos"]
    mean: tuple[float, float, float] = Field(description="Of the channels scaled to [0, 1]; applied in the graph.")
    std: tuple[float, float, float] = Field(description="Of the channels scaled to [0, 1]; applied in the graph.")

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.resize == "shortest_edge" and self.resize_to < max(self.height, self.width):
            raise ValueError("the picture is scaled to less than what is cropped from it; padding is not supported")
        return self


class PictureRule(_Part):
    """What every picture goes through before the geometry."""

    color: Literal["rgb"] = "rgb"
    alpha: Literal["white"] = "white"
    exif_orientation: Literal["applied"] = "applied"


class Space(_Part):
    """What makes two embeddings comparable. Its digest is the ``space_id``.

    A field that comes later must not stand in the JSON of models that do not need it, or all of them get another id.
    """

    family: str = Field(description="clip, starter, …")
    weights_sha256: str = Field(description="Over the sorted source tensors: name, shape, fp32 bytes.")
    constants: dict[str, float | int | str] = Field(default={}, description="What else joins the towers.")
    pixels: PixelSpec
    picture: PictureRule = PictureRule()
    pooling: str = Field(description="How the text tower pools, e.g. argmax, first_eos, mean.")
    tokenizer_sha256: str = Field(description="Over the canonical vocabulary, merges and normaliser.")

    @property
    def space_id(self) -> str:
        """The digest of this space as it is written into a new bundle."""
        return space_digest(self.model_dump(mode="json"))


class TextSpec(_Part):
    """How texts become the text tower's input."""

    context_length: int = Field(gt=0, description="Tokens a text may have, with the special ones.")
    padding: Literal["longest", "context"] = Field(
        description="longest: to the longest text of a batch, which changes no embedding; context: to the full length."
    )
    pad_id: int = Field(description="The token to pad with; its attention_mask is 0.")


class Similarity(_Part):
    """How near two sets of embeddings of the same inputs are."""

    count: int = Field(description="Inputs compared.")
    cosine_min: float
    cosine_mean: float
    max_abs_difference: float


class Agreement(_Part):
    """What a precision cost one tower, against the same tower at fp32."""

    similarity: Similarity
    overlap_at_10: float | None = Field(description="Mean share of the 10 nearest that stay; None for too few inputs.")
    weight_share: float = Field(description="Share of the tower's weights that the precision touched, in [0, 1].")


class Decoding(_Part):
    """A decoder shortcut that costs less than 0.001 cosine, which keeps it out of the space."""

    jpeg_scale: float = Field(
        ge=1, description="JPEGs may be decoded at 1/2, 1/4 or 1/8 down to this many times resize_to, shorter side."
    )
    similarity: Similarity = Field(description="JPEGs reduced to just that against decoded in full, at fp32.")


class Source(_Part):
    """Where the weights came from."""

    id: str = Field(description="Hub id, folder name or package names.")
    revision: str = Field(description="Commit or versions; empty when unknown.")
    license: str


class Golden(_Part):
    """An input and its embedding, checked when the server starts."""

    text: str | None = None
    picture_seed: int | None = Field(default=None, description="For golden_pixels().")
    embedding: tuple[float, ...]


class Manifest(_Part):
    """The content of ``bundle.json``."""

    format: Literal[1] = 1
    name: str
    description: str
    space_id: str
    space: Space
    text: TextSpec
    dimension: int = Field(gt=0, le=MAX_DIMENSION)
    logit_scale: float = Field(description="Factor from cosine to logit; 0 when the model has none.")
    precision: Precision
    parity: dict[Literal["vision", "text"], Similarity] = Field(description="The fp32 graphs against the source model.")
    agreement: dict[Literal["vision", "text"], Agreement] = Field(
        default={}, description="This precision against fp32; empty at fp32."
    )
    decoding: Decoding | None = Field(default=None, description="None: JPEGs are decoded in full.")
    source: Source
    versions: dict[str, str] = Field(description="Packages that made the bundle.")
    files: dict[str, str] = Field(description="SHA-256 of each file beside this one.")
    golden: tuple[Golden, ...] = Field(min_length=1)

    @property
    def fp32_agreement(self) -> float:
        """Lowest cosine of any tower's embeddings to those at fp32; 1 at fp32."""
        return min((tower.similarity.cosine_min for tower in self.agreement.values()), default=1.0)

    @property
    def jpeg_scale(self) -> float | None:
        """How many times ``resize_to`` a reduced JPEG must have left; ``None``: JPEGs are decoded in full."""
        return None if self.decoding is None else self.decoding.jpeg_scale


def golden_pixels(seed: int, spec: PixelSpec) -> npt.NDArray[np.uint8]:
    """A generated picture: coloured gradients, uint8 ``[3, height, width]``, the same on every machine."""
    rows, columns = np.mgrid[0 : spec.height, 0 : spec.width].astype(np.int64)
    channels = [
        (rows * (3 + seed) + columns * (1 + channel) * 2 + 70 * channel + 37 * seed) // (1 + channel) % 256
        for channel in range(3)
    ]
    return np.stack(channels).astype(np.uint8)


def space_digest(space: JsonValue) -> str:
    """Lower-case hex SHA-256 of the canonical JSON (sorted keys, no spaces)."""
    canonical = json.dumps(space, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read and validate ``bundle.json``; the files' checksums are ``verify_files``'s job.

    Raises:
        StartupError: The folder holds no bundle, or one that this version cannot read.
    """
    path = folder / MANIFEST_FILE
    try:
        content = path.read_bytes()
        manifest = Manifest.model_validate_json(content)
    except FileNotFoundError:
        raise StartupError(
            f"{folder} holds no model bundle ({MANIFEST_FILE} is missing); make one with scripts/export_onnx.py"
        ) from None
    except (OSError, ValidationError) as error:
        raise StartupError(f"{path} cannot be read: {error}") from error
    # Of what stands there, and not of what is made of it: defaults must not count for bundles that are older than them.
    if space_digest(json.loads(content)["space"]) != manifest.space_id:
        raise StartupError(f"{path} is damaged: its space_id does not belong to its space; export it again")
    return manifest


def file_sha256(path: Path) -> str:
    """Lower-case hex SHA-256 of a file."""
    if not path.stat().st_size:
        return hashlib.sha256().hexdigest()
    # In one go: between pieces it would wait for the GIL, which the imports beside it keep.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return hashlib.sha256(content).hexdigest()


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare each file with its checksum.

    Raises:
        StartupError: A file is missing or differs.
    """
    for name in (VISION_FILE, TEXT_FILE, TOKENIZER_FILE):
        path = folder / name
        if not path.is_file() or file_sha256(path) != manifest.files.get(name):
            raise StartupError(f"{path} is missing or damaged; export the bundle again")
