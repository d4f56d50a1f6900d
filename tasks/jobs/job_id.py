"""Ids of jobs: they sort by the time when they were made."""

from __future__ import annotations

import os
import threading
import time

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"

#: The number of the id that this process made last, and what guards it.
_last_number, _number_lock = 0, threading.Lock()


def new_job_id() -> str:
    """A fresh id that sorts by time: 9 digits of milliseconds in base 32, then 5 random ones.

    Of several in one millisecond the first is random, and each of the others comes after the one before it: of some
    thousand random ones, two would be the same now and then.
    """
    global _last_number
    fresh = (int(time.time() * 1000) << 25) | (int.from_bytes(os.urandom(4), "big") >> 7)
    with _number_lock:
        is_first = fresh >> 25 != _last_number >> 25
        _last_number = fresh if is_first else _last_number + 1
        return _written(_last_number)


def later_id(job_id: str, places: int) -> str:
    """The id `places` after another of `new_job_id`: for jobs whose ids must be known before they are planned."""
    number = 0
    for digit in job_id:
        number = number * 32 + _DIGITS.index(digit)
    return _written(number + places)


def _written(number: int) -> str:
    return "".join(_DIGITS[(number >> shift) & 31] for shift in range(65, -1, -5))
