"""The page without a browser: its languages, its queries, and what it takes from outside."""

import dataclasses
import re
import string
from pathlib import Path

import pytest
from grpc import StatusCode

from clipseek import Client, InternalError, InvalidArgumentError, OverloadedError, Term
from clipseek.ui import markup
from clipseek.ui.actions import Actions
from clipseek.ui.problems import explain
from clipseek.ui.query import Query, QueryPicture
from clipseek.ui.words import CHINESE, ENGLISH, LANGUAGES, preferred

STORED = QueryPicture("cat.jpg", image_id="cat", collection="pets")


def places(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)


def flat(words: object) -> dict[str, str]:
    found = {}
    for name, value in dataclasses.asdict(words).items():
        found |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return found


def test_both_languages_say_everything_and_fill_in_the_same():
    english, chinese = flat(ENGLISH), flat(CHINESE)
    assert english.keys() == chinese.keys()
    for name, text in english.items():
        assert text and chinese[name]
        assert places(text) == places(chinese[name]), name
    same = {name for name, text in english.items() if text == chinese[name]}
    assert same == {"sha256"}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("", ENGLISH),
        ("zh-TW,zh;q=0.9,en-US;q=0.8", CHINESE),
        ("en-US,en;q=0.9,zh-TW;q=0.8", ENGLISH),
        ("fr-FR, zh-Hant-HK;q=0.5, en;q=0.4", CHINESE),
        ("zh;q=0, de", ENGLISH),
        ("*;q=x,,;q=", ENGLISH),
    ],
)
def test_the_first_language_that_we_have_is_taken(header, words):
    assert preferred(header) is words


def query(**given: object) -> Query:
    fields = {"text": "", "picture": None, "text_weight": 1, "picture_weight": 1, "collection": "pets", "top_k": 5}
    return Query(**{**fields, "min_score": None, "filter": "", **given})


def test_weights_count_only_when_there_are_both():
    assert not query().asks()
    assert query(text="a cat", text_weight=0).terms() == [Term.text("a cat")]
    assert query(picture=STORED, picture_weight=-1).terms() == [Term.image("cat")]
    both = query(text="a cat", picture=STORED, text_weight=0.5, picture_weight=-1)
    assert both.terms() == [Term.text("a cat", 0.5), Term.image("cat", -1)]
    assert dataclasses.replace(both, text_weight=0).terms() == [Term.image("cat", -1)]
    assert dataclasses.replace(both, text_weight=0, picture_weight=0).terms() == []


def test_only_what_browsers_have_sent_is_read(tmp_path):
    folder, elsewhere = tmp_path / "sent", tmp_path / "secret.png"
    folder.mkdir()
    elsewhere.write_bytes(b"secret")
    (folder / "link.png").symlink_to(elsewhere)
    (folder / "cat.png").write_bytes(b"cat")
    with Client("127.0.0.1:1") as client:
        actions = Actions(client, ENGLISH, folder)
        assert actions.sent(str(folder / "cat.png"), "my cat.png").name == "my cat.png"
        for path in (elsewhere, folder / ".." / "secret.png", folder / "link.png", folder, folder / "no.png", "", None):
            with pytest.raises(FileNotFoundError):
                actions.sent(path, "cat.png")


def test_no_failure_is_left_out_without_a_word():
    failures = [(f"{number}.png", "broken") for number in range(103)]
    shown = markup.stored({}, failures, "", ENGLISH)
    assert shown.count("broken") == 100
    assert ENGLISH.more_failures.format(count=3) in shown


@pytest.mark.parametrize("words", LANGUAGES, ids=lambda words: words.language)
def test_what_comes_from_outside_is_escaped(words):
    evil = '<img src=x onerror="alert(1)">'
    shown = [
        markup.query_picture(QueryPicture(evil, path=Path(f"/tmp/{evil}")), words),
        markup.query_picture(QueryPicture(evil, image_id="a"), words),
        markup.note(evil),
        markup.problem(evil, evil),
        markup.stored({"created": 1}, [(evil, evil)], "", words),
    ]
    for html in shown:
        assert "&lt;img src=x" in html
        assert evil not in html


def test_errors_get_words_and_the_servers_own_after_them():
    bad = InvalidArgumentError("at 7: a value is missing", reason="INVALID_FILTER", field="options.filter")
    assert explain(bad, ENGLISH, "pets") == (ENGLISH.bad_filter, "at 7: a value is missing")
    assert explain(OverloadedError("full", retry_after=2.5), ENGLISH, "pets")[0] == ENGLISH.busy.format(seconds="2.5")
    large = InvalidArgumentError("the request has 99 bytes", code=StatusCode.RESOURCE_EXHAUSTED)
    assert explain(large, ENGLISH, "pets") == (ENGLISH.bad_picture, "the request has 99 bytes")
    ours, theirs = explain(InternalError("a bug", request_id="r-1"), CHINESE, "pets")
    assert ours == CHINESE.failed
    assert re.search(r"a bug.*r-1", theirs)
