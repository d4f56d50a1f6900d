"""The live state for all who watch: read once a second by one reader while anybody does, sent as state and patches.

A client first gets the full state, then RFC 6902 patches. One that is far behind, or returns after too long with its
Last-Event-ID, gets the full state again: what it missed is not queued for it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

from mistudio_cli.monitor.snapshot import Snapshot
from mistudio_cli.views import json_shapes

_EVERY_S = 1.0

#: Patches kept for clients that return.
_KEPT = 120

#: A client that missed more than this gets the state instead.
_MOST_BEHIND = 8

#: A comment is sent when nothing was for so long, so that both ends notice a dead connection.
_KEEPALIVE_S = 15.0

#: The lists that become objects, and by what.
_KEYED = {"jobs": "id", "queues": "name", "workers": "name", "hosts": "name"}


class EventFeed:
    """The events of one server; ids are `FEED-NUMBER`, where FEED changes with each start."""

    def __init__(self, snapshot: Callable[[], Awaitable[Snapshot]], every_s: float = _EVERY_S) -> None:
        self._snapshot, self._every_s = snapshot, every_s
        self._feed = os.urandom(4).hex()
        self._number = 0
        self._state: dict[str, Any] | None = None
        self._patches: deque[tuple[int, bytes]] = deque(maxlen=_KEPT)
        self._full = b""
        self._changed: asyncio.Event | None = None
        self._watchers = 0
        self._reader: asyncio.Task[None] | None = None

    async def watch(self, last_event_id: str | None = None) -> AsyncIterator[bytes]:
        """Events as they are sent to one client, for ever."""
        self._begin()
        try:
            seen = self._number_of(last_event_id)
            while True:
                for number, event in self._missed(seen):
                    seen = number
                    yield event
                if not await self._wait_for_change(seen):
                    yield b": alive\n\n"
        finally:
            self._end()

    def _begin(self) -> None:
        self._watchers += 1
        if self._changed is None:
            self._changed = asyncio.Event()
        if self._reader is None or self._reader.done():
            self._reader = asyncio.get_running_loop().create_task(self._read())

    def _end(self) -> None:
        self._watchers -= 1
        if not self._watchers and self._reader is not None:
            self._reader.cancel()
            self._reader = self._state = None  # what changes meanwhile is not known
            self._patches.clear()

    def _number_of(self, last_event_id: str | None) -> int:
        """The number of the last event that a client has; 0 for none of this feed."""
        feed, _, number = (last_event_id or "").partition("-")
        return int(number) if feed == self._feed and number.isascii() and number.isdigit() and len(number) < 16 else 0

    def _missed(self, seen: int) -> list[tuple[int, bytes]]:
        if self._state is None or seen == self._number:
            return []
        later = [patch for patch in self._patches if patch[0] > seen]
        is_known = 0 < seen < self._number and later and later[0][0] == seen + 1
        if is_known and len(later) <= _MOST_BEHIND:
            return later
        if not self._full:
            self._full = self._event("state", json.dumps(self._state, ensure_ascii=False))
        return [(self._number, self._full)]

    async def _wait_for_change(self, seen: int) -> bool:
        if self._state is not None and self._number != seen:
            return True
        assert self._changed is not None
        try:
            await asyncio.wait_for(self._changed.wait(), _KEEPALIVE_S)
        except TimeoutError:
            return False
        return True

    async def _read(self) -> None:
        while True:
            with suppress(Exception):  # the next reading may succeed; clients see the age of what they have
                self._publish(_state_of(await self._snapshot()))
            await asyncio.sleep(self._every_s)

    def _publish(self, state: dict[str, Any]) -> None:
        previous, self._state = self._state, state
        operations = [] if previous is None else list(patch_between(previous, state))
        if previous is not None and all(step["path"] == "/read_at" for step in operations):
            return
        self._number, self._full = self._number + 1, b""
        if previous is not None:
            self._patches.append((self._number, self._event("patch", json.dumps(operations, ensure_ascii=False))))
        assert self._changed is not None
        self._changed.set()  # all who wait are woken; the next ones wait for a fresh event
        self._changed = asyncio.Event()

    def _event(self, name: str, data: str) -> bytes:
        return f"id: {self._feed}-{self._number}\nevent: {name}\ndata: {data}\n\n".encode("utf-8", "backslashreplace")


def _state_of(seen: Snapshot) -> dict[str, Any]:
    """What is shown of a snapshot, lists by name or id so that patches are small; `order` is that of the jobs."""
    state = json_shapes.everything(seen)
    state["order"] = None if state["jobs"] is None else [job["id"] for job in state["jobs"]]
    for part, key in _KEYED.items():
        rows = state[part]
        state[part] = None if rows is None else {row[key]: row for row in rows}
    return state


def patch_between(before: Any, after: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """The steps of an RFC 6902 patch; lists are replaced as a whole."""
    if before == after and type(before) is type(after):
        return
    if not (isinstance(before, dict) and isinstance(after, dict)):
        yield {"op": "replace", "path": path, "value": after}
        return
    for key in before.keys() - after.keys():
        yield {"op": "remove", "path": f"{path}/{_pointer(key)}"}
    for key, value in after.items():
        where = f"{path}/{_pointer(key)}"
        if key in before:
            yield from patch_between(before[key], value, where)
        else:
            yield {"op": "add", "path": where, "value": value}


def _pointer(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
