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

from mistudio_cli.jobs.log_pages import LogPages
from mistudio_cli.monitor.collector.collector import ALL_PARTS, DEADLINE_S, LASTING_PARTS, MARGIN_S, Collector
from mistudio_cli.monitor.collector.sources import COUNTED, read_ledger
from mistudio_cli.monitor.snapshot import Snapshot
from mistudio_cli.rest.event_feed import EventFeed
from mistudio_cli.rest.problem import RETRY_AFTER, Problem
from mistudio_cli.rest.route import json_bytes
from mistudio_cli.views import health_json
from tasks.ledger.client import Ledger
from tasks.ledger.overview import Overview, Wanted
from tasks.paths import Places
from tasks.redis_client.redis_connection import Silent
from tasks.settings import current

T = TypeVar("T")

#: What routes show of the ledger: all running jobs, as the first version did.
_OVERVIEW = Wanted(running=10_000, recent=50, queued=50, runs=200)

#: What health is judged by.
_JUDGED = Wanted(running=10_000, server=True)
#: A health report answers whoever asks within this time: a probe of a load balancer costs as little as one of a
#: process that does nothing.
_HEALTH_FRESH_S = 0.05
_THREADS = 8

#: A change may plan, estimate and write, and a log lies on a disk: they get longer than a read of Redis.
_LONG_S = 60.0

#: They wait so long for a thread at most.
_TURN_S = 10.0

#: After no answer, requests are answered with that for so long.
_SILENCE_HOLDS_S = 1.0


class Busy(Problem):
    """All threads for requests of a sort are taken."""


class SingleFlight(Generic[T]):
    """One call at a time of a function that blocks; whoever asks while it runs shares the next one.

    What a call returned is also the answer to whoever asks within `fresh_s` seconds of the call's begin.
    """

    def __init__(self, read: Callable[[], T], fresh_s: float = 0.0) -> None:
        self._read, self._fresh_s = read, fresh_s
        self._last: tuple[float, T] | None = None
        self._pool = ThreadPoolExecutor(1)
        self._waiters: list[asyncio.Future[T]] = []
        self._task: asyncio.Task[None] | None = None

    async def value(self) -> T:
        """What a call returns that began after this one was asked for, or `fresh_s` before. Raises what it raises."""
        loop = asyncio.get_running_loop()
        if self._last is not None and loop.time() - self._last[0] < self._fresh_s:
            return self._last[1]
        waiter: asyncio.Future[T] = loop.create_future()
        self._waiters.append(waiter)
        if self._task is None:
            self._task = loop.create_task(self._serve())
        return await waiter

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiters:
            waiters, self._waiters = self._waiters, []
            began = loop.time()
            try:
                value = await loop.run_in_executor(self._pool, self._read)
            except Exception as error:  # noqa: BLE001 - each who asked gets it
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_exception(error)
            else:
                self._last = (began, value) if self._fresh_s else None
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(value)
        self._task = None


class Threads:
    """Threads for requests of one sort: those that hang keep only others of their sort waiting."""

    def __init__(self, sort: str) -> None:
        self._sort = sort
        self._pool = ThreadPoolExecutor(_THREADS, sort)
        self._free = asyncio.Semaphore(_THREADS)

    async def run(self, work: Callable[[], T], begin_within_s: float, end_within_s: float) -> T:
        """What that returns, on a thread. Busy when all threads are taken for so long; TimeoutError when it hangs."""
        try:
            if self._free.locked():
                await asyncio.wait_for(self._free.acquire(), begin_within_s)
            else:
                await self._free.acquire()
        except TimeoutError:
            raise Busy(503, f"The server is busy: {_THREADS} {self._sort} are under way.", RETRY_AFTER) from None
        done = asyncio.get_running_loop().run_in_executor(self._pool, work)
        done.add_done_callback(self._release)
        return await asyncio.wait_for(asyncio.shield(done), end_within_s)

    def _release(self, done: asyncio.Future[Any]) -> None:
        self._free.release()  # when the thread is free, which may be long after the request was given up
        if not done.cancelled():
            done.exception()


class Services:
    """Everything behind the handlers of one server."""

    def __init__(self, open_ledger: Callable[[], Ledger], places: Places, patience_s: float | None = None) -> None:
        self.places = places
        self._open_ledger = open_ledger
        self._patience_s: float = current("read_patience") if patience_s is None else patience_s
        self._overview = SingleFlight(partial(self._with_ledger, partial(self._read, _OVERVIEW)))
        self._health = SingleFlight(partial(self._with_ledger, self._judge), _HEALTH_FRESH_S)
        self._collector = Collector(
            open_ledger, places, LASTING_PARTS, wanted=COUNTED, memory_age_s=5.0, patience_s=patience_s
        )
        self._has_collected = False
        self._snapshot = SingleFlight(self._collect)
        self._new_snapshot = SingleFlight(partial(self._collector.collect, self._patience_s + MARGIN_S, ALL_PARTS))
        self._reads, self._changes, self._logs = Threads("reads"), Threads("changes"), Threads("readings of logs")
        self._of_thread = threading.local()
        self._silent_until = float("-inf")
        self.log_pages = LogPages()
        self.events = EventFeed(self.snapshot)

    def close(self) -> None:
        """Close the connections of the reader of all parts, after what is being read over them."""
        self._collector.close()

    async def overview(self) -> Overview:
        """The whole ledger. Unreachable, Silent among it, or Refused."""
        return await self._overview.value()

    async def snapshot(self) -> Snapshot:
        """Every part, each from its last good value."""
        return await self._snapshot.value()

    async def new_snapshot(self) -> Snapshot:
        """Every part but Celery's as it is now or with the error why not: as late as the slowest, or the patience."""
        return await self._new_snapshot.value()

    async def health(self) -> bytes:
        """The health report as JSON: of the ledger as it was 50 ms ago at most, and of this machine, a second.

        Unreachable, Silent among it, or Refused.
        """
        return await self._health.value()

    async def read(self, work: Callable[[Ledger], T]) -> T:
        """What that reads of the ledger, on a thread. Silent after the patience."""
        self._refuse_while_silent()
        try:
            return await self._reads.run(partial(self._with_ledger, work), self._patience_s, self._patience_s)
        except (Busy, TimeoutError) as error:  # what only asks Redis takes no time while that answers
            raise self._silence() from error

    async def read_log(self, work: Callable[[Ledger], T]) -> T:
        """The same for what reads a log, whose first page may be far from its begin: Problem when its disk hangs."""
        return await self._long(self._logs, work, "The log's disk does not answer.")

    async def change(self, work: Callable[[Ledger], T]) -> T:
        """The same for what changes something, which may take longer."""
        return await self._long(self._changes, work, f"Not done within {_LONG_S:g} s. It may be done yet.")

    async def read_disk(self, work: Callable[[], T]) -> T:
        """What that reads of a disk, on a thread. TimeoutError when the disk does not answer."""
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(loop.run_in_executor(None, work), self._patience_s)

    async def _long(self, threads: Threads, work: Callable[[Ledger], T], late: str) -> T:
        self._refuse_while_silent()
        try:
            return await threads.run(partial(self._with_ledger, work), _TURN_S, _LONG_S)
        except TimeoutError as error:
            raise Problem(503, late, RETRY_AFTER) from error

    def _read(self, wanted: Wanted, ledger: Ledger) -> Overview:
        return read_ledger(ledger, wanted, self._patience_s)

    def _judge(self, ledger: Ledger) -> bytes:
        return json_bytes(health_json.report(self._collector.collect_around(partial(self._read, _JUDGED, ledger))))

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
