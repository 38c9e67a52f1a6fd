"""The page without a browser: its languages, its queries, and what it takes from outside."""

import dataclasses
import hashlib
import os
import re
import string
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc import StatusCode

from clipseek import Client, InternalError, InvalidArgumentError, OverloadedError, Term
from clipseek.ui import markup
from clipseek.ui.actions import Actions
from clipseek.ui.problems import explain
from clipseek.ui.query import Query, QueryPicture
from clipseek.ui.questions import Questions
from clipseek.ui.uploads import KEPT_SECONDS, Sent, Uploads
from clipseek.ui.words import CHINESE, ENGLISH, LANGUAGES, preferred
from small_server import SmallServer

STORED = QueryPicture("cat.jpg", image_id="cat", collection="pets")


@pytest.fixture
def client(server: SmallServer) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


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
        ("fr, zh ; q=0.5, en; q=0.4", CHINESE),
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


def upload(folder: Path, name: str, data: bytes) -> Sent:
    """As Gradio does it: one place for all who send the same."""
    place = folder / hashlib.sha256(data).hexdigest() / name
    place.parent.mkdir(parents=True, exist_ok=True)
    new = folder / "new"
    new.write_bytes(data)
    new.rename(place)
    return Sent.of(str(place), name)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_only_what_browsers_have_sent_is_read(tmp_path):
    folder, elsewhere = tmp_path / "sent", tmp_path / "secret.png"
    folder.mkdir()
    elsewhere.write_bytes(b"secret")
    (folder / "link.png").symlink_to(elsewhere)
    (folder / "cat.png").write_bytes(b"cat")
    uploads = Uploads(folder)
    with uploads.batch() as link:
        for take in (uploads.keep, link):
            assert take(Sent.of(folder / "cat.png", "my cat.png")).read_bytes() == b"cat"
            for path in (elsewhere, folder / ".." / "secret.png", folder / "link.png", folder, folder / "no", "", None):
                with pytest.raises(FileNotFoundError):
                    take(Sent.of(path, "cat.png"))
    assert elsewhere.read_bytes() == b"secret"
    assert Sent.of("/tmp/cat.png", None).name == "cat.png"


def test_browsers_that_add_the_same_file_do_not_take_it_from_each_other(client, server, tmp_path):
    actions = Actions(client, ENGLISH, tmp_path)
    slow, quick = (actions.store([upload(tmp_path, "cat.png", b"cat")], "pets") for _ in range(2))
    next(slow)
    next(quick)
    late = upload(tmp_path, "cat.png", b"cat")
    for storing in (quick, slow, actions.store([late], "pets")):
        assert list(storing)[-1] == markup.stored({"created": 1}, [], "", ENGLISH)
    assert [data for _, data in server.images.values()] == [b"cat"]
    assert files(tmp_path) == []


def test_a_file_that_is_gone_is_refused_alone(client, server, tmp_path):
    actions = Actions(client, ENGLISH, tmp_path)
    gone, *there = (upload(tmp_path, name, name.encode()) for name in ("gone.png", "one.png", "two.png"))
    Path(gone.path).unlink()
    failures = [("gone.png", ENGLISH.picture_lost)]
    assert list(actions.store([gone, *there], "pets")) == [
        *(markup.storing(done, 3, ENGLISH) for done in (1, 2, 3)),
        markup.stored({"created": 2}, failures, "", ENGLISH),
    ]
    assert sorted(data for _, data in server.images.values()) == [b"one.png", b"two.png"]
    assert files(tmp_path) == []


def test_files_of_one_name_and_one_file_twice_are_stored(client, server, tmp_path):
    actions = Actions(client, ENGLISH, tmp_path)
    sent = [upload(tmp_path, "cat.png", data) for data in (b"one", b"other", b"one")]
    assert list(actions.store(sent, "pets"))[-1] == markup.stored({"created": 3}, [], "", ENGLISH)
    assert sorted(data for _, data in server.images.values()) == [b"one", b"other"]
    assert files(tmp_path) == []


def test_what_was_sent_is_removed_when_nobody_waits_for_the_end(client, tmp_path):
    storing = Actions(client, ENGLISH, tmp_path).store([upload(tmp_path, "cat.png", b"cat")], "pets")
    next(storing)
    storing.close()
    assert files(tmp_path) == []


def test_a_picture_to_search_with_is_kept_for_a_day(client, tmp_path):
    actions = Actions(client, ENGLISH, tmp_path)
    old, cat = (actions.keep(upload(tmp_path, name, name.encode())).path for name in ("old.png", "cat.png"))
    list(actions.store([upload(tmp_path, "cat.png", b"cat.png")], "pets"))
    assert cat.read_bytes() == b"cat.png"
    yesterday = time.time() - KEPT_SECONDS - 1
    os.utime(old.parent, (yesterday, yesterday))
    new = actions.keep(upload(tmp_path, "new.png", b"new"))
    assert not old.exists()
    assert cat.exists()
    assert new.path.read_bytes() == b"new"


def test_only_the_latest_question_of_a_session_is_answered():
    questions = Questions()
    slow, alone = (questions.until_next(session, iter(["searching", "found"])) for session in ("one", "two"))
    assert next(slow) == next(alone) == "searching"
    later = questions.until_next("one", iter(["searching", "found"]))
    assert list(later) == ["searching", "found"]
    assert list(slow) == []
    assert list(alone) == ["found"]


def test_a_question_gives_way_to_one_that_nothing_was_said_about_yet():
    questions = Questions()
    said = questions.until_next("one", iter(["searching", "found"]))

    def asked_meanwhile() -> Iterator[str]:
        assert list(questions.until_next("one", iter(["again"]), gives_way=True)) == []
        yield "searching"
        assert list(questions.until_next("one", iter(["again"]), gives_way=True)) == ["again"]
        yield "found"

    assert next(said) == "searching"
    assert list(questions.until_next("one", asked_meanwhile())) == ["searching"]
    assert list(said) == []
    assert list(questions.until_next("one", iter(["again"]), gives_way=True)) == ["again"]


def test_sessions_that_wait_for_nothing_are_not_remembered():
    questions = Questions()
    for number in range(3):
        assert list(questions.until_next(f"done {number}", iter("ab"))) == ["a", "b"]
        left = questions.until_next(f"left {number}", iter("ab"))
        assert next(left) == "a"
        left.close()
    assert "done" not in repr(vars(questions))
    assert "left" not in repr(vars(questions))


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
