"""Sentences about parts that could not be read: which, why, the process that is to blame, and what fixes it."""

from __future__ import annotations

from mistudio_cli.fleet.supervisor_client import own_redis_not_running
from mistudio_cli.machine.unresponsive_process import described, pid_at_socket
from mistudio_cli.monitor.trouble import with_fix
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
        return with_fix(said.replace(" does not answer", f"{who} does not answer", 1), fix or "see: mistudio doctor")
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
    is_own = address.path == str(places.redis_socket)
    return described(pid_at_socket(address.path), _OWN_REDIS_FIX if is_own else "")


def _of_supervisor(places: Places) -> str:
    from mistudio_cli.supervisor.lock_and_socket import holder

    pid = holder(places)
    who, fix = described(pid, f"end it, which lets its workers finish their jobs: kill {pid}" if pid else "")
    return with_fix(f"the supervisor of {places.home}{who} does not answer", fix)
