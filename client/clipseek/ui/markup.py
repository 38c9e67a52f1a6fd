"""The HTML that the page shows. Everything from outside is escaped; the look is in ``style.css``."""

import html
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from urllib.parse import urlencode

from clipseek.pictures import SHOWN_BY_BROWSERS, data_uri
from clipseek.results import Hit, Image, Json, Model, ServerInfo
from clipseek.ui.query import QueryPicture
from clipseek.ui.words import Words

_LISTED_FAILURES = 100

text = html.escape


def name(image: Image) -> str:
    """What to call a picture: its file's name, or else its id."""
    return str(image.metadata.get("file") or image.image_id)


def header(info: ServerInfo, model: Model | None, words: Words) -> str:
    """The model that searches, if the server has it, and what the server takes."""
    limits = info.limits
    values = vars(limits) | ({"context_length": model.context_length} if model else {})
    rows = _facts((label, f"{values[key]:,}") for key, label in words.limit_names.items() if key in values)
    summary = words.limits_line.format(
        formats=", ".join(media_type.removeprefix("image/").upper() for media_type in info.media_types),
        megabytes=_millions(limits.max_image_bytes),
        megapixels=_millions(limits.max_image_pixels),
    )
    return (
        f'<div class="model">{_model(model, words)}</div>'
        f'<details class="limits"><summary>{text(summary)} <span>{text(words.limits_more)}</span></summary>{rows}'
        "</details>"
    )


def _model(model: Model | None, words: Words) -> str:
    if model is None:
        return f"<p>{text(words.other_model)}</p>"
    line = words.model_line.format(dimension=model.dimension, precision=model.precision)
    description = f'<p class="description">{text(model.description)}</p>' if model.description else ""
    return f"<p><strong>{text(model.name)}</strong> <span>{text(line)}</span></p>{description}"


def header_without_server(words: Words, problem: str) -> str:
    """The same where no server answers."""
    return f'<div class="model"><p>{text(words.not_reached)}</p></div>{problem}'


def note(*lines: str) -> str:
    """What happened, a line each."""
    return "".join(f'<p class="note">{text(line)}</p>' for line in lines)


def searching(words: Words) -> str:
    """While an answer is waited for; in sight only if that takes long enough to be seen."""
    return f'<p class="note searching">{text(words.searching)}</p>'


def problem(ours: str, theirs: str = "") -> str:
    """What went wrong: our words, and below them the server's."""
    cause = f'<br><span lang="en">{text(theirs)}</span>' if theirs else ""
    return f'<p class="problem" role="alert"><strong>{text(ours)}</strong>{cause}</p>'


def hits(found: Sequence[Hit], words: Words) -> str:
    """What a search found, best first."""
    cards = "".join(
        _card(
            hit.image,
            words,
            f'<span class="rank" title="{text(words.rank.format(rank=rank))}">{rank}</span>',
            f'<p class="score" title="{text(words.score)}">'
            f'<meter min="0" max="1" value="{max(hit.score, 0.0):.4f}" aria-label="{text(words.score)}"></meter>'
            f"<span>{hit.score:.3f}</span></p>",
        )
        for rank, hit in enumerate(found, 1)
    )
    return f'<ol class="cards">{cards}</ol>'


def images(listed: Sequence[Image], words: Words) -> str:
    """Pictures that nothing was asked about."""
    return f'<ol class="cards">{"".join(_card(image, words) for image in listed)}</ol>'


def _card(image: Image, words: Words, rank: str = "", score: str = "") -> str:
    called, image_id, collection = text(name(image)), text(image.image_id), text(image.collection)
    show = text(words.show.format(name=name(image)))
    more = text(words.more_of.format(name=name(image)))
    thumbnail = f'<img src="{data_uri(image.thumbnail)}" alt="{called}">' if image.thumbnail else called
    return (
        f'<li data-collection="{collection}">'
        f'<button type="button" class="picture" data-show="{image_id}" aria-label="{show}">{thumbnail}</button>'
        f'{rank}<div class="below">{score}<p class="name" title="{called}">{called}</p>'
        f'<button type="button" class="more" data-more="{image_id}" aria-label="{more}">{text(words.more)}</button>'
        "</div></li>"
    )


def query_picture(picture: QueryPicture | None, words: Words) -> str:
    """The picture to search with, or the place to drop one."""
    if picture is None:
        return (
            f'<label class="drop"><input type="file" accept="image/*"><strong>{text(words.drop)}</strong> '
            f"<span>{text(words.drop_hint)}</span></label>"
        )
    if picture.path is None:
        shown = f'<img src="{data_uri(picture.thumbnail)}" alt="">' if picture.thumbnail else ""
    else:
        # Gradio serves what was sent to it.
        shown = f'<img src="gradio_api/file={text(str(picture.path))}" alt="">'
    return (
        f'<div class="chosen" title="{text(words.query_picture)}">{shown}<span>{text(picture.name)}</span>'
        f'<button type="button" data-detach aria-label="{text(words.detach)}" title="{text(words.detach)}">✕</button>'
        "</div>"
    )


def files(words: Words, *, busy: bool = False) -> str:
    """The place to drop pictures to add; while others are stored it takes none."""
    sending, lost, drop = text(note(words.sending)), text(problem(words.none_arrived)), text(words.add_drop)
    later = text(words.add_later)
    chooser = "" if busy else '<input type="file" multiple>'
    return (
        f'<label class="drop" data-sending="{sending}" data-lost="{lost}" data-drop="{drop}" data-later="{later}">'
        f"{chooser}<strong>{text(words.add)}</strong> <span>{later if busy else drop}</span></label>"
    )


def details(image: Image, words: Words) -> str:
    """A dialog with the picture itself, its record, and what can be done with it."""
    called, image_id = name(image), text(image.image_id)
    where = "original?" + urlencode({"collection": image.collection, "id": image.image_id})
    shown = (
        f'<img src="{text(where)}" alt="{text(words.original_of.format(name=called))}" '
        f'width="{image.width}" height="{image.height}">'
        if image.media_type in SHOWN_BY_BROWSERS
        else ""
    )
    facts = [
        (words.size, f"{image.width} x {image.height}, {image.size_bytes:,} B"),
        (words.media_type, image.media_type),
        (words.created, _time(image.created)),
        (words.updated, _time(image.updated)),
        (words.image_id, image.image_id),
    ]
    if image.content_sha256 != image.image_id:
        facts.append((words.sha256, image.content_sha256))
    metadata = [(key, _json(value)) for key, value in image.metadata.items()]
    attached = _facts(metadata) if metadata else f'<p class="note">{text(words.no_metadata)}</p>'
    sure = text(words.delete_sure.format(collection=image.collection))
    # Opened again it must differ, or the browser would not be told.
    return (
        f'<dialog class="details" aria-labelledby="details-name" data-collection="{text(image.collection)}" '
        f'data-opened="{time.monotonic_ns()}"><div>'
        f'<header><h2 id="details-name">{text(called)}</h2>'
        f'<button type="button" data-close aria-label="{text(words.close)}" title="{text(words.close)}">✕</button>'
        f'</header><figure class="{"" if shown else "unshowable"}">{shown}'
        f"<figcaption>{text(words.unshowable)}</figcaption></figure>"
        f'<div class="buttons"><button type="button" class="strong" data-more="{image_id}">{text(words.more)}</button>'
        f'<a href="{text(where)}" download="{text(called)}">{text(words.download)}</a>'
        f'<button type="button" class="danger" data-ask>{text(words.delete)}</button></div>'
        f'<div class="sure" role="alert" hidden><p>{sure}</p><div class="buttons">'
        f'<button type="button" class="danger strong" data-delete="{image_id}" data-name="{text(called)}">'
        f"{text(words.delete_yes)}</button>"
        f'<button type="button" data-keep>{text(words.delete_no)}</button></div></div>'
        f"{_facts(facts)}<h3>{text(words.metadata)}</h3>{attached}</div></dialog>"
    )


def storing(done: int, total: int, words: Words) -> str:
    """How far an import is."""
    line = text(words.storing.format(done=done, total=total))
    return f'<p class="note">{line}</p><progress max="{total}" value="{done}" aria-label="{line}"></progress>'


def stored(outcomes: Mapping[str, int], failures: Sequence[tuple[str, str]], stopped: str, words: Words) -> str:
    """What became of an import; ``stopped`` is the problem that ended it early, as HTML."""
    counts = [words.outcomes[outcome].format(count=count) for outcome, count in outcomes.items() if count]
    parts = [f'<p class="note">{text(words.stored.format(counts=", ".join(counts)))}</p>'] if counts else []
    if stopped:
        parts += [stopped] + [f'<p class="note">{text(words.stopped)}</p>'] * bool(counts)
    if failures:
        rows = _facts(failures[:_LISTED_FAILURES])
        if more := len(failures[_LISTED_FAILURES:]):
            rows += f"<p>{text(words.more_failures.format(count=more))}</p>"
        line = text(words.failures.format(count=len(failures)))
        parts.append(f'<div class="problem" role="alert"><strong>{line}</strong>{rows}</div>')
    return "".join(parts)


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{text(key)}</dt><dd>{text(value)}</dd>" for key, value in facts)
    return f"<dl>{rows}</dl>"


def _json(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _time(value: datetime) -> str:
    return value.strftime("%Y-%m-%d %H:%M:%S UTC")


def _millions(value: int) -> str:
    """Rounded down, so that nothing is promised that is refused."""
    return f"{value // 100_000 / 10:g}"
