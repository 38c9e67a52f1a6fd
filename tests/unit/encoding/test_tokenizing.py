import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from clipseek_server.encoding.bundle import TOKENIZER_FILE, TextSpec, read_manifest
from clipseek_server.encoding.tokenizing import TextTokenizer
from clipseek_server.errors import StartupError
from models import WORDS

AWKWARD = [
    "a photo of a cat",
    "",
    " ",
    "\n\t",
    "A  CAT,   on\u00a0a table!",
    "naïve café \u0301 e\u0301",
    "猫の写真",
    "👩‍👩‍👧‍👦 family",
    "\u200b\u200d\ufeff",
    "\0\x01\x7f",
    "<|endoftext|>",
    "a <|startoftext|> cat <|endoftext|> dog",
    "don't can't we'll I'm",
    "2024-01-01 3.14159 1,000,000",
    "cat " * 74,
    "cat " * 75,
    "cat " * 76,
    "x" * 10_000,
    "\U0010ffff\ufffd",
]
TEXTS = st.text(max_size=200) | st.lists(st.sampled_from([*WORDS, "<|endoftext|>", "é", "1"]), max_size=120).map(
    " ".join
)


@pytest.fixture(scope="module")
def reference(model_folder):
    return CLIPTokenizer.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def tokenizer(bundle):
    return TextTokenizer(bundle / TOKENIZER_FILE, read_manifest(bundle).text)


def assert_same_tokens(tokenizer, reference, text):
    tokens = tokenizer.tokenize(text)
    assert tokens.ids.tolist() == reference(text, truncation=True, max_length=77)["input_ids"]
    assert tokens.ids.dtype == np.int64
    assert tokens.truncated == (len(reference(text)["input_ids"]) > 77)


@pytest.mark.parametrize("text", AWKWARD, ids=range(len(AWKWARD)))
def test_awkward_texts_become_the_tokens_of_transformers(tokenizer, reference, text):
    assert_same_tokens(tokenizer, reference, text)


@settings(max_examples=200)
@given(text=TEXTS)
def test_any_text_becomes_the_tokens_of_transformers(tokenizer, reference, text):
    assert_same_tokens(tokenizer, reference, text)


def test_a_long_text_keeps_its_special_tokens(tokenizer, reference):
    tokens = tokenizer.tokenize("cat " * 100)
    assert len(tokens.ids) == 77
    assert (tokens.ids[0], tokens.ids[-1]) == (reference.bos_token_id, reference.eos_token_id)


@pytest.mark.parametrize(("words", "truncated"), [(74, False), (75, False), (76, True)])
def test_truncation_begins_behind_the_context(tokenizer, words, truncated):
    assert tokenizer.tokenize("cat " * words).truncated is truncated


def test_a_batch_is_padded_as_transformers_does(tokenizer, reference):
    texts = ["cat", "a photo of a cat", "cat " * 100, ""]
    input_ids, attention_mask = tokenizer.pad([tokenizer.tokenize(text) for text in texts])
    expected = reference(texts, truncation=True, max_length=77, padding=True, return_tensors="np")
    np.testing.assert_array_equal(input_ids, expected["input_ids"])
    np.testing.assert_array_equal(attention_mask, expected["attention_mask"])
    assert input_ids.dtype == attention_mask.dtype == np.int64


def test_padding_to_the_context(bundle):
    tokenizer = TextTokenizer(bundle / TOKENIZER_FILE, TextSpec(context_length=16, padding="context", pad_id=5))
    tokens = tokenizer.tokenize("cat")
    input_ids, attention_mask = tokenizer.pad([tokens])
    assert input_ids.shape == (1, 16)
    assert input_ids[0].tolist() == [*tokens.ids, *[5] * (16 - len(tokens.ids))]
    assert attention_mask[0].tolist() == [1] * len(tokens.ids) + [0] * (16 - len(tokens.ids))


def test_settings_in_the_file_do_not_matter(bundle, reference, tmp_path):
    backend = reference.backend_tokenizer
    backend.enable_truncation(5)
    backend.enable_padding(length=50)
    backend.save(str(tmp_path / TOKENIZER_FILE))
    backend.no_truncation()
    backend.no_padding()
    tokenizer = TextTokenizer(tmp_path / TOKENIZER_FILE, read_manifest(bundle).text)
    assert tokenizer.tokenize("cat " * 20).ids.tolist() == reference("cat " * 20)["input_ids"]


def test_a_broken_file_says_so(tmp_path):
    (tmp_path / TOKENIZER_FILE).write_text("{}")
    with pytest.raises(StartupError, match="export the bundle again"):
        TextTokenizer(tmp_path / TOKENIZER_FILE, TextSpec(context_length=77, padding="longest", pad_id=0))
