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
        self._begun: set[int] = set()  # those of which an answer was taken
        self._lock = threading.Lock()

    def listener(
        self, answers: Callable[..., Iterator[Any]], *, gives_way: bool = False
    ) -> Callable[..., Iterator[Any]]:
        """What Gradio is to call for a question: ``answers`` gets the event and the inputs, and yields the outputs."""

        def listen(request: gr.Request, event: gr.EventData, *inputs: Any) -> Iterator[Any]:
            yield from self.until_next(request.session_hash or "", answers(event, *inputs), gives_way=gives_way)
            # Gradio says at the end again what was said last, and empties the outputs if nothing was.
            yield gr.skip()

        return listen

    def until_next(self, session: str, answers: Iterator[_Answer], *, gives_way: bool = False) -> Iterator[_Answer]:
        """The answers to a question that is asked with the first of them, until the session asks another one.

        One that ``gives_way`` has none while the latest question has not begun to be answered.
        """
        number = next(self._numbers)
        with self._lock:
            if gives_way and session in self._latest and self._latest[session] not in self._begun:
                return
            self._latest[session] = number
        try:
            for answer in answers:
                if self._latest.get(session) != number:
                    break
                yield answer
                # Gradio has kept it in the session before it asks for more.
                self._begun.add(number)
        finally:
            # A session is not remembered for longer. Older questions still miss their number.
            with self._lock:
                self._begun.discard(number)
                if self._latest.get(session) == number:
                    del self._latest[session]
