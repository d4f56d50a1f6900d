"""What other hosts ask of this home's workers: the supervisor's side of `tasks.fleet.worker_requests`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from mistudio_cli.supervisor.child import Child, Clock
from tasks.fleet import worker_requests
from tasks.fleet.worker_requests import ACCEPTED, DONE, WorkerRequest
from tasks.ledger.client import Ledger
from tasks.redis_client.redis_connection import Refused, Unreachable

if TYPE_CHECKING:
    from mistudio_cli.supervisor.heartbeats import HeartbeatMonitor
    from mistudio_cli.supervisor.rolling_restart import Restart
    from mistudio_cli.supervisor.workers import WorkerSet

log = logging.getLogger("mistudio.supervisor")

LOOK_EVERY_S = 1.0

#: After Redis did not answer: each try costs a timeout, in which the supervisor changes nothing.
_PAUSE_S = 5.0

#: The answer to a request as it is now.
Outcome = Callable[[], str]


class RemoteRequests:
    """Takes requests about the workers of this home, and answers each until it is carried out.

    `is_ending` says whether the supervisor is about to end, and begins nothing any more.
    """

    def __init__(
        self, worker_set: WorkerSet, redis: HeartbeatMonitor, clock: Clock, is_ending: Callable[[], bool]
    ) -> None:
        self._worker_set, self._redis, self._clock, self._is_ending = worker_set, redis, clock, is_ending
        self._look_at = -math.inf
        self._under_way: list[tuple[WorkerRequest, Outcome]] = []

    def tick(self) -> None:
        """Once a second: begin what is requested, and answer all that is under way."""
        ledger = self._redis.ledger
        if ledger is None or self._clock() < self._look_at:
            return
        self._look_at = self._clock() + LOOK_EVERY_S
        try:
            self._take(ledger)
            self._answer(ledger)
        except (Unreachable, Refused):  # what is not answered yet stays under way
            self._look_at = self._clock() + _PAUSE_S

    def end(self) -> None:
        """The supervisor ends: give all that is under way its last answer."""
        ended = "the supervisor ended before it was done"
        self._under_way = [
            (request, _constant(ended if (answer := outcome()) == ACCEPTED else answer))
            for request, outcome in self._under_way
        ]
        if (ledger := self._redis.ledger) is not None:
            with suppress(Unreachable, Refused):
                self._answer(ledger)

    def _take(self, ledger: Ledger) -> None:
        """Begin what is requested, also what was taken before Redis did not answer any more."""
        names, taken = self._worker_set.full_names(), list[WorkerRequest]()

        def take() -> None:
            for request in worker_requests.take(ledger, names):
                taken.append(request)

        try:
            self._redis.run_apart(take)
        finally:
            self._under_way += [(request, self._begin(request)) for request in taken]

    def _answer(self, ledger: Ledger) -> None:
        for entry in list(self._under_way):
            request, outcome = entry
            answer = outcome()
            self._redis.run_apart(partial(worker_requests.answer, ledger, request, answer))
            if answer != ACCEPTED:
                self._under_way.remove(entry)

    def _begin(self, request: WorkerRequest) -> Outcome:
        """Do what is requested; what to answer from now on."""
        if request.operation not in ("stop", "restart"):
            return _constant(f"there is no operation {request.operation!r}")
        if request.operation == "restart" and self._is_ending():
            return _constant("the supervisor is ending")
        log.info("requested from elsewhere: %s %s %s", request.operation, request.worker, request.arguments)
        name = request.worker.partition("@")[0]
        order: dict[str, Any] = {**request.arguments, "names": [name]}
        children = self._worker_set.named(name)
        try:
            is_stop = request.operation == "stop"
            reply = self._worker_set.stop(order) if is_stop else self._worker_set.restart_as_it_is(order)
        except (ValueError, KeyError, TypeError) as error:
            return _constant(f"the request cannot be answered: {error!r}")
        if "error" in reply:
            return _constant(str(reply["error"]))
        if is_stop:
            return lambda: _of_stop(children)
        restart = self._worker_set.pending_restart(name)
        assert restart is not None
        return lambda: _of_restart(restart)


def _constant(answer: str) -> Outcome:
    return lambda: answer


def _of_stop(children: list[Child]) -> str:
    """DONE once the processes that were stopped are gone, whoever has their name meanwhile."""
    return ACCEPTED if any(child.process is not None for child in children) else DONE


def _of_restart(restart: Restart) -> str:
    """DONE once another process has taken over."""
    if not restart.is_over:
        return ACCEPTED
    return DONE if restart.failure is None else "{name} does not start ({why})".format(**restart.failure)
