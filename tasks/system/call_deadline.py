"""A deadline for calls into the system that may never come back, such as of a mount whose server is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TypeVar

T = TypeVar("T")

_hanging: dict[Hashable, threading.Thread] = {}


def within(seconds: float, what: Hashable, call: Callable[[], T]) -> T:
    """What `call` returns or raises; TimeoutError when that takes longer.

    It then continues in a daemon thread, and until that ends, the same `what` is not tried
    again.
    """
    if (before := _hanging.get(what)) is not None and before.is_alive():
        raise TimeoutError(f"{what} does not answer")
    returned: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            returned.append(call())
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever asked
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        _hanging[what] = thread
        raise TimeoutError(f"{what} does not answer within {seconds:g} s")
    if raised:
        raise raised[0]
    return returned[0]
