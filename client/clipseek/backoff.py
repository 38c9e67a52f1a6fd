"""How long to wait before trying again."""

import math
import random
import time

from clipseek.errors import ClipseekError

NOT_BEGUN = "NOT_SERVING"
"""Why a server that shuts down refuses a call."""

_FIRST_SECONDS = 0.2
_LONGEST_SECONDS = 5.0


class Backoff:
    """Pauses that double, with chance in them, so that many clients do not come back at one moment.

    Args:
        patience: Seconds from the first failure on after which it is given up, unless something succeeds in between.
            The last try is made at their end.
        end: When all must be done, by ``time.monotonic``.
    """

    def __init__(self, patience: float, *, end: float = math.inf) -> None:
        self._patience = patience
        self._end = end
        self._failing_since: float | None = None
        self._pause = _FIRST_SECONDS

    def succeeded(self) -> None:
        """Begin anew."""
        self._failing_since = None
        self._pause = _FIRST_SECONDS

    def pause(self, error: ClipseekError) -> float:
        """Seconds to wait after that error; what the server asked for where that is longer and the patience allows it.

        Raises:
            ClipseekError: The error itself, when the patience or the time is at its end.
        """
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        left = self._failing_since + self._patience - now
        # A server that shuts down asks to be left alone; the next one may be there already.
        asked = 0.0 if error.reason == NOT_BEGUN else error.retry_after or 0.0
        pause = min(left, max(self._pause * random.uniform(0.5, 1.0), asked))  # noqa: S311 -- no secret
        if left <= 0 or now + pause > self._end:
            raise error
        self._pause = min(2 * self._pause, _LONGEST_SECONDS)
        return pause
