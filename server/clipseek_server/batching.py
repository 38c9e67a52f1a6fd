"""One mechanism for everything that is cheaper together: model runs, reads by id, writes, searches.

A ``Batcher`` takes single items, and whenever its runner is free it hands it all that waits, up to ``max_batch`` and up
to what fits in a bounded run time (greedy: no timer unless one is asked for). The queue is bounded, interactive items
go before bulk ones, and bulk still gets at least one batch in eight. An item whose caller has gone or whose deadline
has passed is dropped before it is run; one whose deadline cannot be met any more is refused when it comes, or makes
room for others when its batch would be done too late. So under overload nearly all that is run is in time, in batches
as large as ever, if runs of one size take about as long.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from clipseek_server import metrics, telemetry
from clipseek_server.errors import DeadlineExceeded, NotServing, Overloaded
from clipseek_server.telemetry import Call, Stage

Item = TypeVar("Item")
Result = TypeVar("Result")

BULK_TURN = 8
"""At least one batch in this many goes to bulk when bulk waits."""

_FORGETTING = 0.9
"""What each run leaves of the weight of all runs before it in the measured pace."""


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    call: Call
    future: "asyncio.Future[Result]"
    weight: float
    since: float

    @property
    def deadline(self) -> float:
        return math.inf if self.call.deadline is None else self.call.deadline

    def is_wanted(self, now: float) -> bool:
        """Whether somebody waits for it, and may get it in time."""
        return not self.future.done() and now < self.deadline


class _Pace:
    """Seconds that a unit of work takes, measured on the runs; the last ones count most."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._work = 0.0

    def learn(self, work: float, seconds: float) -> None:
        self._seconds = _FORGETTING * self._seconds + seconds
        self._work = _FORGETTING * self._work + work

    def seconds(self, work: float) -> float:
        """For so much work; 0 before the first run."""
        return work * self._seconds / self._work if self._work else 0.0


_REMEMBERED = 28
"""After so many runs of other sizes one is forgotten: what was once slow must not count for ever."""

_STALLED = 2.0
"""A run that takes so many times what those of its size took before has stalled, and says little of the next."""


@dataclass(slots=True)
class _Size:
    """Runs of about one size: their mean work and seconds, and which run was the last of them."""

    work: float
    seconds: float
    last: int


class _Runs:
    """What runs take by their size: seconds that each takes however small it is, and those of each unit of work.

    Both are by the smallest and the largest runs; sizes are told apart by powers of two.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}
        self._count = 0

    def learn(self, work: float, seconds: float) -> None:
        self._count += 1
        key = math.frexp(work)[1]
        known = self._sizes.pop(key, None)
        # Where one takes as much less, those before had stalled: they say nothing any more.
        if known and seconds > known.seconds / _STALLED:
            seconds = _FORGETTING * known.seconds + (1 - _FORGETTING) * min(seconds, _STALLED * known.seconds)
            work = _FORGETTING * known.work + (1 - _FORGETTING) * work
        for other in [other for other, size in self._sizes.items() if self._count - size.last > _REMEMBERED]:
            del self._sizes[other]
        self._sizes[key] = _Size(work, seconds, self._count)

    def seconds(self, work: float, runs: float) -> float:
        """For so much work in so many runs, rounded up; 0 before the first run.

        As long as all runs were of one size, a larger one is taken to take no longer, and a smaller one so much less.
        """
        if not self._sizes:
            return 0.0
        runs = math.ceil(runs)
        small, large = self._sizes[min(self._sizes)], self._sizes[max(self._sizes)]
        least, seconds = small.seconds, large.seconds
        if least > seconds:  # a larger one takes no less: the later of the two says how fast the machine is
            least = seconds = (small if small.last > large.last else large).seconds
        most = seconds / large.work
        if more := large.work - small.work:
            each = min((seconds - least) / more, most)
        else:
            each = most if work < runs * large.work else 0.0
        return runs * (seconds - each * large.work) + each * work


class Batcher(Generic[Item, Result]):
    """Runs items in batches, one batch at a time unless told otherwise.

    ``run`` gets the items of one batch, in the order in which they came within their class, and returns as many results
    in the same order. A result that is an exception fails its item alone; an exception raised fails the batch.

    Args:
        name: For messages and metrics: what is full.
        run: Runs one batch. It must not block the event loop.
        max_batch: Most items in a batch.
        max_queue: Most interactive items that wait; one more is ``Overloaded``. Bulk is bounded by what lets it in: a
            stream stops reading while its window is full.
        stage: The stage that the run counts as; waiting always counts as ``Stage.QUEUE``.
        workers: Most batches that run at a time.
        may_join: Whether an item may join a batch that already holds these; by default it always may.
        in_order: Whether one that may not join is first in the next batch. If not, what waits behind it may overtake it
            into this batch; the one that waits longest always leads a batch.
        weigh: How much work an item is, in any unit; by default each is as much.
        max_seconds: What a batch may take at the measured pace. A single item may take longer.
        delay: Seconds that a free runner waits for a batch to fill up, from the arrival of its first item on.
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
        in_order: bool = True,
        weigh: Callable[[Item], float] = lambda _: 1.0,
        max_seconds: float = math.inf,
        delay: float = 0.0,
    ) -> None:
        self._name = name
        self._run = run
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._stage = stage
        self._may_join = may_join
        self._in_order = in_order
        self._weigh = weigh
        self._max_seconds = max_seconds
        self._delay = delay
        self._pace = _Pace()
        self._runs = _Runs()
        self._interactive: deque[_Waiting[Item, Result]] = deque()
        self._bulk: deque[_Waiting[Item, Result]] = deque()
        self._coming: Counter[bool] = Counter()  # items that are being prepared, by whether they are bulk
        self._batches_since_bulk = 0
        self._max_workers = workers
        self._workers: set[asyncio.Task[None]] = set()
        self._running: list[tuple[float, float]] = []  # when each run began, and its work
        self._full = asyncio.Event()
        self._length = metrics.QUEUE_LENGTH.labels(name)
        self._wait_seconds = metrics.QUEUE_SECONDS.labels(name)
        self._batch_items = metrics.BATCH_ITEMS.labels(name)
        self._batch_seconds = metrics.BATCH_SECONDS.labels(name)
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many items wait, of both classes."""
        return len(self._interactive) + len(self._bulk)

    async def submit(self, item: Item, call: Call) -> Result:
        """Wait for the item's result.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: The call's deadline passed before the item was run, or would before it is done.
            NotServing: The batcher is closed.
        """
        self._check_room(call, item)
        queue = self._queue(call)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        since = telemetry.now()
        queue.append(_Waiting(item, call, future, self._weigh(item), since))
        call.stages.enter(Stage.QUEUE, since)
        self._length.inc()
        if self.waiting >= self._max_batch:
            self._full.set()
        self._workers = {worker for worker in self._workers if not worker.done()}
        if len(self._workers) < self._max_workers:
            self._workers.add(asyncio.create_task(self._work(), name=f"batcher-{self._name}"))
        return await future

    @contextmanager
    def place(self, call: Call) -> Iterator[None]:
        """Keep a place for an item while it is prepared with much work: who asks for one meanwhile comes after it.

        The item is taken for one that weighs 1 and overtakes none.

        Raises:
            Overloaded, DeadlineExceeded, NotServing: ``submit`` would refuse it, if not now, after those that are being
                prepared.
        """
        self._check_room(call, None)
        self._coming[call.bulk] += 1
        try:
            yield
        finally:
            self._coming[call.bulk] -= 1

    def _queue(self, call: Call) -> "deque[_Waiting[Item, Result]]":
        return self._bulk if call.bulk else self._interactive

    def _check_room(self, call: Call, item: Item | None) -> None:
        if self._closed:
            raise NotServing("the server is shutting down; retry elsewhere or later")
        call.check_deadline()
        coming = self._coming[call.bulk] if item is None else 0
        if not call.bulk and len(self._interactive) + coming >= self._max_queue:
            self._drop_dead()
            if len(self._interactive) + coming >= self._max_queue:
                raise Overloaded(f"the {self._name} queue is full ({self._max_queue} wait); retry later")
        if call.deadline is not None:
            self._check_in_time(self._queue(call), call.deadline, item, coming)

    def largest(self, item: Item) -> int:
        """How many items like this one go together at the measured pace; one before anything is known."""
        seconds = self._pace.seconds(self._weigh(item))
        return max(1, int(min(self._max_batch, self._max_seconds / seconds))) if seconds else 1

    def learn(self, items: Sequence[Item], seconds: float) -> None:
        """Take a run that was not the batcher's own into the measured pace."""
        work = sum(self._weigh(item) for item in items)
        self._pace.learn(work, seconds)
        self._runs.learn(work, seconds)

    async def close(self) -> None:
        """Take nothing new, finish what waits, and return when it is done."""
        self._closed = True
        self._full.set()
        if self._workers:
            await asyncio.wait(self._workers)

    def _check_in_time(
        self, queue: "deque[_Waiting[Item, Result]]", deadline: float, item: Item | None, coming: int
    ) -> None:
        """Refuse what would only wait in vain; never the first in the queue, or a wrong pace would never be mended."""
        now = telemetry.now()
        ahead = self._ahead(queue, item, now)
        # While a batch fills up nothing is learned, and who is refused may take those along that his call sent before.
        if not ahead or (self._delay and not self._running):
            return
        work = sum((waiting.weight for waiting in ahead), coming + (1.0 if item is None else self._weigh(item)))
        most = len(ahead) + coming + 1
        # As ``_fits`` cuts them if all may join: who is let in too easily waits until the deadline, and costs nothing.
        runs = min(most, max(most / self._max_batch, self._pace.seconds(work) / self._max_seconds))
        left = [max(0.0, begin + self._runs.seconds(weight, 1) - now) for begin, weight in self._running]
        free = min(left) if len(left) >= self._max_workers else 0.0
        if now + free + self._runs.seconds(work, runs) / self._max_workers > deadline:
            raise DeadlineExceeded(
                f"{most - 1} wait for the {self._name} already, and the deadline would pass first; allow more time, "
                "or retry later"
            )

    def _ahead(
        self, queue: "deque[_Waiting[Item, Result]]", item: Item | None, now: float
    ) -> Sequence[_Waiting[Item, Result]]:
        """What waits and will be run before such an item, or with it."""
        ahead = [waiting for waiting in queue if waiting.is_wanted(now)]
        if self._in_order or self._may_join is None or item is None:
            return ahead
        likes = [self._may_join([waiting.item], item) for waiting in ahead]
        # It overtakes what came after the first that it may join.
        first = likes.index(True) if True in likes else len(ahead)
        return [waiting for at, waiting in enumerate(ahead) if at < first or likes[at]]

    def _drop_dead(self) -> None:
        now = telemetry.now()
        alive = [waiting for waiting in self._interactive if self._stays(waiting, now)]
        self._length.dec(len(self._interactive) - len(alive))
        self._interactive.clear()
        self._interactive.extend(alive)

    @staticmethod
    def _stays(waiting: _Waiting[Item, Result], now: float) -> bool:
        """Whether an item is still wanted; one that is not leaves the queue."""
        if waiting.is_wanted(now):
            return True
        if not waiting.future.done():
            waiting.future.set_exception(DeadlineExceeded("the deadline passed before its turn came; allow more time"))
        waiting.call.stages.leave(Stage.QUEUE, telemetry.now())
        return False

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
        """Remove the next batch from the queue, and those before it that are not wanted any more."""
        now, length = telemetry.now(), len(queue)
        batch = self._gather(queue, now)
        late = self._late(batch, now)
        wanted = sum(waiting.is_wanted(now) for waiting in queue) if late else 0
        # The last one is run, late or not, or a wrong estimate would never be mended.
        while late and wanted > 1:
            # As many as others can replace; where there are none, one at a time, since fewer take less time.
            dropped = late[: max(1, wanted - len(batch))]
            for waiting in dropped:
                waiting.future.set_exception(
                    DeadlineExceeded("the deadline would pass during the run; allow more time, or retry later")
                )
            wanted -= len(dropped)
            while not self._stays(queue[0], now):  # or a long queue would be gone through again and again
                queue.popleft()
            batch = self._gather(queue, now)
            late = self._late(batch, now)
        taken = set(batch)
        stay: list[_Waiting[Item, Result]] = []
        while queue and (taken or not batch):
            waiting = queue.popleft()
            if waiting in taken:
                taken.remove(waiting)
            elif self._stays(waiting, now):
                stay.append(waiting)
        queue.extendleft(reversed(stay))
        self._length.dec(length - len(queue))
        return batch

    def _gather(self, queue: "deque[_Waiting[Item, Result]]", now: float) -> list[_Waiting[Item, Result]]:
        """The next batch of those that are wanted."""
        batch: list[_Waiting[Item, Result]] = []
        items: list[Item] = []
        weight = 0.0
        for waiting in queue:
            if not waiting.is_wanted(now):
                continue
            if not batch or self._fits(items, weight, waiting):
                batch.append(waiting)
                items.append(waiting.item)
                weight += waiting.weight
            elif self._in_order:
                break
            if len(batch) == self._max_batch:
                break
        return batch

    def _fits(self, items: Sequence[Item], weight: float, waiting: _Waiting[Item, Result]) -> bool:
        if self._may_join is not None and not self._may_join(items, waiting.item):
            return False
        return self._pace.seconds(weight + waiting.weight) <= self._max_seconds

    def _late(self, batch: Sequence[_Waiting[Item, Result]], now: float) -> list[_Waiting[Item, Result]]:
        """Those whose deadline passes before such a batch is done, the earliest first."""
        done = now + self._runs.seconds(sum(waiting.weight for waiting in batch), 1)
        return sorted((waiting for waiting in batch if waiting.deadline < done), key=lambda waiting: waiting.deadline)

    async def _fill_up(self) -> None:
        oldest = min(queue[0].since for queue in (self._interactive, self._bulk) if queue)
        with suppress(TimeoutError):
            async with asyncio.timeout(oldest + self._delay - telemetry.now()):
                while max(len(self._interactive), len(self._bulk)) < self._max_batch and not self._closed:
                    self._full.clear()
                    await self._full.wait()

    async def _work(self) -> None:
        while self.waiting:
            if self._delay:
                await self._fill_up()
            if batch := self._next_batch():
                await self._run_batch(batch)

    async def _run_batch(self, batch: Sequence[_Waiting[Item, Result]]) -> None:
        begin = telemetry.now()
        running = begin, sum(waiting.weight for waiting in batch)
        self._running.append(running)
        for waiting in batch:
            waiting.call.stages.leave(Stage.QUEUE, begin)
            waiting.call.stages.enter(self._stage, begin)
            self._wait_seconds.observe(begin - waiting.since)
        try:
            results = await self._run([waiting.item for waiting in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{self._name}: {len(batch)} items gave {len(results)} results")
        except Exception as error:
            results = [error] * len(batch)
        else:
            self.learn([waiting.item for waiting in batch], telemetry.now() - begin)
        self._running.remove(running)
        end = telemetry.now()
        self._batch_items.observe(len(batch))
        self._batch_seconds.observe(end - begin)
        for waiting, result in zip(batch, results, strict=True):
            waiting.call.stages.leave(self._stage, end)
            if waiting.future.done():
                continue
            if isinstance(result, Exception):
                waiting.future.set_exception(result)
            else:
                waiting.future.set_result(result)
