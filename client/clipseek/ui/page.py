"""The page in one language: what is where, and which action follows which click.

What a session remembers is in ``gr.State``; nothing of it is in this module.
"""

from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from typing import Any

import gradio as gr

from clipseek.ui import markup
from clipseek.ui.actions import KEPT_SECONDS, Actions
from clipseek.ui.problems import EXPECTED
from clipseek.ui.query import Query, QueryPicture

_TOP_K = 12
_LARGEST_TOP_K = 60
"""Until the server has said what it gives."""

_ANY_SCORE = -1
"""No cosine is lower."""


def build(actions: Actions, collection: str) -> gr.Blocks:
    """The page in the language of its actions; ``collection`` is the one to begin with, or empty."""
    words = actions.words
    # What a click does is no API to be listed and called by programs.
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    # What is clicked while the last click is still worked on is done after it.
    latest = {**private, "trigger_mode": "always_last"}

    page = gr.Blocks(title="clipseek", analytics_enabled=False, delete_cache=(3600, KEPT_SECONDS))
    with page:
        shown = gr.State(None)  # the query that the gallery answers
        picture = gr.State(None)
        reached = gr.State(False)  # whether the server answered when the page was opened

        with gr.Row(elem_id="top"):
            gr.HTML(f"<h1>clipseek</h1><p>{markup.text(words.tagline)}</p>", elem_id="brand", apply_default_css=False)
            name = gr.Dropdown(
                label=words.collection,
                info=words.collection_hint,
                choices=[collection or "default"],
                value=collection or "default",
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
                        js_on_load=_script("picture.js"),
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
                files = gr.File(label=words.add, file_count="multiple", elem_id="files", height=220)
                gr.HTML(markup.note(words.add_hint), apply_default_css=False)
                outcome = gr.HTML(
                    elem_id="outcome", html_template='<div role="status">${value}</div>', apply_default_css=False
                )
        details = gr.HTML(elem_id="details", js_on_load=_script("details.js"), apply_default_css=False)

        asked = [sentence, picture, text_weight, picture_weight, name, top_k, min_score, where]
        found = [shown, status, gallery]

        def answer(query: Query) -> tuple[Query, str, str]:
            return query, *actions.search(query)

        def search(*given: Any) -> tuple[Query, str, str]:
            return answer(_query(*given))

        def attach(event: gr.EventData, *given: Any) -> tuple[object, ...]:
            query = _query(*given)
            try:
                chosen = actions.keep(actions.sent(event.path, event.name))
            except EXPECTED as error:
                return given[1], gr.skip(), query, actions.problem(error, query.collection), ""
            return chosen, markup.query_picture(chosen, words), *answer(replace(query, picture=chosen))

        def detach(*given: Any) -> tuple[object, ...]:
            return None, markup.query_picture(None, words), *answer(replace(_query(*given), picture=None))

        def more(event: gr.EventData, *given: Any) -> tuple[object, ...]:
            query = _query(*given)
            try:
                chosen = actions.stored(event.id, query.collection)
            except EXPECTED as error:
                return given[0], given[1], gr.skip(), query, actions.problem(error, query.collection), gr.skip()
            query = replace(query, text="", picture=chosen)
            return "", chosen, markup.query_picture(chosen, words), *answer(query)

        def other_collection(*given: Any) -> tuple[object, ...]:
            # A stored picture belongs to the collection that it was found in.
            chosen = given[1] if given[1] and given[1].path else None
            return chosen, markup.query_picture(chosen, words), *answer(replace(_query(*given), picture=chosen))

        def show(event: gr.EventData, query: Query) -> tuple[object, object]:
            try:
                return actions.show(event.id, query.collection), gr.skip()
            except EXPECTED as error:
                return gr.skip(), actions.problem(error, query.collection)

        def remove(event: gr.EventData, chosen: QueryPicture | None, query: Query) -> tuple[object, ...]:
            line = actions.remove(event.id, event.name, query.collection)
            if chosen and chosen.image_id == event.id:
                chosen = None
                query = replace(query, picture=None)
            query, after, pictures = answer(query)
            return chosen, markup.query_picture(chosen, words), query, line + after, pictures

        def store(sent: list[dict[str, Any]] | None, collection: str) -> Iterator[tuple[object, object]]:
            if not sent:
                return
            try:
                pictures = [actions.sent(file["path"], file["orig_name"]) for file in sent]
            except EXPECTED as error:
                yield gr.skip(), actions.problem(error, collection)
                return
            # Files that are chosen meanwhile would be dropped without a word.
            busy: object = gr.File(interactive=False)
            for line in actions.store(pictures, _name(collection)):
                yield busy, line
                busy = gr.skip()
            yield gr.File(value=None, interactive=True), gr.skip()

        def open_page() -> tuple[object, ...]:
            """What the server says of itself; what the fields ask for, if it answers, comes after it."""
            overview = actions.overview()
            begin = collection or ("default" if "default" in overview.collections else "")
            begin = begin or next(iter(overview.collections), "default")
            largest = overview.limits.max_top_k_with_mask if overview.limits else _LARGEST_TOP_K
            chooser = gr.Dropdown(choices=sorted({*overview.collections, begin}), value=begin)
            slider = gr.Slider(maximum=largest, value=min(_TOP_K, largest))
            return overview.header, chooser, slider, overview.limits is not None

        def search_if_reached(is_reached: bool, *given: Any) -> tuple[object, ...]:
            return search(*given) if is_reached else (None, "", "")

        def refresh(current: str) -> object:
            try:
                return gr.Dropdown(choices=sorted({*actions.collections(), current}))
            except EXPECTED:
                return gr.skip()  # what follows will say it

        page.load(open_page, None, [header, name, top_k, reached], **private).then(
            search_if_reached, [reached, *asked], found, **private
        )
        gr.on([sentence.submit, where.submit, go.click], search, asked, found, **latest)
        name.input(other_collection, asked, [picture, slot, *found], **latest)
        slot.attach(attach, asked, [picture, slot, *found], **latest)
        slot.detach(detach, asked, [picture, slot, *found], **latest)
        for place in (gallery, details):
            place.more(more, asked, [sentence, picture, slot, *found], **latest)
        gallery.show(show, [shown], [details, status], **latest)
        details.remove(remove, [picture, shown], [picture, slot, *found], **private)
        # The raw files, because the pictures are to be called as the browser calls them; where they lie is checked.
        files.upload(store, [files, name], [files, outcome], preprocess=False, **private).then(
            refresh, [name], [name], **private
        ).then(search, asked, found, **private)

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
