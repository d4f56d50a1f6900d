"""Asks the Sentinels of a URL for the master.

The one that answered last is asked first. None is believed blindly: who connects to the master that it names asks that
for its role, and reports a master that cannot be used, so that another Sentinel is asked next.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tasks.redis_client.host_port import host_port
from tasks.redis_client.redis_errors import NoMaster, Refused, Silent, Unreachable
from tasks.redis_client.redis_url import Address

if TYPE_CHECKING:
    from tasks.redis_client.sentinel_url import Sentinels

#: A Sentinel that is silent leaves time for the others; when all are, they share the time that is left.
QUICK_S = 0.3

#: Sends a command to the server at that address, and returns its reply within the seconds given.
Ask = Callable[[Address, tuple[Any, ...], float], Any]

#: By Sentinels: the index of the one to ask first. All connections of a process share it.
_first: dict[Sentinels, int] = {}


def find_master(address: Address, ask: Ask, timeout_s: float) -> Address:
    """The address of the master, as the first Sentinel that answers names it. NoMaster, within the timeout."""
    sentinels = address.sentinels
    assert sentinels is not None
    deadline, start, count = time.monotonic() + timeout_s, _first.get(sentinels, 0), len(sentinels.hosts)
    remaining = [(start + offset) % count for offset in range(count)]
    failures: dict[int, Exception | None] = {}
    for share in (lambda left, _: min(left, QUICK_S), lambda left, others: left / others):
        for place, index in enumerate(remaining):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            answer = _ask_one(address, index, ask, share(left, len(remaining) - place))
            if isinstance(answer, Address):
                _first[sentinels] = index
                return answer
            failures[index] = answer
        remaining = [index for index in remaining if isinstance(failures.get(index), Silent)]
    raise NoMaster(_describe(address, failures))


def distrust(address: Address) -> None:
    """Ask another Sentinel first next time: the master that this one named cannot be used."""
    sentinels = address.sentinels
    if sentinels is not None:
        _first[sentinels] = (_first.get(sentinels, 0) + 1) % len(sentinels.hosts)


def sentinel_addresses(address: Address) -> list[Address]:
    """Where the Sentinels are, and how to log in to them; none for an address without."""
    sentinels = address.sentinels
    if sentinels is None:
        return []
    login = Address(username=sentinels.username, password=sentinels.password, tls=address.tls)
    return [login.server(host, port) for host, port in sentinels.hosts]


def read_master(address: Address, reply: Any) -> Address | None:
    """The master in a Sentinel's reply to `question`; None when it knows none of that name."""
    if isinstance(reply, list) and len(reply) == 2 and str(reply[1]).isdecimal():
        return address.server(str(reply[0]), int(reply[1]))
    return None


def question(address: Address) -> tuple[str, ...]:
    """The command that asks a Sentinel for the master."""
    assert address.sentinels is not None
    return "SENTINEL", "get-master-addr-by-name", address.sentinels.master


def _ask_one(address: Address, index: int, ask: Ask, patience_s: float) -> Address | Exception | None:
    """The master; None where the Sentinel knows none of that name, or why it does not answer."""
    try:
        return read_master(address, ask(sentinel_addresses(address)[index], question(address), patience_s))
    except (Unreachable, Refused) as error:
        return error


def _describe(address: Address, failures: dict[int, Exception | None]) -> str:
    sentinels = address.sentinels
    assert sentinels is not None
    if any(failure is None for failure in failures.values()):
        return f"the Sentinels at {sentinels.shown} know no master named {sentinels.master}"
    requested = sentinel_addresses(address)
    why = ", ".join(_reason(requested[index], failure) for index, failure in sorted(failures.items()))
    return f"no Sentinel names the master {sentinels.master}: {why or 'no answer in time'}"


def _reason(sentinel: Address, failure: Exception | None) -> str:
    """The place of a Sentinel, and why it does not answer."""
    words = str(failure).removeprefix(sentinel.shown).lstrip(": ").rstrip(".")
    return f"{host_port(sentinel.host, sentinel.port)} ({words})"
