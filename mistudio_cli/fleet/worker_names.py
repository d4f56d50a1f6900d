"""Names of workers as people type them: NAME is one of this home's, NAME@HOST the one that is on that host."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from mistudio_cli.errors import Failed, NotFound, TimedOut
from mistudio_cli.fleet import supervisor_client
from mistudio_cli.fleet.start_stop import short_name
from mistudio_cli.settings import Settings
from tasks.fleet import worker_requests
from tasks.fleet.worker_requests import ACCEPTED, DONE, REQUEST_TTL_S, WorkerRequest
from tasks.ledger.client import Ledger
from tasks.redis_client.redis_connection import Refused, Unreachable

_LOOK_EVERY_S = 0.2
_SEE_THERE = "See there: mistudio workers status"


def divide(settings: Settings, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Short names of this home's workers, and full names of those elsewhere.

    NotFound for a host, or a worker on a host, of which the ledger knows nothing.
    """
    names = list(names)
    if not any("@" in name for name in names):
        return names, []
    status = supervisor_client.status(settings.places) or {"workers": []}
    here = {worker["name"] for worker in status["workers"]}
    local = [name for name in names if "@" not in name or name in here]
    elsewhere = [name for name in names if name not in local]
    return [short_name(name) for name in local], elsewhere


def check(ledger: Ledger, names: Sequence[str]) -> None:
    """NotFound unless each of these full names is a worker's whose heartbeat is in the ledger."""
    known = sorted(heartbeat.name for heartbeat in ledger.heartbeats(float("inf")))
    if missing := [name for name in names if name not in known]:
        raise NotFound(f"There is no worker {missing[0]}.", f"Workers: {', '.join(known) or 'none'}")


def ask(
    ledger: Ledger,
    operation: str,
    names: Sequence[str],
    report: Callable[[str], None],
    done: str,
    patience_s: float = math.inf,
    **arguments: object,
) -> None:
    """Have the supervisors of these workers do it, and wait until each has; `done` is the word for that.

    TimeoutError when a supervisor does not take its request, or gives no sign of life afterwards. TimedOut when it has
    not done it within `patience_s`, Failed when it cannot. What no supervisor has taken by then is withdrawn.
    """
    waited_for: list[_Wait] = []
    began = time.monotonic()
    try:
        for name in names:
            waited_for.append(_Wait(ledger, worker_requests.send(ledger, operation, name, **arguments)))
        while waited_for:
            for wait in list(waited_for):
                if wait.is_over(time.monotonic() - began > patience_s):
                    waited_for.remove(wait)
                    report(f"{wait.request.worker} {done}")
            time.sleep(_LOOK_EVERY_S if waited_for else 0)
    finally:
        with suppress(Unreachable, Refused):
            for wait in waited_for:
                worker_requests.withdraw(ledger, wait.request)


class _Wait:
    """One request, and when its supervisor last gave a sign of life."""

    def __init__(self, ledger: Ledger, request: WorkerRequest) -> None:
        self.request = request
        self._ledger = ledger
        self._is_taken = False
        self._alive_at = time.monotonic()

    def is_over(self, is_late: bool) -> bool:
        """Whether it was done. Raises as `ask` does."""
        answer = worker_requests.read_answer(self._ledger, self.request)
        if answer == DONE:
            return True
        if answer not in (None, ACCEPTED):
            raise Failed(f"The {self._supervisor} did not {self.request.operation} it: {answer}.", _SEE_THERE)
        now = time.monotonic()
        if answer == ACCEPTED:
            self._is_taken, self._alive_at = True, now
        is_silent = now - self._alive_at > REQUEST_TTL_S
        if not self._is_taken and (is_silent or is_late):
            self._withdraw()
        if is_silent:
            return self._has_ended()
        if is_late:
            late = f"The {self._supervisor} did not {self.request.operation} it in time."
            raise TimedOut(late, "It continues by itself. See: mistudio workers status")
        return False

    def _withdraw(self) -> None:
        if worker_requests.withdraw(self._ledger, self.request):
            raise TimeoutError(f"the {self._supervisor} has not taken the request, and nothing was changed")
        self._is_taken = True

    def _has_ended(self) -> bool:
        """Without a sign of life of the supervisor: True if the worker was stopped and gives none either."""
        worker = self.request.worker
        names = {heartbeat.name for heartbeat in self._ledger.heartbeats()} | {
            name for name, _ in self._ledger.holders()
        }
        if self.request.operation == "stop" and worker not in names:
            return True
        raise TimeoutError(f"the {self._supervisor} has taken the request, and its outcome is unknown")

    @property
    def _supervisor(self) -> str:
        return f"supervisor of {self.request.worker}"
