"""The page in one language: what is where, and which action follows which click.

What a session remembers is in ``gr.State``; nothing of it is in this module.
"""

from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from typing import Any

import gradio as gr

from clipseek.ui import markup
from clipseek.ui.actions import Actions
from clipseek.ui.problems import EXPECTED
from clipseek.ui.query import Query, QueryPicture
from clipseek.ui.questions import Questions
from clipseek.ui.uploads import KEPT_SECONDS, Sent

_TOP_K = 12
_LARGEST_TOP_K = 60
"""Until the server has said what it gives."""

_AGAIN_SECONDS = 3
"""Between looks for a server that was away when the page was opened."""

_ANY_SCORE = -1
"""No cosine is lower."""


def build(actions: Actions, collection: str) -> gr.Blocks:
    """The page in the language of its actions; ``collection`` is the one to begin with, or empty."""
    words = actions.words
    first = collection or "default"
    # What a click does is no API to be listed and called by programs.
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    # What is asked while the last question is still worked on is asked after it, once, by what the fields hold then.
    latest = {**private, "trigger_mode": "always_last"}
    # What is about a certain picture is asked at once: Gradio would ask about the picture of the first click again.
    each = {**private, "trigger_mode": "multiple"}
    question, look = Questions().listener, Questions().listener

    page = gr.Blocks(title="clipseek", analytics_enabled=False, delete_cache=(3600, KEPT_SECONDS))
    with page:
        shown = gr.State(None)  # the last query: what is in sight may still be the answer to one before
        picture = gr.State(None)
        removed = gr.State("")  # what the last deletion came to
        reached = gr.State(False)  # whether the server has answered
        again = gr.Timer(_AGAIN_SECONDS, active=False)  # runs until it has

        with gr.Row(elem_id="top"):
            gr.HTML(f"<h1>clipseek</h1><p>{markup.text(words.tagline)}</p>", elem_id="brand", apply_default_css=False)
            name = gr.Dropdown(
                label=words.collection,
                info=words.collection_hint,
                choices=[first],
                value=first,
                allow_custom_value=True,
                elem_id="collection",
                min_width=280,
                scale=0,
            )
        header = gr.HTML(elem_id="server", apply_default_css=False)

        with gr.Tabs(elem_id="tabs"):
            with gr.Tab(words.tab_search):
                with gr.Row(elem_id="query"):
                    sentence = gr.Textbox(
                        label=words.sentence,
                        placeholder=words.sentence_hint,
                        max_lines=1,
                        scale=4,
                        min_width=260,
                        elem_id="sentence",
                        autofocus=True,
                    )
                    slot = gr.HTML(
                        markup.query_picture(None, words),
                        elem_id="picture",
                        js_on_load=_script("files.js") + _script("picture.js"),
                        apply_default_css=False,
                        min_width=240,
                        scale=2,
                    )
                    go = gr.Button(words.search, variant="primary", scale=1, min_width=110, elem_id="search")
                with gr.Accordion(words.options, open=False, elem_id="options"):
                    with gr.Row():
                        top_k = gr.Slider(
                            1, _LARGEST_TOP_K, _TOP_K, step=1, label=words.top_k, info=words.top_k_hint, min_width=240
                        )
                        min_score = gr.Slider(
                            _ANY_SCORE,
                            1,
                            _ANY_SCORE,
                            step=0.01,
                            label=words.min_score,
                            info=words.min_score_hint,
                            min_width=240,
                        )
                        where = gr.Textbox(
                            label=words.filter, info=words.filter_hint, max_lines=1, min_width=240, elem_id="filter"
                        )
                    with gr.Row():
                        text_weight = gr.Slider(
                            -1, 1, 1, step=0.05, label=words.text_weight, info=words.weight_hint, min_width=240
                        )
                        picture_weight = gr.Slider(
                            -1, 1, 1, step=0.05, label=words.picture_weight, info=words.weight_hint, min_width=240
                        )
                status = gr.HTML(
                    elem_id="status",
                    html_template='<div role="status">${value}</div>',
                    js_on_load=_script("status.js"),
                    apply_default_css=False,
                )
                gallery = gr.HTML(elem_id="gallery", js_on_load=_script("gallery.js"), apply_default_css=False)
            with gr.Tab(words.tab_add):
                files = gr.HTML(
                    markup.files(words),
                    elem_id="files",
                    js_on_load=_script("files.js") + _script("add.js"),
                    apply_default_css=False,
                )
                gr.HTML(markup.note(words.add_hint), apply_default_css=False)
                outcome = gr.HTML(
                    elem_id="outcome",
                    html_template='<div role="status">${value}</div>',
                    js_on_load=_script("outcome.js"),
                    apply_default_css=False,
                )
        details = gr.HTML(elem_id="details", js_on_load=_script("details.js"), apply_default_css=False)

        asked = [sentence, picture, text_weight, picture_weight, name, top_k, min_score, where]
        found = [shown, status, gallery]

        def answer(query: Query, *before: object, line: str = "") -> Iterator[tuple[object, ...]]:
            """What goes before the answer, at once; the answer, below the line that is given, when it is there."""
            yield *before, query, line + markup.searching(words), gr.skip()
            status, pictures = actions.search(query)
            yield *(gr.skip() for _ in before), query, line + status, pictures

        def search(_: gr.EventData, *given: Any) -> Iterator[tuple[object, ...]]:
            yield from answer(_query(*given))

        def attach(event: gr.EventData, *given: Any) -> Iterator[tuple[object, ...]]:
            query = _query(*given)
            try:
                chosen = actions.keep(Sent.of(event.path, event.name))
            except EXPECTED as error:
                yield *[gr.skip()] * 3, actions.problem(error, query.collection), gr.skip()
                return
            yield from answer(replace(query, picture=chosen), chosen, markup.query_picture(chosen, words))

        def detach(_: gr.EventData, *given: Any) -> Iterator[tuple[object, ...]]:
            yield from answer(replace(_query(*given), picture=None), None, markup.query_picture(None, words))

        def more(event: gr.EventData, *given: Any) -> Iterator[tuple[object, ...]]:
            try:
                chosen = actions.stored(event.id, event.collection)
            except EXPECTED as error:
                yield *[gr.skip()] * 5, actions.problem(error, event.collection), gr.skip()
                return
            query = replace(_query(*given), text="", picture=chosen, collection=event.collection)
            yield from answer(query, "", chosen, markup.query_picture(chosen, words), event.collection)

        def ask_other_collection(_: gr.EventData, *given: Any) -> Iterator[tuple[object, ...]]:
            # A stored picture belongs to the collection that it was found in.
            chosen = given[1] if given[1] and given[1].path else None
            yield from answer(replace(_query(*given), picture=chosen), chosen, markup.query_picture(chosen, words))

        def other_collection(request: gr.Request, event: gr.EventData, was: Query | None, *given: Any) -> Iterator[Any]:
            # To Gradio leaving the field is an input too, even if nothing was changed there. As a question it would
            # drop a stored picture, and take the place of what was asked meanwhile.
            same = was is not None and was.collection == _query(*given).collection
            yield from [[gr.skip()] * 5] if same else question(ask_other_collection)(request, event, *given)

        def show(event: gr.EventData) -> Iterator[tuple[object, object]]:
            try:
                yield actions.show(event.id, event.collection), gr.skip()
            except EXPECTED as error:
                yield gr.skip(), actions.problem(error, event.collection)

        def remove(event: gr.EventData, chosen: QueryPicture | None) -> tuple[object, ...]:
            line = actions.remove(event.id, event.name, event.collection)
            if chosen and (chosen.image_id, chosen.collection) == (event.id, event.collection):
                return line, None, markup.query_picture(None, words), line
            return line, gr.skip(), gr.skip(), line

        def search_again(
            _: gr.EventData, line: str, chosen: QueryPicture | None, query: Query
        ) -> Iterator[tuple[object, ...]]:
            yield from answer(replace(query, picture=chosen), line=line)

        def store(event: gr.EventData, collection: str) -> Iterator[tuple[object, object]]:
            # It takes no more until these are stored, and says so.
            area: object = markup.files(words, busy=True)
            try:
                pictures = [Sent.of(file["path"], file["name"]) for file in event.files]
                for line in actions.store(pictures, _name(collection)):
                    yield area, line
                    area = gr.skip()
            except Exception as bug:
                # Without the chooser nothing could be added until the page is loaded again. Not "finally", which would
                # also yield where nobody is left to take it.
                yield markup.files(words), actions.problem(bug, collection)
                raise
            yield markup.files(words), gr.skip()

        def open_page(chosen: str | None, count: float) -> tuple[object, ...]:
            """What the server says of itself; what the fields ask for, if it answers, comes after it."""
            # What somebody has chosen while the server was away stays as it is.
            current = _name(chosen)
            try:
                collections = actions.collections()
                if current == first and not collection and first not in collections:
                    current = next(iter(collections), first)
                about, limits = actions.about(current)
            except EXPECTED as error:
                return actions.away(error), gr.skip(), gr.skip(), False, gr.Timer(active=True)
            choices, largest = sorted({*collections, current}), limits.max_top_k_with_mask
            chooser = gr.Dropdown(choices=choices) if current == chosen else gr.Dropdown(choices=choices, value=current)
            slider = gr.Slider(maximum=largest) if count <= largest else gr.Slider(maximum=largest, value=largest)
            return about, chooser, slider, True, gr.Timer(active=False)

        def describe(current: str | None) -> object:
            try:
                return actions.about(_name(current))[0]
            except EXPECTED:
                return gr.skip()  # the answer that comes with it says it

        def search_if_reached(request: gr.Request, event: gr.EventData, is_reached: bool, *given: Any) -> Iterator[Any]:
            # Until then what somebody has asked, and the error that came of it, stays in sight.
            yield from question(search)(request, event, *given) if is_reached else [gr.skip()]

        def refresh(current: str) -> object:
            try:
                return gr.Dropdown(choices=sorted({*actions.collections(), current}))
            except EXPECTED:
                return gr.skip()  # what follows will say it

        gr.on([page.load, again.tick], open_page, [name, top_k], [header, name, top_k, reached, again], **private).then(
            search_if_reached, [reached, *asked], found, **private
        )
        gr.on([sentence.submit, where.submit, go.click], question(search), asked, found, **latest)
        # Not through the queue: of two events that are asked of it at once, as here, Gradio has lost answers.
        name.change(describe, [name], [header], queue=False, **latest)
        name.input(other_collection, [shown, *asked], [picture, slot, *found], **latest)
        slot.attach(question(attach), asked, [picture, slot, *found], **each)
        slot.detach(question(detach), asked, [picture, slot, *found], **each)
        for place in (gallery, details):
            place.more(question(more), asked, [sentence, picture, slot, name, *found], **each)
        gallery.show(look(show), None, [details, status], **each)
        # A question that has only just been asked is asked of the server after the deletion.
        details.remove(remove, [picture], [removed, picture, slot, status], **each).then(
            question(search_again, gives_way=True), [removed, picture, shown], found, **latest
        )
        files.arrive(store, [name], [files, outcome], **private).then(refresh, [name], [name], **latest).then(
            question(search), asked, found, **latest
        )

    page.queue(default_concurrency_limit=None)
    return page


def _query(
    text: str | None,
    picture: QueryPicture | None,
    text_weight: float,
    picture_weight: float,
    collection: str | None,
    top_k: float,
    min_score: float,
    where: str | None,
) -> Query:
    """What the fields of the page hold; Gradio has ``None`` for those that were never touched."""
    text, where = (text or "").strip(), (where or "").strip()
    least = min_score if min_score > _ANY_SCORE else None
    return Query(text, picture, text_weight, picture_weight, _name(collection), int(top_k), least, where)


def _name(collection: str | None) -> str:
    return (collection or "").strip() or "default"


def _script(name: str) -> str:
    return resources.files("clipseek.ui").joinpath(name).read_text(encoding="utf-8")
