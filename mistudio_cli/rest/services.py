"""What handlers read and change with: one reader of the ledger for all requests, and threads for what each asks itself.

A Redis that does not answer costs a request the setting read_patience, however many ask; while it is silent, requests
are answered at once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, TypeVar

from mistudio_cli.monitor.collector.collector import ALL_PARTS, DEADLINE_S, Collector
from mistudio_cli.monitor.collector.sources import COUNTED, read_ledger
from mistudio_cli.monitor.snapshot import Snapshot
from mistudio_cli.rest.event_feed import EventFeed
from tasks.ledger.client import Ledger
from tasks.ledger.overview import Overview, Wanted
from tasks.paths import Places
from tasks.redis_client.redis_connection import Silent
from tasks.settings import current

T = TypeVar("T")

#: What routes show of the ledger: all running jobs, as the first version did.
_OVERVIEW = Wanted(running=10_000, recent=50, queued=50, runs=200, server=True)
_THREADS = 8

#: A change may plan, estimate and write: it gets longer than a read, unless Redis does not answer.
_CHANGE_S = 60.0

#: After no answer, requests are answered with that for so long.
_SILENCE_HOLDS_S = 1.0


class SingleFlight(Generic[T]):
    """One call at a time of a function that blocks; whoever asks while it runs shares the next one."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._pool = ThreadPoolExecutor(1)
        self._waiters: list[asyncio.Future[T]] = []
        self._task: asyncio.Task[None] | None = None

    async def value(self) -> T:
        """What a call returns that began after this one was asked for. Raises what it raises."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[T] = loop.create_future()
        self._waiters.append(waiter)
        if self._task is None:
            self._task = loop.create_task(self._serve())
        return await waiter

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiters:
            waiters, self._waiters = self._waiters, []
            try:
                value = await loop.run_in_executor(self._pool, self._read)
            except Exception as error:  # noqa: BLE001 - each who asked gets it
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_exception(error)
            else:
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(value)
        self._task = None


class Services:
    """Everything behind the handlers of one server."""

    def __init__(self, open_ledger: Callable[[], Ledger], places: Places, patience_s: float | None = None) -> None:
        self.places = places
        self._open_ledger = open_ledger
        self._patience_s: float = current("read_patience") if patience_s is None else patience_s
        self._overview = SingleFlight(partial(self._with_ledger, self._read_everything))
        self._collector = Collector(
            open_ledger, places, ALL_PARTS, wanted=COUNTED, memory_age_s=5.0, patience_s=patience_s
        )
        self._has_collected = False
        self._snapshot = SingleFlight(self._collect)
        self._threads = ThreadPoolExecutor(_THREADS, "asks the ledger")
        self._of_thread = threading.local()
        self._silent_until = float("-inf")
        self.events = EventFeed(self.snapshot)

    async def overview(self) -> Overview:
        """The whole ledger. Unreachable, Silent among it, or Refused."""
        return await self._overview.value()

    async def snapshot(self) -> Snapshot:
        """Every part, each from its last good value."""
        return await self._snapshot.value()

    async def read(self, work: Callable[[Ledger], T]) -> T:
        """What that reads of the ledger, on a thread. Silent after the patience."""
        return await self._on_thread(work, self._patience_s)

    async def change(self, work: Callable[[Ledger], T]) -> T:
        """The same for what changes something, which may take longer."""
        return await self._on_thread(work, _CHANGE_S)

    async def read_disk(self, work: Callable[[], T]) -> T:
        """What that reads of a disk, on a thread. TimeoutError when the disk does not answer."""
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(loop.run_in_executor(None, work), self._patience_s)

    async def _on_thread(self, work: Callable[[Ledger], T], within_s: float) -> T:
        self._refuse_while_silent()
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._threads, partial(self._with_ledger, work))
        try:
            return await asyncio.wait_for(done, within_s)
        except TimeoutError as error:
            raise self._silence() from error

    def _read_everything(self, ledger: Ledger) -> Overview:
        return read_ledger(ledger, _OVERVIEW, self._patience_s)

    def _with_ledger(self, work: Callable[[Ledger], T]) -> T:
        self._refuse_while_silent()
        try:
            if not hasattr(self._of_thread, "ledger"):
                self._of_thread.ledger = self._open_ledger()
            return work(self._of_thread.ledger)
        except Silent:
            self._silent_until = time.monotonic() + _SILENCE_HOLDS_S
            raise

    def _refuse_while_silent(self) -> None:
        if time.monotonic() < self._silent_until:
            raise self._silence()

    def _silence(self) -> Silent:
        return Silent(f"{self._shown()} does not answer (waited {self._patience_s:g} s)")

    def _shown(self) -> str:
        from mistudio_cli.session import current_address

        return current_address().shown

    def _collect(self) -> Snapshot:
        wait_s = DEADLINE_S if self._has_collected else self._patience_s
        self._has_collected = True
        return self._collector.collect(wait_s)


def ledger_value(found: Any) -> Any:
    """A part of a snapshot that comes from the ledger; Silent where it could not be read at all."""
    if found is None:
        raise Silent("Redis does not answer")
    return found
