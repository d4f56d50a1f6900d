"""One supervised worker: where it is in its life, and what is due next. It obeys; the supervisor decides.

It has no clock and no operating system of its own: both are passed in, so that a test can script its life.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from mistudio_cli.profile.rules import WorkerSpec
from mistudio_cli.supervisor.states import (
    ARROWS,
    MUTE_LIVES,
    SILENCE_S,
    SOUND_AGE_S,
    YOUNG_DEATHS,
    Event,
    Status,
    after,
    hung_grace_s,
    pause_s,
    quit_grace_s,
)
from tasks.worker.slot_locks import CANNOT_START_JOBS

Clock = Callable[[], float]


class Process(Protocol):
    """What a child needs of an operating system's process."""

    pid: int

    def poll(self) -> str | None:
        """How it ended, in words; None while it lives."""

    def send_signal(self, signum: signal.Signals) -> None:
        """Signal its main process alone."""

    def kill_tree(self) -> None:
        """Kill it and everything below it."""


Spawn = Callable[[WorkerSpec], Process]


@dataclass(eq=False)
class Child:
    """A worker the supervisor keeps."""

    spec: WorkerSpec
    spawn: Spawn
    clock: Clock
    status: Status = Status.STOPPED
    process: Process | None = None
    started_at: float | None = None  # seconds since the epoch, for people; ages are measured by the clock
    restarts: int = 0
    last_exit: str | None = None
    refusal: str | None = None  # why it may not consume, by its last heartbeat
    _born_at: float = 0.0
    _deaths: int = 0
    _mute_lives: int = 0
    _last_heartbeat: float | None = None
    _heartbeat_at: float = 0.0
    _retry_at: float = math.inf
    _ladder: list[tuple[float, signal.Signals]] = field(default_factory=list)

    @property
    def pid(self) -> int | None:
        """The pid of its living process."""
        return self.process.pid if self.process is not None else None

    @property
    def age_s(self) -> float:
        """Seconds since it was last started."""
        return self.clock() - self._born_at

    @property
    def state(self) -> str:
        """Its status in the word people see: one that may take as long as its jobs do is draining."""
        if self.status is Status.STARTING and self.refusal:
            return "refused"
        return "draining" if self.status is Status.STOPPING and self.due_at == math.inf else str(self.status)

    @property
    def due_at(self) -> float:
        """When the clock alone will give it something to do."""
        return min(self._retry_at, self._ladder[0][0] if self._ladder else math.inf)

    @classmethod
    def adopted(cls, spec: WorkerSpec, process: Process, clock: Clock, started_at: float) -> Child:
        """An old supervisor's worker that finishes its last jobs; it has no next life."""
        return cls(spec, _no_next_life, clock, Status.STOPPING, process, started_at)

    def start(self) -> None:
        """Bring it to life, unless it lives or is about to."""
        if (self.status, Event.START) in ARROWS:  # STOPPED or FATAL -> STARTING
            self._deaths = self._mute_lives = self.restarts = 0
            self._live(Event.START)

    def stop(self, grace_s: float) -> None:
        """Begin the ladder TERM, QUIT, KILL, or hurry one that was begun.

        A `grace_s` of 0 begins with QUIT; with an infinite one it may finish its jobs however long they take.
        """
        quit_at = self.clock() + grace_s
        if self.status is Status.STOPPING and len(self._ladder) != 1:  # QUIT is still to come
            self._plan(min(quit_at, self._ladder[0][0] if self._ladder else math.inf))
        elif (self.status, Event.STOP) in ARROWS:
            self.status = after(self.status, Event.STOP)  # BACKOFF or FATAL -> STOPPED, else -> STOPPING
            self._retry_at = math.inf
            if self.process is not None:
                self._plan(quit_at)
                if grace_s > 0:
                    self.process.send_signal(signal.SIGTERM)
        self._climb()

    def heartbeat_received(self, heartbeat: float) -> None:
        """Store its latest heartbeat, by the time in it: it consumes, and it is not silent if this heartbeat is new."""
        if heartbeat != self._last_heartbeat:
            self._last_heartbeat, self._heartbeat_at = heartbeat, self.clock()
        if self.status is Status.STARTING:
            self.status = after(self.status, Event.ANSWERED)  # STARTING -> RUNNING
            self._mute_lives = 0
        elif self.status is Status.RUNNING and self.clock() - self._heartbeat_at > SILENCE_S:
            self.status = after(self.status, Event.SILENT)  # RUNNING -> HUNG
            self._plan(self.clock(), hung_grace_s())

    def excuse(self) -> None:
        """Restart its silence: no heartbeat could be received until now, because Redis was away."""
        self._heartbeat_at = self.clock()

    def tick(self) -> None:
        """Look at the process and the clock, and take the arrow that is due."""
        if self.process is not None and (how := self.process.poll()) is not None:
            self._died(how)
        if self.status is Status.BACKOFF and self.clock() >= self._retry_at:
            self.restarts += 1
            self._live(Event.RETRY)  # BACKOFF -> STARTING
        if self.status is Status.BACKOFF and (self._mute_lives >= MUTE_LIVES or self._deaths >= YOUNG_DEATHS):
            self.status = after(self.status, Event.GIVE_UP)  # BACKOFF -> FATAL
            self._retry_at = math.inf
        self._climb()

    def _plan(self, quit_at: float, grace_s: float | None = None) -> None:
        kill_at = quit_at + (quit_grace_s() if grace_s is None else grace_s)
        self._ladder = [(quit_at, signal.SIGQUIT), (kill_at, signal.SIGKILL)]

    def _climb(self) -> None:
        """Take the steps of the ladder that are due."""
        while self.process is not None and self._ladder and self.clock() >= self._ladder[0][0]:
            _, step = self._ladder.pop(0)
            if step is signal.SIGKILL:
                self.process.kill_tree()
            else:
                self.process.send_signal(step)

    def _live(self, event: Event) -> None:
        self.status = after(self.status, event)
        self._born_at, self._retry_at, self._last_heartbeat = self.clock(), math.inf, None
        self.started_at = time.time()
        try:
            self.process = self.spawn(self.spec)
        except OSError as error:
            self._died(f"could not be started: {error}")

    def _died(self, how: str) -> None:
        """STARTING, RUNNING or HUNG -> BACKOFF, STOPPING -> STOPPED."""
        now = self.clock()
        self.process, self.started_at, self._ladder = None, None, []
        self.last_exit = how if self.status is not Status.HUNG else f"sent no heartbeat for {SILENCE_S:g} s; {how}"
        if self.status is Status.STARTING:
            self._mute_lives += 1
        self._deaths = 1 if now - self._born_at > SOUND_AGE_S else self._deaths + 1
        self.status = after(self.status, Event.DIED)
        if self.status is Status.BACKOFF:
            self._retry_at = now + pause_s(self._deaths)


def _no_next_life(spec: WorkerSpec) -> Process:
    raise OSError(f"{spec.name} is on its way out")


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code == CANNOT_START_JOBS:
        return f"exit code {code}: it could not begin jobs, and its log says why"
    return f"exit code {code}"
