"""One mechanism for everything that is cheaper together: model runs, reads by id, writes, searches.

A ``Batcher`` takes single items, and whenever its runner is free it hands it all that waits, up to ``max_batch``
(greedy: no timer). The queue is bounded, interactive items go before bulk ones, and bulk still gets at least one batch
in eight. An item whose caller has gone or whose deadline has passed is dropped before it is run.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from clipseek_server.errors import ClipseekError, NotServing, Overloaded
from clipseek_server.telemetry import Call, Stage

Item = TypeVar("Item")
Result = TypeVar("Result")

BULK_TURN = 8
"""At least one batch in this many goes to bulk when bulk waits."""


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    call: Call
    future: "asyncio.Future[Result]"
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[Item, Result]):
    """Runs items in batches, one batch at a time unless told otherwise.

    ``run`` gets the items of one batch, in the order in which they came within their class, and returns as many results
    in the same order. A result that is an exception fails its item alone; an exception raised fails the batch.

    Args:
        name: For messages: what is full.
        run: Runs one batch. It must not block the event loop.
        max_batch: Most items in a batch.
        max_queue: Most interactive items that wait; one more is ``Overloaded``. Bulk is bounded by what lets it in: a
            stream stops reading while its window is full.
        stage: The stage that the run counts as; waiting always counts as ``Stage.QUEUE``.
        workers: Most batches that run at a time.
        may_join: Whether an item may join a batch that already holds these; by default it always may. One that may not
            is first in the next batch.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        max_batch: int,
        max_queue: int,
        stage: Stage,
        workers: int = 1,
        may_join: Callable[[Sequence[Item], Item], bool] | None = None,
    ) -> None:
        self._name = name
        self._run = run
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._stage = stage
        self._may_join = may_join
        self._interactive: deque[_Waiting[Item, Result]] = deque()
        self._bulk: deque[_Waiting[Item, Result]] = deque()
        self._batches_since_bulk = 0
        self._max_workers = workers
        self._workers: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many items wait, of both classes."""
        return len(self._interactive) + len(self._bulk)

    async def submit(self, item: Item, call: Call) -> Result:
        """Wait for the item's result.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: The call's deadline passed before the item was run.
            NotServing: The batcher is closed.
        """
        if self._closed:
            raise NotServing("the server is shutting down; retry elsewhere or later")
        call.check_deadline()
        if not call.bulk and len(self._interactive) >= self._max_queue:
            self._drop_dead()
            if len(self._interactive) >= self._max_queue:
                raise Overloaded(f"the {self._name} queue is full ({self._max_queue} wait); retry later")
        waiting = _Waiting[Item, Result](item, call, asyncio.get_running_loop().create_future())
        (self._bulk if call.bulk else self._interactive).append(waiting)
        self._workers = {worker for worker in self._workers if not worker.done()}
        if len(self._workers) < self._max_workers:
            self._workers.add(asyncio.create_task(self._work(), name=f"batcher-{self._name}"))
        return await waiting.future

    async def close(self) -> None:
        """Take nothing new, finish what waits, and return when it is done."""
        self._closed = True
        if self._workers:
            await asyncio.wait(self._workers)

    def _drop_dead(self) -> None:
        alive = [waiting for waiting in self._interactive if self._is_alive(waiting)]
        self._interactive.clear()
        self._interactive.extend(alive)

    @staticmethod
    def _is_alive(waiting: _Waiting[Item, Result]) -> bool:
        if waiting.future.done():
            return False
        try:
            waiting.call.check_deadline()
        except ClipseekError as error:
            waiting.future.set_exception(error)
            return False
        return True

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        # One class a batch: an interactive item would pay for the bulk items beside it.
        bulk_turn = not self._interactive or self._batches_since_bulk >= BULK_TURN - 1
        queues = (self._bulk, self._interactive) if bulk_turn else (self._interactive, self._bulk)
        for queue in queues:
            if batch := self._take(queue):
                self._batches_since_bulk = 0 if queue is self._bulk else self._batches_since_bulk + bool(self._bulk)
                return batch
        return []

    def _take(self, queue: "deque[_Waiting[Item, Result]]") -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        items: list[Item] = []
        while queue and len(batch) < self._max_batch:
            if not self._is_alive(queue[0]):
                queue.popleft()
                continue
            if items and self._may_join is not None and not self._may_join(items, queue[0].item):
                break
            batch.append(queue.popleft())
            items.append(batch[-1].item)
        return batch

    async def _work(self) -> None:
        while batch := self._next_batch():
            begin = time.monotonic()
            for waiting in batch:
                waiting.call.spent(Stage.QUEUE, begin - waiting.since)
            try:
                results = await self._run([waiting.item for waiting in batch])
                if len(results) != len(batch):
                    raise RuntimeError(f"{self._name}: {len(batch)} items gave {len(results)} results")
            except Exception as error:
                results = [error] * len(batch)
            seconds = time.monotonic() - begin
            for waiting, result in zip(batch, results, strict=True):
                waiting.call.spent(self._stage, seconds)
                if waiting.future.done():
                    continue
                if isinstance(result, Exception):
                    waiting.future.set_exception(result)
                else:
                    waiting.future.set_result(result)
