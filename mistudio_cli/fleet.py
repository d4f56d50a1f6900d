"""Bringing a profile's workers up and down, and waiting until they are: what `workers` and `quickstart` share.

Each function is handed `tell`, which hears of every worker's step as it happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from mistudio_cli import control, redis_server
from mistudio_cli.errors import TimedOut
from mistudio_cli.log_files import last_lines
from mistudio_cli.profile import Profile, workers_of
from mistudio_cli.settings import Settings
from mistudio_cli.states import IDLE, TERM_GRACE_S, Status
from tasks import identity
from tasks.places import Places
from tasks.problem import Problem

START_PATIENCE_S = 120.0
LOG_LINES_SHOWN = 12

_LOOK_EVERY_S = 0.1

Tell = Callable[[str], None]


class NeverAnswered(Problem):
    """A worker died too often before it answered; `log_lines` are the last it wrote."""

    def __init__(self, name: str, last_exit: str | None, log_lines: Sequence[str]) -> None:
        super().__init__(f"{name} does not start ({last_exit}).", f"mistudio workers logs {short_name(name)}")
        self.log_lines = tuple(log_lines)


def start(settings: Settings, profile: Profile, tell: Tell, patience_s: float = START_PATIENCE_S) -> list[str]:
    """Start a profile's workers and wait until each has answered. Returns the names of those that ran already.

    Raises Problem when others run, NeverAnswered when one dies again and again, TimedOut when it takes longer than
    `patience_s`. Ctrl-C stops again what was started here.
    """
    places, specs = settings.places, workers_of(profile)
    ran = [worker["name"] for worker in _workers(places) if worker["state"] == Status.RUNNING]
    try:
        control.start(settings, profile, specs)
        _await_answers(places, ran, tell, time.monotonic() + patience_s)
    except KeyboardInterrupt:
        began = [spec.name for spec in specs if spec.name not in map(short_name, ran)]
        with suppress(control.NotRunning, Problem):  # when it came before the supervisor heard of them
            control.stop(places, began, grace_s=0.0)
        raise
    return ran


def stop(places: Places, names: Sequence[str], tell: Tell, grace_s: float = TERM_GRACE_S) -> None:
    """Stop these workers, or all, and wait until they have ended. NotRunning when none runs."""
    waited_for = _living(_workers(places), names)
    control.stop(places, names, grace_s)
    if not waited_for:
        raise control.NotRunning
    _tell_wait(waited_for, tell, grace_s)
    while waited_for:
        waited_for = _tell_ended(waited_for, _workers(places), tell)
        time.sleep(_LOOK_EVERY_S if waited_for else 0)


def shutdown(places: Places, tell: Tell, grace_s: float = TERM_GRACE_S) -> None:
    """Stop all workers, the supervisor and the home's own Redis, and wait until they are gone.

    Also ends a Redis that nobody looks after. NotRunning when there was nothing to end.
    """
    redis = redis_server.running(places)
    try:
        reply = control.shutdown(places, grace_s, redis=True)
    except control.NotRunning:
        if not redis_server.stop(places):
            raise
        tell("Redis has ended.")
        return
    waited_for = _living(reply["workers"], ())
    _tell_wait(waited_for, tell, grace_s)
    supervisor = _process(reply["supervisor"]["pid"])
    while supervisor is not None and identity.is_alive(supervisor):
        waited_for = _tell_ended(waited_for, _workers(places), tell)
        time.sleep(_LOOK_EVERY_S)
    for name in sorted(waited_for):
        tell(f"{name} has ended")
    tell("The supervisor has ended." if redis is None else "The supervisor and Redis have ended.")


def short_name(worker: str) -> str:
    """A worker's name without its host."""
    return worker.partition("@")[0]


def _await_answers(places: Places, ran: Sequence[str], tell: Tell, deadline: float) -> None:
    answered = set(ran)
    while True:
        workers = _workers(places)
        for worker in workers:
            if worker["state"] == Status.FATAL:
                lines = last_lines(places.worker_log(short_name(worker["name"])), LOG_LINES_SHOWN)
                raise NeverAnswered(worker["name"], worker["last_exit"], lines)
            if worker["state"] == Status.RUNNING and worker["name"] not in answered:
                answered.add(worker["name"])
                tell(f"{worker['name']} has answered ({len(answered)} of {len(workers)})")
        silent = [worker["name"] for worker in workers if worker["name"] not in answered]
        if not silent:
            return
        if time.monotonic() > deadline:
            mend = f"They go on starting. See: mistudio workers logs {short_name(silent[0])}"
            raise TimedOut(f"Not every worker has answered in time: {', '.join(silent)}.", mend)
        time.sleep(_LOOK_EVERY_S)


def _living(workers: Sequence[dict[str, Any]], names: Sequence[str]) -> set[str]:
    wanted = [worker for worker in workers if not names or short_name(worker["name"]) in names]
    return {worker["name"] for worker in wanted if worker["state"] not in IDLE}


def _tell_wait(waited_for: set[str], tell: Tell, grace_s: float) -> None:
    if waited_for and grace_s > 0:
        tell(f"Running jobs may finish for {grace_s:g} s, then they are put back with what they have done.")


def _tell_ended(waited_for: set[str], workers: Sequence[dict[str, Any]], tell: Tell) -> set[str]:
    """Tell of those that have ended meanwhile; returns those that have not."""
    ended = {worker["name"]: worker["last_exit"] for worker in workers if worker["state"] in IDLE}
    for name in sorted(waited_for & ended.keys()):
        tell(f"{name} has ended ({ended[name]})")
    return waited_for - ended.keys()


def _workers(places: Places) -> list[dict[str, Any]]:
    told = control.status(places)
    return told["workers"] if told is not None else []


def _process(pid: int) -> Any:
    import psutil

    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None
