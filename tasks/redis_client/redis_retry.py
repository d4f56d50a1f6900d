"""Retries of calls to a Redis that is unreachable, for as long as the setting redis_patience says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from tasks.redis_client.redis_connection import Unreachable
from tasks.settings import current

log = logging.getLogger("mistudio.job")

#: Giving up loses nothing: the job's lease runs out, and its next attempt finds what this one has published or resumes
#: there.
RETRY_EVERY_S = 0.5

T = TypeVar("T")


def retry_until_reachable(change: Callable[[], T]) -> T:
    """Ask or change the ledger, trying again while Redis is away; raises Unreachable when that takes too long."""
    give_up_at = time.monotonic() + current("redis_patience")
    while True:
        try:
            return change()
        except Unreachable as error:
            if time.monotonic() > give_up_at:
                raise
            log.warning("Redis is away (%s); trying again", error)
            time.sleep(RETRY_EVERY_S)
