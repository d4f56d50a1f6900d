"""Whether a worker may consume: all workers on one Redis share a store, a protocol and the table of queues.

The first one to work records what it shares; each that comes after it must share the same. The record goes with the
last worker that ends in good order, not with one that is silent: after a power cut the host whose store is not mounted
may be the first to come back. A worker with another store would publish where no one sees it, and one with other
priority steps would leave jobs lying.
"""

from __future__ import annotations

import json
import logging
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.fleet.clock_offset import why_clock_is_wrong
from tasks.fleet.store_nonce import ACCEPTED_FOR_S, Proof, prove
from tasks.ledger.client import Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.queues import PRIORITY_STEPS, QUEUE_NAMES
from tasks.redis_client.redis_connection import Refused, Unreachable
from tasks.storage.store_id import make_store_id, read_store_id
from tasks.system.sustained_condition import Lasting
from tasks.worker.worker_name import WorkerName

log = logging.getLogger("mistudio.worker")

#: Of messages, records and folders of attempts: raised when two versions cannot work side by side.
PROTOCOL = 1

NOT_SHOWN = (
    "its store {store} does not show what the other workers wrote there in the last minutes: "
    "it is a copy, or what is mounted there is stale; mount the shared one again"
)

_LOOK_EVERY_S = 1.0


def why_refused(ledger: Ledger, store: Path) -> str:
    """Why a worker with its store at `store` may not consume; "" when it may, and belongs to the fleet then.

    A store that cannot be used at all is refused only where others have one: a lone worker's jobs say what is wrong
    with it. Raises Unreachable when Redis cannot be reached.
    """
    return _judge(ledger, store)[0]


def _judge(ledger: Ledger, store: Path) -> tuple[str, Proof]:
    """As `why_refused`, with the proof that the store is that of the others, as far as it was asked for."""
    known = ledger.fleet()
    try:
        store_id = make_store_id(store) if known is None else read_store_id(store)
    except (OSError, UserError) as error:
        return "" if known is None else _cannot_be_used(store, error), Proof.GIVEN
    mine = _shared(store_id)
    known = ledger.join_fleet(mine) if known is None else known
    if known is not None and (why := _difference(mine, known, store)):
        return why, Proof.GIVEN
    why, proof = _read_proof(ledger, store)
    return "" if known is None else why, proof


def why_store_changed(store: Path, before: str) -> str:
    """Why a running worker must stop: its store is not the one it was; "" when it is, or cannot be read now."""
    try:
        if read_store_id(store) == before:
            return ""
    except (OSError, UserError) as error:  # a full disk, or a share that comes back: jobs say what it means for them
        log.warning("%s", _cannot_be_used(store, error))
        return ""
    return f"its store {store} is no longer store {before}: mount it there again"


def why_store_differs(ledger: Ledger, store: Path) -> str:
    """Why a worker with its store there would be refused; "" when it would not, or when nothing is recorded."""
    known = ledger.fleet()
    if known is None:
        return ""
    try:
        return _difference(_shared(read_store_id(store)), known, store) or _read_proof(ledger, store)[0]
    except (OSError, UserError) as error:
        return _cannot_be_used(store, error)


def _read_proof(ledger: Ledger, store: Path) -> tuple[str, Proof]:
    """Why a store with the right id is not the one that the other workers write, and what it shows.

    "" and PENDING when it may be the others' and only be slow to show what they wrote.
    """
    try:
        proof = prove(ledger, store)
    except OSError as error:
        return _cannot_be_used(store, error), Proof.GIVEN
    return NOT_SHOWN.format(store=store) if proof is Proof.LACKING else "", proof


class StoreWatch:
    """A worker's own proof while it consumes, and its turns to write the nonce."""

    def __init__(self, store: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._lacking = store, Lasting(clock)

    def why_unproven(self, ledger: Ledger) -> str:
        """Why the worker must stop; "" before the proof was lacking for as long as Redis remembers a nonce.

        So a Redis that forgot the newest one stops no fleet: after that time there is nothing to prove. A store that
        cannot be read is the jobs' affair.
        """
        try:
            is_lacking = prove(ledger, self._store, may_write=True) is Proof.LACKING
        except OSError:
            return ""
        return NOT_SHOWN.format(store=self._store) if self._lacking.is_so_for(ACCEPTED_FOR_S, now=is_lacking) else ""


def _cannot_be_used(store: Path, error: Exception) -> str:
    return f"its store {store} cannot be used: {getattr(error, 'strerror', None) or error}"


def wait_until_admitted(
    ledger: Ledger, heartbeat: WorkerHeartbeat, name: WorkerName, store: Path, patient: Callable[[], bool]
) -> bool:
    """Wait until the worker may consume, sending heartbeats that say why it may not; False when no longer `patient`."""
    said = ""
    while True:
        try:
            why = _why_waiting(ledger, heartbeat, name, store)
            if not why:
                return True
        except Unreachable as error:
            why = f"Redis is away ({error})"
        except Refused as error:
            why = f"Redis refuses a command that every worker needs ({error})"
        except UserError as problem:  # its records are newer than this mistudio
            why = f"{problem.sentence} {problem.hint}"
        if why != said:
            said = why
            log.error("this worker does not consume: %s", why)
        if not patient():
            log.warning("the parent process is gone: ending")
            forget_refused(ledger, heartbeat, name)
            return False
        time.sleep(_LOOK_EVERY_S)


def _why_waiting(ledger: Ledger, heartbeat: WorkerHeartbeat, name: WorkerName, store: Path) -> str:
    """Why the worker does not consume yet, which a heartbeat has said where it is refused; "" when it may."""
    if why := name.take(ledger, heartbeat):
        name.send_refused(ledger, replace(heartbeat, refused=why))
        return why
    why, proof = why_clock_is_wrong(ledger.client), Proof.GIVEN
    if not why:
        why, proof = _judge(ledger, store)
    if why:
        name.send(ledger, replace(heartbeat, refused=why))
    elif proof is Proof.PENDING:
        why = f"its store {store} does not show yet what the other workers wrote there"
    return why


def forget_refused(ledger: Ledger, heartbeat: WorkerHeartbeat, name: WorkerName) -> None:
    """A worker that was never admitted ends: take its heartbeats back, if Redis is there."""
    with suppress(Unreachable, Refused, UserError):
        name.forget(ledger, heartbeat.name)


def _shared(store_id: str | None) -> dict[str, Any]:
    queues = _digest([list(QUEUE_NAMES), list(PRIORITY_STEPS)])
    return {"store": store_id, "protocol": PROTOCOL, "queues": queues}


def _difference(mine: dict[str, Any], others: dict[str, Any], store: Path) -> str:
    if all(others.get(name) == value for name, value in mine.items()):
        return ""
    if mine["protocol"] != others.get("protocol"):
        return (
            f"it speaks protocol {mine['protocol']}, the other workers {others.get('protocol')}: "
            "install the same version of mistudio on all hosts"
        )
    if mine["queues"] != others.get("queues"):
        return (
            f"its queues or priority steps ({mine['queues']}) are not those of the other workers "
            f"({others.get('queues')}): install the same version of mistudio on all hosts"
        )
    if mine["store"] is None:
        return f"its store {store} is empty, and the other workers' is store {others.get('store')}: mount it there"
    return (
        f"its store {store} is store {mine['store']}, and the other workers' is {others.get('store')}: "
        "set MISTUDIO_STORE to that one, or type workers start --new-store when none of the others will come back"
    )


def _digest(value: Any) -> str:
    return f"{zlib.crc32(json.dumps(value).encode()):08x}"
