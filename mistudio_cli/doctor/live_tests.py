"""What `doctor` tries on this machine and in Redis: what the product needs is done once, in a small way, and undone."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from mistudio_cli.monitor.check_result import Check, Verdict
from tasks.fleet import damaged_entries
from tasks.ledger.client import Ledger
from tasks.paths import Places
from tasks.queues import QUEUE_NAMES
from tasks.redis_client.redis_connection import Client, Refused, Unable
from tasks.settings import current
from tasks.system.call_deadline import within

#: By a word of Redis' own: what makes it take writes again.
_FIXES = {
    "OOM": "Its maxmemory is reached: raise it (redis-cli CONFIG SET maxmemory …), or free memory in it",
    "READONLY": "It is a replica: use the primary in CELERY_BROKER_URL, or redis-cli REPLICAOF NO ONE",
    "NOREPLICAS": "Its replicas are away: see to them, or redis-cli CONFIG SET min-replicas-to-write 0",
    "MISCONF": "It cannot write to its own disk: see its log, and the disk of its `dir`",
    "LOADING": "It is loading its data: try again in a moment",
    "BUSY": "It is busy with a script: redis-cli SCRIPT KILL",
    "NOPERM": "Its user lacks rights that workers need: mistudio fleet acl worker",
    "can't run this command": "Its user lacks rights that workers need: mistudio fleet acl worker",
    "NOAUTH": "It wants a password: redis://:PASSWORD@HOST:PORT/DB in CELERY_BROKER_URL",
}

_MOST_NAMED = 3


def redis_writes(ledger: Ledger) -> Iterator[Check]:
    """A write by the ledger's own script, and a command of each group that workers send. Raises Unreachable."""
    try:
        ledger.try_write()
        _try_what_celery_needs(ledger.client)
    except (Unable, Refused) as error:
        known = next((fix for word, fix in _FIXES.items() if word in str(error)), "See the log of Redis")
        yield Check("redis writes", "failed", f"no job can be submitted or run: {error}", known)
        return
    yield Check("redis writes", "ok", "the ledger's script writes, and Celery's commands are allowed")
    yield ledger_entries(damaged_entries.find(ledger.client))


def ledger_entries(found: list[damaged_entries.DamagedEntry]) -> Check:
    """Whether all that stands in the ledger's keys can be read."""
    if not found:
        return Check("redis entries", "ok", "all that was looked at can be read")
    shown = "; ".join(f"{one.where}: {one.why}" for one in found[:_MOST_NAMED])
    more = f"; and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    where = found[0].where.split(" ", 1)
    remove = f"HDEL {where[0]} '{where[1]}'" if len(where) > 1 else f"DEL {where[0]}"
    verdict: Verdict = "failed" if found[0].is_key else "warning"
    effect = "blocks commands" if found[0].is_key else "is skipped"
    detail = f"written by something else, {effect}: {shown}{more}"
    return Check("redis entries", verdict, detail, f"Find what writes there. To remove it: redis-cli {remove}")


def _try_what_celery_needs(client: Client) -> None:
    commands = [
        *[("LLEN", client.celery_key(name)) for name in QUEUE_NAMES],
        ("HLEN", client.celery_key("unacked")),
        ("ZCARD", client.celery_key("unacked_index")),
        ("SMEMBERS", client.celery_key("_kombu.binding.mistudio")),
        ("BRPOP", client.key("doctor"), "0.01"),
        ("GET", client.celery_key("celery-task-meta-doctor")),
        ("PUBLISH", client.celery_key(f"/{client.address.db}.celery.pidbox"), ""),  # workers pass over what is empty
    ]
    for reply in client.batch(commands):
        if isinstance(reply, Refused):
            raise reply


def folders(places: Places) -> Iterator[Check]:
    """Whether the home takes a file, a lock and a socket, the store a file, and the system shared memory."""
    yield _tried("home", places.home, _file, "Make room or change its permissions, or set MISTUDIO_HOME")
    if places.run.exists():
        yield _tried(
            "locks", places.run, _lock, "Put MISTUDIO_HOME on a file system with locks (not every NFS has them)"
        )
        where = places.redis_socket.parent
        yield _tried("sockets", where, _socket, "Put MISTUDIO_HOME on a local disk")
    yield _tried("store", places.store, _file, "Make room or change its permissions, or set MISTUDIO_STORE")
    if sys.platform == "linux":
        yield _tried("shared memory", Path("/dev/shm"), _file, "Make /dev/shm writable: workers need semaphores there")  # noqa: S108


def _tried(name: str, folder: Path, attempt: Callable[[Path], None], fix: str) -> Check:
    patience_s = current("read_patience")  # a dead mount never answers
    try:
        there = within(patience_s, name, lambda: _nearest(folder))
        is_there = there == folder or name in ("locks", "sockets")
        within(patience_s, name, lambda: attempt(there) if is_there else _new_folder(there))
    except OSError as error:
        return Check(name, "failed", f"{folder} cannot be used: {error.strerror or error}", fix)
    return Check(name, "ok", f"{folder}")


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there. NotADirectoryError where a file is in the way."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return there


def _new_folder(folder: Path) -> None:
    tempfile.TemporaryDirectory(dir=folder, prefix=".mistudio-doctor-").cleanup()


def _file(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".mistudio-doctor-") as file:
        file.write(b"\0" * 4096)
        file.flush()
        os.fsync(file.fileno())


def _lock(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder, prefix=".mistudio-doctor-") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _socket(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".d") as inside, socket.socket(socket.AF_UNIX) as link:
        link.bind(f"{inside}/s")
