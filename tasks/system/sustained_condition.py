"""Whether a condition has lasted long enough to act on it."""

from __future__ import annotations

import time
from collections.abc import Callable


class Lasting:
    """Something that is read again and again, and counts only when it was so at all readings of some time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None

    def is_so_for(self, seconds: float, *, now: bool) -> bool:
        """Whether it is so now, and was so at all readings since more than these seconds."""
        if not now:
            self._since = None
            return False
        self._since = self._clock() if self._since is None else self._since
        return self._clock() - self._since > seconds
