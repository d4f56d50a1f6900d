"""Lives of workers, step by step on a clock of the test's own."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

import pytest

from mistudio_cli.profile.rules import WorkerSpec
from mistudio_cli.supervisor.child import Child, describe_exit
from mistudio_cli.supervisor.states import ARROWS, IDLE, Event, Status, pause_s, quit_grace_s

SPEC = WorkerSpec("all-queues", ("training",), 1)


@dataclass
class FakeProcess:
    """A process that does nothing but record its signals."""

    pid: int = 4711
    code: int | None = None
    signals: list[str] = field(default_factory=list)

    def poll(self) -> str | None:
        return None if self.code is None else describe_exit(self.code)

    def send_signal(self, signum: signal.Signals) -> None:
        self.signals.append(signum.name)

    def kill_tree(self) -> None:
        self.signals.append("KILL TREE")
        self.code = -signal.SIGKILL


class Life:
    """A child with a fake clock, to which things happen."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.spawns = True
        self.process = FakeProcess()
        self.child = Child(SPEC, self._spawn, lambda: self.now)

    def _spawn(self, spec: WorkerSpec) -> FakeProcess:
        if not self.spawns:
            raise OSError("no memory left")
        self.process = FakeProcess()
        return self.process

    def happens(self, event: str, value: float | None) -> None:
        match event, value:
            case "start", _:
                self.child.start()
            case "answers", _:
                self.child.heartbeat_received(self.now)
            case "stop", float() as grace_s:
                self.child.stop(grace_s)
            case "dies", float() as code:
                self.process.code = int(code)
            case "wait", float() as seconds:
                self.now += seconds
            case "cannot be started", _:
                self.spawns = False
        self.child.tick()


def step(text: str) -> tuple[str, float | None, Status]:
    """A line of a story: what happens, and where the worker is then."""
    happening, _, status = text.partition(" -> ")
    event, _, value = happening.rpartition(" ") if happening[-1].isdigit() else (happening, "", "")
    return event, float(value) if value else None, Status(status)


STORIES = {
    "an ordinary life": ("start -> starting", "answers -> running", "stop 10 -> stopping", "dies 0 -> stopped"),
    "killed, it comes back after a pause": (
        *("start -> starting", "answers -> running", "dies -9 -> backoff"),
        *("wait 0.4 -> backoff", "wait 0.2 -> starting", "answers -> running"),
    ),
    "whoever answered is tried again, with longer and longer pauses": (
        *("start -> starting", "answers -> running"),
        *("dies 1 -> backoff", "wait 0.5 -> starting", "answers -> running"),
        *("dies 1 -> backoff", "wait 0.9 -> backoff", "wait 0.1 -> starting", "answers -> running"),
        *("dies 1 -> backoff", "wait 1.9 -> backoff", "wait 0.1 -> starting", "answers -> running"),
        *("dies 1 -> backoff", "wait 3.9 -> backoff", "wait 0.1 -> starting", "answers -> running"),
        *("dies 1 -> backoff", "wait 7.9 -> backoff", "wait 0.1 -> starting", "answers -> running"),
        *("dies 1 -> backoff", "wait 15.9 -> backoff", "wait 0.1 -> starting", "answers -> running"),
        *("dies 1 -> backoff", "wait 29.9 -> backoff", "wait 0.1 -> starting", "answers -> running"),
        *("dies 1 -> backoff", "wait 29.9 -> backoff", "wait 0.1 -> starting", "answers -> running"),
    ),
    "a long life makes up for deaths before it": (
        *("start -> starting", "answers -> running", "dies 1 -> backoff", "wait 0.5 -> starting", "answers -> running"),
        *("wait 61 -> running", "dies 1 -> backoff", "wait 0.5 -> starting"),
    ),
    "who dies young again and again is given up, though it answers": (
        *("start -> starting", "answers -> running"),
        *(("dies 1 -> backoff", "wait 30 -> starting", "answers -> running") * 10),
        *("dies 1 -> fatal", "wait 1000 -> fatal", "start -> starting", "answers -> running", "dies 1 -> backoff"),
    ),
    "who never answers is given up, and may be started again": (
        *("start -> starting", "dies 1 -> backoff", "wait 0.5 -> starting", "dies 1 -> backoff", "wait 1 -> starting"),
        *("dies 1 -> backoff", "wait 2 -> starting", "dies 1 -> fatal", "wait 1000 -> fatal"),
        *("start -> starting", "dies 1 -> backoff", "wait 0.5 -> starting", "answers -> running"),
    ),
    "silent lives count only in a row": (
        *("start -> starting", "dies 1 -> backoff", "wait 30 -> starting", "dies 1 -> backoff", "wait 30 -> starting"),
        *("answers -> running", "dies 1 -> backoff", "wait 30 -> starting"),
        *("dies 1 -> backoff", "wait 30 -> starting", "dies 1 -> backoff", "wait 30 -> starting"),
        *("dies 1 -> backoff", "wait 30 -> starting", "dies 1 -> fatal"),
    ),
    "who cannot be started is given up too": (
        *("cannot be started -> stopped", "start -> backoff", "wait 0.5 -> backoff", "wait 1 -> backoff"),
        "wait 2 -> fatal",
    ),
    "stopped in a pause, it stays so": (
        "start -> starting",
        "dies 1 -> backoff",
        "stop 10 -> stopped",
        "wait 99 -> stopped",
    ),
    "stopped before it answered": (
        "start -> starting",
        "stop 10 -> stopping",
        "answers -> stopping",
        "dies -15 -> stopped",
    ),
    "stopped twice, ended once": (
        *("start -> starting", "answers -> running", "stop 10 -> stopping", "stop 10 -> stopping", "dies 0 -> stopped"),
        "stop 10 -> stopped",
    ),
    "given up, then stopped": (
        *("cannot be started -> stopped", "start -> backoff", "wait 0.5 -> backoff", "wait 1 -> backoff"),
        *("wait 2 -> fatal", "stop 10 -> stopped"),
    ),
    "started while it lives, nothing happens": (
        "start -> starting",
        "start -> starting",
        "answers -> running",
        "start -> running",
    ),
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())
def test_a_life(story: tuple[str, ...]) -> None:
    life = Life()
    for line in story:
        event, value, status = step(line)
        life.happens(event, value)
        assert life.child.status is status, line


#: From QUIT to KILL: time for the checkpoints of the jobs that take longest to stop.
GRACE_S = quit_grace_s()


@pytest.mark.parametrize(
    ("happenings", "result"),
    [
        ([("stop", 10.0)], ["SIGTERM"]),
        ([("stop", 10.0), ("wait", 9.9)], ["SIGTERM"]),
        ([("stop", 10.0), ("wait", 10.0)], ["SIGTERM", "SIGQUIT"]),
        ([("stop", 10.0), ("wait", 10.0), ("wait", GRACE_S - 0.1)], ["SIGTERM", "SIGQUIT"]),
        ([("stop", 10.0), ("wait", 10.0), ("wait", GRACE_S)], ["SIGTERM", "SIGQUIT", "KILL TREE"]),
        ([("stop", 0.0)], ["SIGQUIT"]),
        ([("stop", 0.0), ("wait", GRACE_S)], ["SIGQUIT", "KILL TREE"]),
        ([("stop", 3600.0), ("wait", 5.0), ("stop", 0.0)], ["SIGTERM", "SIGQUIT"]),
        ([("stop", 3600.0), ("stop", 1.0), ("wait", 1.0 + GRACE_S)], ["SIGTERM", "SIGQUIT", "KILL TREE"]),
        ([("stop", 1.0), ("stop", 3600.0), ("wait", 1.0)], ["SIGTERM", "SIGQUIT"]),
        ([("stop", 0.0), ("wait", 5.0), ("stop", 0.0)], ["SIGQUIT"]),
    ],
)
def test_the_ladder(happenings: list[tuple[str, float]], result: list[str]) -> None:
    life = Life()
    life.happens("start", None)
    life.happens("answers", None)
    for event, value in happenings:
        life.happens(event, value)
    assert life.process.signals == result


def test_how_it_ended_and_how_often_is_remembered() -> None:
    life = Life()
    for event, value in [("start", None), ("answers", None), ("dies", -9.0), ("wait", 1.0), ("dies", 3.0)]:
        life.happens(event, value)
    assert (life.child.restarts, life.child.last_exit, life.child.pid) == (1, "exit code 3", None)
    assert life.child.started_at is None


def test_it_says_when_the_clock_gives_it_something_to_do() -> None:
    life = Life()
    assert life.child.due_at == float("inf")
    life.happens("start", None)
    assert life.child.due_at == float("inf")
    life.happens("dies", 1.0)
    assert life.child.due_at == life.now + 0.5
    life.happens("wait", 0.5)
    life.happens("stop", 7.0)
    assert life.child.due_at == life.now + 7.0


def test_pauses_double_up_to_a_bound() -> None:
    assert [pause_s(deaths) for deaths in range(1, 10)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert pause_s(10_000) == 30


def test_every_state_can_be_left_and_no_arrow_leads_astray() -> None:
    assert {status for status, _ in ARROWS} == set(Status)
    assert set(ARROWS.values()) == set(Status)
    assert {event for _, event in ARROWS} == set(Event)
    assert all((status, Event.STOP) in ARROWS for status in set(Status) - {Status.STOPPED, Status.STOPPING})
    assert all((status, Event.DIED) not in ARROWS for status in IDLE)
