"""Bringing a profile's workers up and down, and waiting until they are: what `workers` and `quickstart` share.

Each function is given `report`, which receives every worker's step as it happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from typing import Any

from mistudio_cli.errors import Failed, NoRedis, TimedOut
from mistudio_cli.fleet import supervisor_client
from mistudio_cli.log_files import last_lines
from mistudio_cli.profile.rules import WorkerSpec
from mistudio_cli.redis import redis_server
from mistudio_cli.settings import Settings
from mistudio_cli.supervisor.states import IDLE, TERM_GRACE_S, Status
from tasks.errors import UserError
from tasks.paths import Places
from tasks.system import process_identity
from tasks.worker import slot_locks
from tasks.worker.slot_locks import WorkerPhase

START_PATIENCE_S = 120.0
LOG_LINES_SHOWN = 12

_LOOK_EVERY_S = 0.1

#: What becomes of a worker that may not consume.
_WAITS = "It waits until it may. To give up: mistudio workers stop"

#: What becomes of workers whose home's Redis does not stay up.
_WAITS_FOR_REDIS = "They wait for it. To give up: mistudio workers stop --all"

#: States of a worker that takes no more jobs.
_LEAVING = ("stopping", "draining")

Report = Callable[[str], None]


class NeverAnswered(UserError):
    """A worker died too often before it answered; `log_lines` are the last it wrote."""

    def __init__(self, name: str, last_exit: str | None, log_lines: Sequence[str]) -> None:
        super().__init__(f"{name} does not start ({last_exit}).", f"See: mistudio workers logs {short_name(name)}")
        self.log_lines = tuple(log_lines)


def start(
    settings: Settings,
    profile: str | None,
    specs: Sequence[WorkerSpec],
    report: Report,
    patience_s: float = START_PATIENCE_S,
) -> list[str]:
    """Start the workers of a profile, or some beside those that run, and wait until each has answered.

    Returns the names of those that ran already. Raises UserError when others run, NeverAnswered when one dies again and
    again, Failed when the supervisor is gone, TimedOut when it takes longer than `patience_s`. Ctrl-C stops again what
    was started here.
    """
    names = {spec.name for spec in specs}
    ran = [
        name for name in names if (now := _worker_rows(settings.places).get(name)) and now["state"] == Status.RUNNING
    ]
    try:
        supervisor_client.start(settings, profile, specs)
        _await_answers(settings.places, names, set(ran), report, patience_s)
    except KeyboardInterrupt:
        with suppress(supervisor_client.NotRunning, UserError):  # when it came before the supervisor knew of them
            supervisor_client.stop(settings.places, sorted(names - set(ran)), grace_s=0.0)
        raise
    except supervisor_client.NotRunning as error:
        raise _deserted(names) from error
    return ran


def restart(
    settings: Settings, names: Sequence[str], slots: int | None, report: Report, patience_s: float = START_PATIENCE_S
) -> list[str]:
    """Replace workers one after the other, and wait until each new one has answered. Returns their names.

    Raises NeverAnswered when a new one fails: the workers not yet replaced continue. NotRunning when all are meant and
    none runs, NotFound for a name that is no worker's.
    """
    before = {name: row["pid"] for name, row in _worker_rows(settings.places).items()}
    reply = supervisor_client.restart(settings, names, slots)
    wanted = [name for name in reply["restart"]["pending"] if not names or name in names]
    if not wanted:
        raise supervisor_client.NotRunning
    left, deadline = list(wanted), time.monotonic() + patience_s
    while left:
        reply = supervisor_client.ask(settings.places, "status")
        if failed := _failure(reply["restart"], left):
            raise NeverAnswered(failed["name"], failed["why"], _log_lines(settings.places, failed["name"]))
        now = {short_name(row["name"]): row["pid"] for row in reply["workers"] if row["state"] not in _LEAVING}
        for name in [name for name in left if name not in reply["restart"]["pending"]]:
            left.remove(name)
            report(f"{name} has been replaced ({before.get(name) or 'none'} -> {now.get(name)})")
        if left and time.monotonic() > deadline:
            raise TimedOut(
                f"Not every worker has been replaced in time: {', '.join(left)}.", "It continues in the background."
            )
        time.sleep(_LOOK_EVERY_S if left else 0)
    return list(wanted)


def scale(
    settings: Settings, counts: Mapping[str, int], report: Report, patience_s: float = START_PATIENCE_S
) -> tuple[list[str], list[str]]:
    """Run `counts` workers of each queue, and wait until new ones have answered. Returns names of new and of leaving.

    Raises as `start` does. Those that leave finish their jobs first; nobody waits for them.
    """
    before = _worker_rows(settings.places)
    try:
        after = supervisor_client.scale(settings, counts)
    except supervisor_client.NotRunning as error:
        raise _deserted(f"worker-{queue}" for queue in counts) from error
    there = {short_name(row["name"]) for row in after["workers"] if row["state"] not in (*_LEAVING, *IDLE)}
    was_there = {name for name, row in before.items() if row["state"] not in (*_LEAVING, *IDLE)}
    more = there - was_there
    _await_answers(settings.places, more, set(), report, patience_s)
    return sorted(more), sorted(was_there - there)


def stop(places: Places, names: Sequence[str], report: Report, grace_s: float | None = TERM_GRACE_S) -> list[str]:
    """Stop these workers, or all, and wait until they have ended; `grace_s` None: however long their jobs take.

    Returns those of `names` that had stopped before. NotRunning when all are meant and none runs, NotFound for a name
    that is no worker's.
    """
    waited_for = _living(supervisor_client.stop(places, names, grace_s)["workers"], names)
    if not waited_for and not names:
        raise supervisor_client.NotRunning
    lived = {short_name(worker) for worker, _ in waited_for}
    _print_wait(waited_for, report, grace_s)
    while waited_for:
        waited_for = _print_ended(waited_for, _workers(places), report)
        time.sleep(_LOOK_EVERY_S if waited_for else 0)
    return [name for name in dict.fromkeys(names) if name not in lived]


def shutdown(places: Places, report: Report, grace_s: float | None = TERM_GRACE_S) -> None:
    """Stop all workers, the supervisor and the home's own Redis, and wait until they are gone.

    Also ends a Redis that nobody looks after. NotRunning when there was nothing to end.
    """
    redis = redis_server.running(places)
    try:
        reply = supervisor_client.shutdown(places, grace_s, redis=True)
    except supervisor_client.NotRunning:
        if not redis_server.stop(places):
            raise
        report("Redis has ended.")
        return
    waited_for = _living(reply["workers"], ())
    _print_wait(waited_for, report, grace_s)
    supervisor = _process(reply["supervisor"]["pid"])
    while supervisor is not None and process_identity.is_alive(supervisor):
        waited_for = _print_ended(waited_for, _workers(places), report)
        time.sleep(_LOOK_EVERY_S)
    for name, _ in sorted(waited_for):
        report(f"{name} has ended")
    report("The supervisor has ended." if redis is None else "The supervisor and Redis have ended.")


def running(places: Places) -> set[tuple[str, int | None]]:
    """Names and pids of this home's workers that take jobs, or are about to."""
    return {(name, worker["pid"]) for name, worker in _worker_rows(places).items() if worker["state"] not in IDLE}


def short_name(worker: str) -> str:
    """A worker's name without its host."""
    return worker.partition("@")[0]


def _await_answers(places: Places, names: Set[str], answered: set[str], report: Report, patience_s: float) -> None:
    """Wait until all of `names` have answered; `answered` are those that have."""
    deadline = time.monotonic() + patience_s
    reported: set[tuple[str, int]] = set()
    while silent := sorted(names - answered):
        status = supervisor_client.status(places) or {"workers": []}
        if trouble := status.get("redis", {}).get("trouble"):
            raise NoRedis(f"{trouble.rstrip('.')}.", _WAITS_FOR_REDIS)
        rows = _by_name(status["workers"])
        there = {name for name, row in rows.items() if row["state"] != Status.STOPPED}
        if deserted := set(silent) - there:
            raise _deserted(deserted)
        for name in silent:
            state = rows[name]["state"]
            if state == Status.FATAL:
                raise NeverAnswered(rows[name]["name"], rows[name]["last_exit"], _log_lines(places, name))
            if state == "refused":
                raise Failed(f"{rows[name]['name']} does not consume: {rows[name]['refusal']}.", _WAITS)
            if state == Status.RUNNING:
                answered.add(name)
                report(f"{rows[name]['name']} has answered ({len(answered)} of {len(names)})")
        for name, pid in _held_up(places, silent).items() - reported:
            reported.add((name, pid))
            report(f"{name} waits until the worker with pid {pid} releases its lock")
        if silent and time.monotonic() > deadline:
            hint = f"They are still starting. See: mistudio workers logs {silent[0]}"
            raise TimedOut(f"Not every worker has answered in time: {', '.join(silent)}.", hint)
        time.sleep(_LOOK_EVERY_S)


def _failure(restart: dict[str, Any], names: Sequence[str]) -> dict[str, str] | None:
    """Name and reason of the worker whose restart failed, so that one of `names` was not replaced."""
    if "failures" not in restart:  # a supervisor of an earlier version knows one restart at a time
        return restart["failed"]
    return next((restart["failures"][name] for name in names if name in restart["failures"]), None)


def _deserted(names: Iterable[str]) -> Failed:
    listed = ", ".join(sorted(names))
    return Failed(f"The supervisor ended, or was asked to stop them, while it started {listed}.", "Start them again")


def _held_up(places: Places, names: Sequence[str]) -> dict[str, int]:
    """Of these workers, those that wait for another one to release their lock, and its pid."""
    there = [other for other in slot_locks.living_workers(places) if other.name in names]
    sitting = {other.name: other.pid for other in there if other.phase is WorkerPhase.ACTIVE}
    return {
        other.name: sitting[other.name]
        for other in there
        if other.phase is WorkerPhase.WAITING and other.name in sitting
    }


def _living(workers: Sequence[dict[str, Any]], names: Sequence[str]) -> set[tuple[str, int]]:
    wanted = [worker for worker in workers if not names or short_name(worker["name"]) in names]
    return {(worker["name"], worker["pid"]) for worker in wanted if worker["pid"] is not None}


def _print_wait(waited_for: Set[tuple[str, int]], report: Report, grace_s: float | None) -> None:
    if waited_for and grace_s is None:
        report("Running jobs may finish, however long that takes.")
    elif waited_for and grace_s:
        report(f"Running jobs may finish for {grace_s:g} s, then they are put back with what they have done.")


def _print_ended(
    waited_for: set[tuple[str, int]], workers: Sequence[dict[str, Any]], report: Report
) -> set[tuple[str, int]]:
    """Report of those that have ended meanwhile; returns those that have not."""
    living = _living(workers, ())
    how = {worker["name"]: worker["last_exit"] for worker in workers if worker["pid"] is None}
    for name, _ in sorted(waited_for - living):
        report(f"{name} has ended{f' ({how[name]})' if how.get(name) else ''}")
    return waited_for & living


def _worker_rows(places: Places) -> dict[str, dict[str, Any]]:
    """The active worker of each name, by its name without the host; those that only finish their last jobs apart."""
    return _by_name(_workers(places))


def _by_name(workers: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {short_name(worker["name"]): worker for worker in workers if worker["state"] not in _LEAVING}


def _log_lines(places: Places, name: str) -> list[str]:
    return last_lines(places.worker_log(name), LOG_LINES_SHOWN)


def _workers(places: Places) -> list[dict[str, Any]]:
    status = supervisor_client.status(places)
    return status["workers"] if status is not None else []


def _process(pid: int) -> Any:
    import psutil

    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None
