"""Sentences about parts that could not be read: which, why, the process that is to blame, and what fixes it."""

from __future__ import annotations

from mistudio_cli.errors import with_fix
from mistudio_cli.fleet.supervisor_client import own_redis_not_running, unresponsive
from mistudio_cli.machine.unresponsive_process import described, is_running, pid_at_socket
from tasks.errors import UserError
from tasks.paths import Places
from tasks.redis_client.redis_connection import Silent
from tasks.redis_client.redis_url import Address

#: What is wrong with a driver is seen, and fixed, with its own tools.
_DRIVER_FIX = "see whether nvidia-smi answers; the first answer takes seconds without: nvidia-smi -pm 1"

_OWN_REDIS_FIX = "Its supervisor restarts it after 30 s without an answer; at once: mistudio workers stop --all"


def describe(part: str, error: Exception, places: Places, address: Address | None = None) -> str:
    """One sentence for people; `address` is that of the ledger."""
    if part == "ledger" and address is not None and not isinstance(error, UserError):
        return _of_redis(error, places, address)
    if part == "supervisor" and isinstance(error, TimeoutError):
        return _of_supervisor(places)
    if part == "devices" and str(error).endswith("does not answer"):
        return with_fix(str(error), _DRIVER_FIX)
    if part == "disk" and isinstance(error, TimeoutError):
        return with_fix(str(error), "see to the mount of the store")
    if isinstance(error, UserError):
        return with_fix(error.sentence, error.hint)
    return str(error) or type(error).__name__


def _of_redis(error: Exception, places: Places, address: Address) -> str:
    if isinstance(error, (Silent, TimeoutError)):
        said = str(error) if isinstance(error, Silent) else f"{address.shown} does not answer"
        who, fix = hung_redis(address, places)
        return with_fix(said.replace(" does not answer", f"{who} does not answer", 1), fix)
    if address.path == str(places.redis_socket) and not _listens(places):
        return describe("", own_redis_not_running(places), places)
    return str(error) or type(error).__name__


def _listens(places: Places) -> bool:
    from mistudio_cli.redis.redis_server import takes_connections

    return takes_connections(places)


def hung_redis(address: Address, places: Places) -> tuple[str, str]:
    """How to name the process of a Redis that does not answer, " (pid 7)" or nothing, and what helps, if known."""
    if address.path is None:
        return "", ""
    if address.path == str(places.redis_socket):
        return described(_own_redis_pid(places), _OWN_REDIS_FIX)
    return described(_pid_at(address.path), "")


def _own_redis_pid(places: Places) -> int | None:
    from mistudio_cli.redis import redis_server

    server = redis_server.running(places)
    return None if server is None else server.pid


def _pid_at(path: str) -> int | None:
    """The process at a socket. Who hangs is asked once: each connection that it does not take stays in its backlog."""
    if path not in _pids or not is_running(_pids[path]):
        pid = pid_at_socket(path)
        if pid is None:
            return None
        _pids[path] = pid
    return _pids[path]


_pids: dict[str, int] = {}


def _of_supervisor(places: Places) -> str:
    error = unresponsive(places)
    return with_fix(str(error), error.hint)
