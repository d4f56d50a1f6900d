"""What a check of `doctor` yields, and how long any of them may take."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

Verdict = Literal["ok", "warning", "failed"]

T = TypeVar("T")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    detail: str
    mend: str = ""


def within(seconds: float, read: Callable[[], T]) -> T:
    """What `read` returns or raises; TimeoutError where it takes longer, as on a mount or a driver that hangs."""
    found: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            found.append(read())
        except BaseException as error:  # noqa: BLE001 - raised again for whoever waits
            failures.append(error)

    reading = threading.Thread(target=run, daemon=True)
    reading.start()
    reading.join(seconds)
    if failures:
        raise failures[0]
    if not found:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return found[0]
