"""How long to wait before trying again."""

import random
import time

from clipseek.errors import ClipseekError

_FIRST_SECONDS = 0.2
_LONGEST_SECONDS = 5.0


class Backoff:
    """Pauses that double, with chance in them, so that many clients do not come back at one moment.

    Args:
        patience: Seconds from the first failure on after which it is given up, unless something succeeds in between.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._failing_since: float | None = None
        self._pause = _FIRST_SECONDS

    def succeeded(self) -> None:
        """Begin anew."""
        self._failing_since = None
        self._pause = _FIRST_SECONDS

    def pause(self, error: ClipseekError) -> float:
        """Seconds to wait after that error; at least what the server asked for.

        Raises:
            ClipseekError: The error itself, when the patience is at its end.
        """
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        pause = max(self._pause * random.uniform(0.5, 1.0), error.retry_after or 0.0)  # noqa: S311 -- no secret
        if now + pause > self._failing_since + self._patience:
            raise error
        self._pause = min(2 * self._pause, _LONGEST_SECONDS)
        return pause
