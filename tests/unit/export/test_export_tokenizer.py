"""A bundle's tokenizer gives the ids that transformers gives."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from clipseek_export import clip
from clipseek_export.hub import find_checkpoint
from clipseek_server.encoding.bundle import TextSpec
from clipseek_server.encoding.tokenizing import TextTokenizer
from models import Pooling, make_small_clip

AWKWARD = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("a cat\u0301 \u0130\u00df\u00a0\u200b\u00ad\ufb01\u2460'\u0345\t\n\r\x00\x85\u2028<|>"),
    ),
    max_size=120,
)


@pytest.fixture(scope="module", params=["argmax", "first_eos"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, PreTrainedTokenizerBase]:
    pooling: Pooling = request.param
    folder = make_small_clip(tmp_path_factory.mktemp("tokenizer"), pooling=pooling)
    (folder / "served.json").write_text(clip.load(find_checkpoint(str(folder))).tokenizer_json, encoding="utf-8")
    return folder / "served.json", AutoTokenizer.from_pretrained(folder)


def test_it_neither_pads_nor_truncates(pair: tuple[Path, PreTrainedTokenizerBase]) -> None:
    served = Tokenizer.from_file(str(pair[0]))
    assert served.padding is None
    assert served.truncation is None


@settings(max_examples=300)
@given(text=AWKWARD)
@example(text="")
@example(text="A PHOTO of  a\tCAT, it's  <|endoftext|> here")
@example(text="cafe\u0301 CAF\u00c9 \u0130stanbul \u01c5 \ufb01sh \U0001f600\u200d\U0001f680")
@example(text="the " * 300)
def test_ids_are_those_of_transformers(pair: tuple[Path, PreTrainedTokenizerBase], text: str) -> None:
    path, original = pair
    served = TextTokenizer(path, TextSpec(context_length=77, padding="longest", pad_id=0))
    expected = original(text, truncation=True, max_length=77)["input_ids"]
    found = served.tokenize(text)
    assert found.ids.tolist() == expected
    assert found.truncated == (len(original(text)["input_ids"]) > 77)
    assert expected[-1] == original.eos_token_id
