"""One supervised worker: its process, its state, its counts. It obeys; the supervisor decides."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mistudio_cli.profile import WorkerSpec
from mistudio_cli.states import ARROWS, MUTE_LIVES, SOUND_AGE_S, Event, Status, after, pause_s

#: After TERM a worker finishes its jobs; after QUIT they are checkpointed and put back; then it is killed.
DEFAULT_TERM_GRACE_S = 10.0
QUIT_GRACE_S = 30.0

Clock = Callable[[], float]
Spawn = Callable[[WorkerSpec], subprocess.Popen[bytes]]


@dataclass
class Child:
    """A worker the supervisor keeps."""

    spec: WorkerSpec
    spawn: Spawn
    clock: Clock
    status: Status = Status.STOPPED
    process: subprocess.Popen[bytes] | None = None
    born_at: float = 0.0
    restarts: int = 0
    last_exit: str | None = None
    _deaths: int = 0
    _mute_lives: int = 0
    _due_at: float = 0.0
    _ladder: list[tuple[float, signal.Signals]] = field(default_factory=list)

    @property
    def pid(self) -> int | None:
        """The pid of its living process."""
        return self.process.pid if self.process is not None else None

    def start(self) -> None:
        """Bring it to life, unless it lives or is about to."""
        if self.status in (Status.STOPPED, Status.FATAL):
            self._deaths = self._mute_lives = 0
            self._live(Event.START)

    def stop(self, grace_s: float) -> None:
        """Begin the ladder TERM, QUIT, KILL; a `grace_s` of 0 begins with QUIT."""
        if (self.status, Event.STOP) not in ARROWS:
            return
        self.status = after(self.status, Event.STOP)
        if self.process is None:
            return
        now = self.clock()
        self._ladder = [(now + grace_s, signal.SIGQUIT), (now + grace_s + QUIT_GRACE_S, signal.SIGKILL)]
        if grace_s > 0:
            self._signal(signal.SIGTERM)

    def hurry(self, grace_s: float) -> None:
        """Shorten the wait of a ladder that has begun."""
        now = self.clock()
        if self.status is Status.STOPPING and self._ladder and self._ladder[0][0] > now + grace_s:
            self._ladder = [(now + grace_s, signal.SIGQUIT), (now + grace_s + QUIT_GRACE_S, signal.SIGKILL)]

    def answered(self) -> None:
        """It has said that it consumes."""
        if self.status is Status.STARTING:
            self.status = after(self.status, Event.ANSWERED)
            self._mute_lives = 0

    def tick(self) -> None:
        """Look at the process and the clock, and take the arrow that is due."""
        if self.process is not None and (code := self.process.poll()) is not None:
            self._died(code)
        now = self.clock()
        if self.status is Status.BACKOFF and self._mute_lives >= MUTE_LIVES:
            self.status = after(self.status, Event.GIVE_UP)
        if self.status is Status.BACKOFF and now >= self._due_at:
            self.restarts += 1
            self._live(Event.RETRY)
        while self._ladder and self.process is not None and now >= self._ladder[0][0]:
            self._signal(self._ladder.pop(0)[1])

    def _live(self, event: Event) -> None:
        self.status = after(self.status, event)
        self.born_at = self.clock()
        self.process = self.spawn(self.spec)

    def _died(self, code: int) -> None:
        age = self.clock() - self.born_at
        self.process, self._ladder = None, []
        self.last_exit = describe_exit(code)
        if self.status is Status.STARTING:
            self._mute_lives += 1
        self._deaths = 1 if age > SOUND_AGE_S else self._deaths + 1
        self.status = after(self.status, Event.DIED)
        self._due_at = self.clock() + pause_s(self._deaths)

    def _signal(self, signum: signal.Signals) -> None:
        # TERM and QUIT go to the worker's main process alone: its pool would take them for an order to die at once.
        assert self.process is not None
        if signum is signal.SIGKILL:
            os.killpg(self.process.pid, signum)  # not reaped yet, so the number is still its own
        else:
            self.process.send_signal(signum)


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a text file; none when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 200 * (lines + 1)))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []
