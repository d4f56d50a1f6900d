"""The workers of one home: desired workers, replacements and draining workers.

Each worker name has one active child; a worker that only finishes its last jobs is draining. A request that cannot be
met is answered with an `error`, and changes nothing.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mistudio_cli.profile.rules import WorkerSpec, scaled
from mistudio_cli.supervisor import worker_events
from mistudio_cli.supervisor.child import Child, Clock, Process
from mistudio_cli.supervisor.heartbeats import HeartbeatMonitor
from mistudio_cli.supervisor.rolling_restart import Restart, RollingRestart
from mistudio_cli.supervisor.states import IDLE, Status
from mistudio_cli.supervisor.worker_process import AdoptedWorker
from tasks.accelerators.visible_devices import limits_in
from tasks.paths import Places
from tasks.system import process_identity
from tasks.worker import slot_locks
from tasks.worker.slot_locks import WorkerPhase

log = logging.getLogger("mistudio.supervisor")

CHECK_LOCKS_EVERY_S = 5.0

Spawn = Callable[[WorkerSpec, dict[str, str]], Process]


class WorkerSet:
    """The workers of one home, reconciled at every tick. `heartbeat_monitor` has their heartbeats."""

    def __init__(self, places: Places, clock: Clock, spawn: Spawn, heartbeat_monitor: HeartbeatMonitor) -> None:
        self.profile: str | None = None
        self.children: dict[str, Child] = {}
        self.draining: list[Child] = []
        self._rolling_restart = RollingRestart(self)
        self._of_profile: set[WorkerSpec] = set()
        self._check_locks_at = -math.inf
        self._places, self._clock, self._spawn, self._heartbeat_monitor = places, clock, spawn, heartbeat_monitor
        self._environment: dict[str, str] = {}
        self._noted: dict[Child, Status] = {}

    # -- what can be asked of it ----------------------------------------------------------------------------------

    def start(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run the workers of a profile, or, without one, some more."""
        specs = [WorkerSpec.from_dict(values) for values in request["specs"]]
        alive = {name: child for name, child in self._alive().items() if child.status is not Status.STOPPING}
        if refusal := self.refusal(request["broker_url"]):
            return refusal
        profile = request["profile"]
        is_another = None not in (profile, self.profile) and (profile, set(specs)) != (self.profile, self._of_profile)
        taken = sorted(spec.name for spec in specs if spec.name in alive and alive[spec.name].spec != spec)
        if (alive and is_another) or (profile is not None and taken):
            return {"error": "others run", "workers": sorted(alive)}
        if taken:
            return {"error": "name taken", "workers": taken}
        self._take_order(request)
        if not alive:
            for name in list(self.children):
                self.drain(name)
            self.profile = None
        if profile is not None:
            self.profile, self._of_profile = profile, set(specs)
        self._bring_up(specs)
        return self.to_dict()

    def stop(self, request: dict[str, Any]) -> dict[str, Any]:
        """End these workers, or all. `grace_s` None lets their jobs finish however long they take."""
        self._adopt()
        known = {child.spec.name for child in self._everyone()}
        names = set(request.get("names") or known)
        if unknown := sorted(names - known):
            return {"error": "unknown worker", "workers": unknown}
        grace_s = request.get("grace_s")
        self._rolling_restart.forget(names)
        for child in self._everyone():
            if child.spec.name in names:
                child.stop(math.inf if grace_s is None else float(grace_s))
        self._note_changes()
        return self.to_dict()

    def restart(self, request: dict[str, Any]) -> dict[str, Any]:
        """Replace these workers, or all that live, one after the other; `slots` changes how many jobs they run."""
        alive = self._alive()
        names = request.get("names") or list(alive)
        if unknown := [name for name in names if name not in self.children]:
            return {"error": "unknown worker", "workers": unknown}
        environment = dict(request["environment"])
        is_new, self._environment = environment != self._environment, environment
        slots = {"slots": request["slots"]} if request.get("slots") else {}
        specs = [dataclasses.replace(self.children[name].spec, **slots) for name in names]
        self._rolling_restart.begin(specs, in_new_environment=is_new)
        return self.to_dict()

    def restart_as_it_is(self, request: dict[str, Any]) -> dict[str, Any]:
        """Restart with the environment that the workers have: whoever asks from another host has another one."""
        return self.restart({**request, "environment": self._environment})

    def scale(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run `counts` workers of each queue: new ones are numbered, draining ones finish their jobs."""
        if refusal := self.refusal(request["broker_url"]):
            return refusal
        running = [child.spec for child in self._alive().values()]
        busy = self._heartbeat_monitor.busy()
        every = [scaled(queue, count, running, busy) for queue, count in request["counts"].items()]
        self._take_order(request)
        for wanted in every:
            self._bring_up(wanted.more)
            for name in wanted.fewer:
                self.drain(name)
        return self.to_dict()

    def refusal(self, broker_url: str) -> dict[str, Any] | None:
        """The error for a start of workers on this Redis while others run on another one."""
        alive = self._alive()
        if alive and not self._heartbeat_monitor.is_at(broker_url):
            return {"error": "another broker", "workers": sorted(alive)}
        return None

    def to_dict(self) -> dict[str, Any]:
        """Profile, workers and the restart under way, as records that JSON can carry."""
        self._adopt()
        return {
            "profile": self.profile,
            "workers": [_child_json(child) for child in (*self.children.values(), *self.draining)],
            "restart": self._rolling_restart.to_dict(),
        }

    def kill(self) -> None:
        """End all of them here and now."""
        for child in self._everyone():
            if child.process is not None:
                child.process.kill_tree()

    # -- what it does by itself -----------------------------------------------------------------------------------

    def tick(self) -> None:
        """Take every step that is due."""
        for child in self._everyone():
            child.tick()
        self._note_changes()
        self.draining = [child for child in self.draining if child.process is not None]
        self._replace_draining()
        self._rolling_restart.tick()
        self._heartbeat_monitor.listen(list(self.children.values()))
        self._note_changes()

    @property
    def due_at(self) -> float:
        """When the clock alone will give it something to do."""
        return min((child.due_at for child in self._everyone()), default=math.inf)

    @property
    def gpu_limits(self) -> dict[str, str]:
        """The variables that limit the GPUs of the workers, by the environment they were started with."""
        return limits_in(self._environment)

    def full_names(self) -> set[str]:
        """The names of all of them, as the ledger knows them."""
        return {full_name(child.spec.name) for child in self._everyone()}

    def named(self, name: str) -> list[Child]:
        """The worker of that name, and those that only finish their last jobs under it."""
        return [child for child in self._everyone() if child.spec.name == name]

    def pending_restart(self, name: str) -> Restart | None:
        """The restart of that worker which is under way."""
        return self._rolling_restart.pending(name)

    @property
    def is_expecting(self) -> bool:
        """Whether somebody is about to answer or to take over."""
        return any(child.status is Status.STARTING for child in self._everyone())

    @property
    def is_gone(self) -> bool:
        """Whether no process is left."""
        return all(child.process is None for child in self._everyone())

    @property
    def is_lost(self) -> bool:
        """Whether every worker that was wanted has been given up."""
        return bool(self.children) and all(child.status is Status.FATAL for child in self.children.values())

    # -- what a handover does -------------------------------------------------------------------------------------

    def create_child(self, spec: WorkerSpec) -> Child:
        """A child for that worker, not yet started."""
        return Child(spec, self._live, self._clock)

    def drain(self, name: str) -> None:
        """Let the worker of that name finish its jobs and exit."""
        child = self.children.pop(name)
        child.stop(math.inf)
        self.discard(child)

    def discard(self, child: Child) -> None:
        """End a child that is no active worker."""
        if child.status is not Status.STOPPING:
            child.stop(0.0)
        if child.process is not None:
            self.draining.append(child)

    def is_ready(self, child: Child) -> bool:
        """Whether it waits for its worker lock, or holds it."""
        return any(other.pid == child.pid for other in slot_locks.living_workers(self._places))

    # -- how it does it -------------------------------------------------------------------------------------------

    def _replace_draining(self) -> None:
        """A worker that was terminated from outside releases its lock while its last jobs run: start another one."""
        if self._clock() < self._check_locks_at:
            return
        self._check_locks_at = self._clock() + CHECK_LOCKS_EVERY_S
        leaving = {
            other.pid for other in slot_locks.living_workers(self._places) if other.phase is WorkerPhase.DRAINING
        }
        for name, child in list(self.children.items()):
            if child.status is Status.RUNNING and child.pid in leaving:
                self.drain(name)
                self._bring_up([child.spec])

    def _bring_up(self, specs: Sequence[WorkerSpec]) -> None:
        for spec in specs:
            child = self.children.get(spec.name)
            if child is not None and child.status in {*IDLE, Status.STOPPING}:  # another may take its lock
                self.drain(spec.name)
            if spec.name not in self.children:
                self.children[spec.name] = self.create_child(spec)
            self.children[spec.name].start()
        self._note_changes()

    def _adopt(self) -> None:
        """Know the workers that a supervisor before this one left behind: they finish their jobs and end."""
        known = {child.pid for child in self._everyone()}
        for other in slot_locks.living_workers(self._places):
            if other.supervisor in (None, os.getpid()) or other.pid in known:
                continue
            process = process_identity.find_process({"pid": other.pid, "birth": other.birth})
            if process is not None:
                spec = WorkerSpec(other.name, other.queues, other.slots)
                worker = AdoptedWorker(process)
                worker.send_signal(
                    signal.SIGTERM
                )  # it drains already, unless it was stopped before it saw that it should
                self.draining.append(Child.adopted(spec, worker, self._clock, process.create_time()))

    def _take_order(self, request: dict[str, Any]) -> None:
        self._environment = dict(request["environment"])  # of each worker's next life
        self._heartbeat_monitor.connect_to(request["broker_url"])

    def _live(self, spec: WorkerSpec) -> Process:
        return self._spawn(spec, {**self._environment, "MISTUDIO_SUPERVISOR": str(os.getpid())})

    def _alive(self) -> dict[str, Child]:
        return {name: child for name, child in self.children.items() if child.status not in IDLE}

    def _everyone(self) -> Iterator[Child]:
        replacement = self._rolling_restart.replacement
        is_separate = replacement is not None and self.children.get(replacement.spec.name) is not replacement
        yield from [
            *self.children.values(),
            *self.draining,
            *([replacement] if replacement is not None and is_separate else []),
        ]

    def _note_changes(self) -> None:
        noted, self._noted = self._noted, {child: child.status for child in self._everyone()}
        for child, status in self._noted.items():
            before = noted.get(child, Status.STOPPED)
            if status is not before:
                log.info("%s: %s -> %s, pid %s %s", child.spec.name, before, status, child.pid, child.last_exit or "")
                worker_events.record(
                    self._places, full_name(child.spec.name), before, status, child.pid, child.last_exit
                )


def full_name(worker: str) -> str:
    """A worker's name as Celery and the ledger know it."""
    return f"{worker}@{socket.gethostname()}"


def _child_json(child: Child) -> dict[str, Any]:
    return {
        "name": full_name(child.spec.name),
        "state": child.state,
        "pid": child.pid,
        "queues": list(child.spec.queues),
        "slots": child.spec.slots,
        "restarts": child.restarts,
        "started_at": child.started_at,
        "last_exit": child.last_exit,
        "refusal": child.refusal,
    }
