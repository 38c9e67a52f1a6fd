"""Whose answer is shown: that to the latest question of a session."""

import threading
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, TypeVar

import gradio as gr

_Answer = TypeVar("_Answer")


class Questions:
    """Numbers the questions of each session, to drop the answers to all but its latest.

    The answer to a slow one would otherwise come last, and take the place of what was asked after it: Gradio keeps the
    order within one listener only.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._latest: dict[str, int] = {}  # of the sessions that wait for an answer
        self._lock = threading.Lock()

    def listener(self, answers: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """What Gradio is to call for a question: ``answers`` gets the event and the inputs, and yields the outputs."""

        def listen(request: gr.Request, event: gr.EventData, *inputs: Any) -> Iterator[Any]:
            yield from self.until_next(request.session_hash or "", answers(event, *inputs))
            # Gradio says at the end again what was said last, and empties the outputs if nothing was.
            yield gr.skip()

        return listen

    def until_next(self, session: str, answers: Iterator[_Answer]) -> Iterator[_Answer]:
        """The answers to a question that is asked with the first of them, until the session asks another one."""
        number = next(self._numbers)
        with self._lock:
            self._latest[session] = number
        try:
            for answer in answers:
                if self._latest.get(session) != number:
                    break
                yield answer
        finally:
            # A session is not remembered for longer. Older questions still miss their number.
            with self._lock:
                if self._latest.get(session) == number:
                    del self._latest[session]
