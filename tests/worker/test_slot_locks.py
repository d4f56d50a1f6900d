"""Locks and slots, held by real processes that die real deaths."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks.paths import Places
from tasks.system import process_identity
from tasks.worker.slot_locks import WorkerPhase, living_workers
from tests.conftest import until

#: Does what its standard input says, line by line, and says when it has.
SITTER = """
import os, sys
from pathlib import Path
from tasks.paths import Places
from tasks.worker.slot_locks import WorkerLock
home, slots = Path(sys.argv[1]), int(sys.argv[2])
lock = WorkerLock(Places(home, home), "worker-training", ("training",), slots)
held = []
for word in map(str.strip, sys.stdin):
    if word == "take":
        lock.acquire(lambda: True)
    elif word == "rise":
        lock.release()
    elif word == "leave":
        lock.close()
    elif word == "slot":
        holding = lock.slot()
        held.append(holding)
        word += f" {holding.__enter__()}"
    elif word == "end slot":
        held.pop().__exit__(None, None, None)
    elif word == "busy?":
        word += f" {lock.is_busy()}"
    elif word == "fork" and os.fork() == 0:
        os.setpgid(0, 0)
        while True:
            __import__("signal").pause()
    print("done", word, flush=True)
"""


class Sitter:
    """A worker that does nothing but sit."""

    def __init__(self, home: Path, slots: int) -> None:
        pipe = subprocess.PIPE
        argv = [sys.executable, "-c", SITTER, str(home), str(slots)]
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, process_group=0)

    def begin(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def done(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().removeprefix("done ").strip()

    def __call__(self, word: str) -> str:
        self.begin(word)
        return self.done()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


class Room:
    """A home with sitters."""

    def __init__(self, home: Path) -> None:
        self.places = Places(home, home)
        self.sitters: list[Sitter] = []

    def sitter(self, slots: int = 1) -> Sitter:
        self.sitters.append(Sitter(self.places.home, slots))
        return self.sitters[-1]

    def one_waits_for_the_slot_of_the_other(self) -> tuple[Sitter, Sitter]:
        first, second = self.sitter(), self.sitter()
        for word in ("take", "slot", "rise"):
            first(word)
        second("take")
        second.begin("slot")
        return first, second

    def kill_children(self, sitter: Sitter) -> None:
        for child in psutil.Process(sitter.process.pid).children():
            child.kill()

    def postures(self) -> dict[int, str]:
        return {other.pid: str(other.phase) for other in living_workers(self.places)}


@pytest.fixture
def room(short_tmp: Path) -> Iterator[Room]:
    room = Room(short_tmp)
    yield room
    for sitter in room.sitters:
        sitter.end()


def test_the_second_sits_down_when_the_first_rises_and_not_before(room: Room) -> None:
    first, second = room.sitter(), room.sitter()
    first("take")
    second.begin("take")
    until(lambda: room.postures() == {first.process.pid: "sitting", second.process.pid: "waiting"})
    first("rise")
    assert second.done() == "take"
    assert room.postures() == {first.process.pid: "leaving", second.process.pid: "sitting"}
    first("leave")
    assert room.postures() == {second.process.pid: "sitting"}


def test_a_killed_worker_leaves_its_lock_free_and_its_note_is_removed(room: Room) -> None:
    first, second = room.sitter(), room.sitter()
    first("take")
    note = room.places.worker_lock("worker-training") / f"{first.process.pid}.json"
    assert note.exists()
    first.end()
    assert second("take") == "take"
    assert room.postures() == {second.process.pid: "sitting"}
    assert not note.exists()


def test_a_lock_is_held_for_as_long_as_any_of_the_tree_lives(room: Room) -> None:
    first, second = room.sitter(), room.sitter()
    first("take")
    first("fork")
    (child,) = psutil.Process(first.process.pid).children()
    first.process.kill()
    first.process.wait()
    second.begin("take")
    until(lambda: second.process.pid in room.postures())
    assert room.postures() == {second.process.pid: "waiting"}
    child.kill()
    assert second.done() == "take"


def test_who_rises_gives_up_the_lock_of_its_children_too(room: Room) -> None:
    first, second = room.sitter(), room.sitter()
    first("take")
    first("fork")
    first("rise")
    assert second("take") == "take"
    room.kill_children(first)


def test_old_and_new_together_never_hold_more_slots_than_the_lock_has(room: Room) -> None:
    first, second = room.sitter(slots=2), room.sitter(slots=2)
    first("take")
    assert first("slot") == "slot True"
    first("rise")
    second("take")
    assert second("slot") == "slot True"
    second.begin("slot")
    first("end slot")
    assert second.done() == "slot True"


def test_a_slot_outlives_no_death(room: Room) -> None:
    first, second = room.one_waits_for_the_slot_of_the_other()
    first.end()
    assert second.done() == "slot True"


def test_a_slot_that_waits_gives_up_when_its_worker_leaves(room: Room) -> None:
    _, second = room.one_waits_for_the_slot_of_the_other()
    note = room.places.worker_lock("worker-training") / f"{second.process.pid}.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "posture": WorkerPhase.DRAINING}))
    assert second.done() == "slot False"


def test_a_note_with_a_recycled_pid_is_nobodys(room: Room) -> None:
    other_process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder = room.places.worker_lock("worker-training")
    folder.mkdir(parents=True)
    result = {"name": "worker-training", "queues": ["training"], "slots": 1, "supervisor": 1, "posture": "leaving"}
    (folder / f"{other_process.pid}.json").write_text(
        json.dumps({**result, **process_identity.describe(os.getpid()), "pid": other_process.pid})
    )
    assert living_workers(room.places) == []
    assert not (folder / f"{other_process.pid}.json").exists()
    other_process.communicate(b"\n")
    assert other_process.returncode == 0


def test_a_process_is_recognised_by_its_birth() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    result = process_identity.describe(sleeper.pid)
    found = process_identity.find_process(result)
    assert found is not None
    assert found.pid == sleeper.pid
    sleeper.communicate(b"\n")
    assert process_identity.find_process(result) is None
    assert process_identity.find_process({"pid": "x"}) is None


def test_a_worker_is_busy_while_a_slot_of_its_own_holds_a_job_or_waits_for_room(room: Room) -> None:
    first, second = room.one_waits_for_the_slot_of_the_other()
    third = room.sitter()
    assert [first("busy?"), third("busy?")] == ["busy? True", "busy? False"]
    first("end slot")
    assert first("busy?") == "busy? False"
    assert second.done() == "slot True"
    assert second("busy?") == "busy? True"
    second("end slot")
    assert second("busy?") == "busy? False"
