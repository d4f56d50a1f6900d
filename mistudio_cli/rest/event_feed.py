"""The live state for all who watch: read once a second by one reader while anybody does, sent as state and patches.

A client first gets the full state, then RFC 6902 patches. One that is far behind, or returns after too long with its
Last-Event-ID, gets the full state again: what it missed is not queued for it. Each event is made into bytes once.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from mistudio_cli.monitor.snapshot import Snapshot
from mistudio_cli.rest.event_client import Event, EventClient
from mistudio_cli.views import json_shapes

_EVERY_S = 1.0

#: Patches kept for clients that are behind or return; one that missed more gets the state instead.
_KEPT = 8

#: A comment is sent when nothing was for so long, so that both ends notice a dead connection.
_KEEPALIVE_S = 15.0
_KEEPALIVE = Event(0, b": alive\n\n")

#: Clients that are written to before other tasks get a turn.
_WRITTEN_AT_ONCE = 100

#: The lists that become objects, and by what.
_KEYED = {"jobs": "id", "queues": "name", "workers": "name", "hosts": "name"}


class EventFeed:
    """The events of one server; ids are `FEED-NUMBER`, where FEED changes with each start."""

    def __init__(self, snapshot: Callable[[], Awaitable[Snapshot]], every_s: float = _EVERY_S) -> None:
        self._snapshot, self._every_s = snapshot, every_s
        self._feed = os.urandom(4).hex()
        self._number = 0
        self._state: dict[str, Any] | None = None
        self._patches: deque[Event] = deque(maxlen=_KEPT)
        self._full: Event | None = None
        self._clients: set[EventClient] = set()
        self._reader: asyncio.Task[None] | None = None
        self._sent_at = 0.0

    def add(self, client: EventClient, last_event_id: str | None = None) -> None:
        """Send events to that client from now on, those after the last one that it has first."""
        client.seen = self._number_of(last_event_id)
        self._clients.add(client)
        if self._reader is None or self._reader.done():
            self._reader = asyncio.get_running_loop().create_task(self._read())
        self._send_missed(client)

    def remove(self, client: EventClient) -> None:
        """Send it nothing more."""
        self._clients.discard(client)
        if not self._clients and self._reader is not None:
            self._reader.cancel()
            self._reader = self._state = None  # what changes meanwhile is not known
            self._patches.clear()

    def _number_of(self, last_event_id: str | None) -> int:
        """The number of the last event that a client has; 0 for none of this feed."""
        feed, _, number = (last_event_id or "").partition("-")
        return int(number) if feed == self._feed and number.isascii() and number.isdigit() and len(number) < 16 else 0

    def _missed(self, seen: int) -> Sequence[Event]:
        if self._state is None or seen == self._number:
            return ()
        if self._patches and seen == self._number - 1 > 0:
            return (self._patches[-1],)
        later = [patch for patch in self._patches if patch.number > seen]
        if 0 < seen < self._number and later and later[0].number == seen + 1:
            return later
        if self._full is None:
            self._full = self._event("state", json.dumps(self._state, ensure_ascii=False))
        return (self._full,)

    def _send_missed(self, client: EventClient) -> None:
        if client.takes_more(asyncio.get_running_loop().time()):
            for event in self._missed(client.seen):
                client.send(event)

    async def _read(self) -> None:
        while True:
            with suppress(Exception):  # the next reading may succeed; clients see the age of what they have
                self._publish(_state_of(await self._snapshot()))
            await self._send_to_all()
            await asyncio.sleep(self._every_s)

    def _publish(self, state: dict[str, Any]) -> None:
        """Take a new state, as an event where something has changed."""
        previous, self._state = self._state, state
        operations = [] if previous is None else list(patch_between(previous, state))
        if previous is not None and all(step["path"] == "/read_at" for step in operations):
            return
        self._number, self._full, self._sent_at = self._number + 1, None, asyncio.get_running_loop().time()
        if previous is not None:
            self._patches.append(self._event("patch", json.dumps(operations, ensure_ascii=False)))

    async def _send_to_all(self) -> None:
        """What each has missed; where there was nothing for a while, a comment."""
        now = asyncio.get_running_loop().time()
        is_quiet = now - self._sent_at >= _KEEPALIVE_S
        self._sent_at = now if is_quiet else self._sent_at
        for count, client in enumerate(list(self._clients), 1):
            self._send_missed(client)
            if is_quiet and client.takes_more(now):
                client.send(_KEEPALIVE)
            if count % _WRITTEN_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _event(self, name: str, data: str) -> Event:
        text = f"id: {self._feed}-{self._number}\nevent: {name}\ndata: {data}\n\n"
        return Event(self._number, text.encode("utf-8", "backslashreplace"))


def _state_of(seen: Snapshot) -> dict[str, Any]:
    """What is shown of a snapshot, lists by name or id so that patches are small; `order` is that of the jobs."""
    state = json_shapes.everything(seen)
    state["order"] = None if state["jobs"] is None else [job["id"] for job in state["jobs"]]
    for part, key in _KEYED.items():
        state[part] = None if state[part] is None else _keyed(state[part], key)
    return state


def _keyed(rows: Sequence[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """The rows by their keys; of a second worker of a name, which is refused, with its pid."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found[row[key] if row[key] not in found else f"{row[key]} {row.get('pid')}"] = row
    return found


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
