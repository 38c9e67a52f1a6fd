"""The space of a model: digests that neither a precision nor a library's version changes."""

import hashlib
import json
from typing import Any, Final

import torch
from tokenizers import Tokenizer

from clipseek_export.source import SourceModel
from clipseek_server.encoding.bundle import Space

# What normalising, splitting and closing a text do is taken from what comes out. Another list is another space for
# every model: leave it as it is.
_PROBES: Final = (
    "",
    "a photo of a cat",
    "A Photo, of a CAT!",
    "  white \t\n space  ",
    "caf\u00e9 cafe\u0301 na\u00efve \u00dcber stra\u00dfe \u0130stanbul",
    "it's we're they'll don't",
    "1234567890 3.14 1,000",
    "hello-world_foo/bar@baz.com #tag <b>&amp;</b>",
    "\u4e00\u53ea\u732b \u306d\u3053 \uace0\uc591\uc774 \u043a\u043e\u0448\u043a\u0430 \u0642\u0637\u0629",
    "\ufb01sh \u2460 \uff21\uff22\uff23 \u00bd",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
    "zero\u200bwidth soft\u00adhyphen no\u00a0break \u0000 \ufffd",
    "supercalifragilisticexpialidocious",
)


def describe_space(model: SourceModel) -> Space:
    """What makes this model's embeddings comparable with others."""
    return Space(
        family=model.family,
        weights_sha256=weights_sha256(model.tensors),
        constants=model.constants,
        pixels=model.pixels,
        pooling=model.pooling,
        tokenizer_sha256=tokenizer_sha256(model.tokenizer_json),
    )


def weights_sha256(tensors: dict[str, torch.Tensor]) -> str:
    """Digest over the tensors sorted by name: name, shape and fp32 bytes, little endian."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, list(tensor.shape)]).encode())
        digest.update(tensor.detach().to(torch.float32).contiguous().numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def tokenizer_sha256(tokenizer_json: str) -> str:
    """Digest over the vocabulary, the merges, and the ids that a list of awkward texts gives.

    The file itself is not stable: versions of the library write the same tokenizer in different words.
    """
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    model: dict[str, Any] = json.loads(tokenizer_json)["model"]
    canonical = {
        "vocabulary": sorted(tokenizer.get_vocab(with_added_tokens=True).items()),
        "merges": [merge if isinstance(merge, list) else merge.split(" ") for merge in model.get("merges") or []],
        "probes": [tokenizer.encode(probe).ids for probe in _PROBES],
    }
    return hashlib.sha256(json.dumps(canonical, separators=(",", ":")).encode()).hexdigest()
