"""What must hold at every moment, whatever is killed: looked at many times a second while jobs run."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tasks.paths import Places
from tests.soak.processes import Being, Census, Role, above

LOOK_EVERY_S = 0.05

#: How long a process may be left whom nobody looks after.
ORPHAN_S = 15.0

#: A look that comes late says nothing of the time before it: a machine that stood still is nobody's fault.
_LONGEST_LOOK_S = 0.5

#: Who may be left over. Redis outlives its supervisor on purpose.
_LOOKED_AFTER = (Role.WORKER, Role.SLOT, Role.RUNNER, Role.HELPER)


class Watch(threading.Thread):
    """Looks at a home until it is asked to stop; `broken` are the promises it saw broken.

    `also` return other broken promises, each time they are asked.
    """

    def __init__(self, places: Places, slots: dict[str, int], *also: Callable[[], Iterator[str]]) -> None:
        super().__init__(name="watch", daemon=True)
        self.broken: list[str] = []
        self.looks = 0
        self._places, self._slots, self._also = places, slots, also
        self._census = Census(places.home)
        self._alone: dict[tuple[int, int], float] = defaultdict(float)
        self._ending = threading.Event()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.join()

    def run(self) -> None:
        """Look again and again."""
        last = time.monotonic()
        try:
            while not self._ending.wait(LOOK_EVERY_S):
                now = time.monotonic()
                self._look(min(now - last, _LONGEST_LOOK_S))
                last = now
        except Exception:
            self.broken.append(f"the watch itself: {traceback.format_exc()}")

    def _look(self, passed_s: float) -> None:
        everybody = self._census()
        self.looks += 1
        for broken in (
            *self._two_per_lock(everybody),
            *self._too_many_per_lock(everybody),
            *self._one_job_twice(everybody),
            *self._orphans(everybody, passed_s),
            *(broken for look in self._also for broken in look()),
        ):
            if broken not in self.broken:
                self.broken.append(broken)

    def _two_per_lock(self, everybody: dict[int, Being]) -> Iterator[str]:
        sitting: dict[str, list[tuple[Being, Path]]] = defaultdict(list)
        for note in self._places.worker_locks.glob("*/*.json"):
            being = everybody.get(int(note.stem)) if note.stem.isdecimal() else None
            if being is not None and _sits(note, being):
                sitting[note.parent.name].append((being, note))
        for worker_lock, who in sitting.items():
            # The first may have died while the second was looked at: only whoever sits still has sat all the time.
            if len(who) > 1 and all(_sits(note, being) for being, note in who):
                yield f"two consume at {worker_lock}: {_names([being for being, _ in who])}"

    def _too_many_per_lock(self, everybody: dict[int, Being]) -> Iterator[str]:
        """A runner whose slot was killed is on its way out, and holds no slot any more."""
        at_work: dict[str, list[Being]] = defaultdict(list)
        for being in everybody.values():
            if being.role is Role.RUNNER and being.parent in everybody:
                at_work[being.worker_lock].append(being)
        for worker_lock, who in at_work.items():
            slots = [everybody[being.parent] for being in who]
            if len(who) > self._slots.get(worker_lock, 1) and all(being.lives for being in (*who, *slots)):
                yield f"more jobs at {worker_lock} than it has slots: {_names(who)}"

    def _one_job_twice(self, everybody: dict[int, Being]) -> Iterator[str]:
        runners: dict[str, list[Being]] = defaultdict(list)
        for being in everybody.values():
            if being.role is Role.RUNNER:
                runners[being.job].append(being)
        for job, who in runners.items():
            if len(who) > 1 and all(being.lives for being in who):
                yield f"one job in two processes: {_names(who)}, job {job}"

    def _sits(self, being: Being) -> bool:
        return _sits(self._places.worker_lock(being.worker_lock) / f"{being.pid}.json", being)

    def _orphans(self, everybody: dict[int, Being], passed_s: float) -> Iterator[str]:
        """Whoever has no supervisor, unless it belongs to a worker that takes no jobs any more and still runs one.

        The time in which a slot is stopped does not count: its worker gives it up, but not at once.
        """
        at_work = {
            boss.pid for being in everybody.values() if being.role is Role.RUNNER for boss in above(being, everybody)
        }
        halted = {
            boss.pid
            for being in everybody.values()
            if being.role is Role.SLOT and being.state in "Tt"
            for boss in (being, *above(being, everybody))
        }
        alone = {}
        for being in everybody.values():
            bosses = [being, *above(being, everybody)]
            is_supervised = any(boss.role is Role.SUPERVISOR for boss in bosses)
            drains = any(boss.role is Role.WORKER and boss.pid in at_work and not self._sits(boss) for boss in bosses)
            if being.role in _LOOKED_AFTER and not is_supervised and not drains:
                who = (being.pid, being.birth)
                alone[who] = self._alone[who] + (0.0 if being.pid in halted else passed_s)
                if alone[who] > ORPHAN_S:
                    yield f"an orphan after {ORPHAN_S:g} s: {being}, its parent was {being.parent}"
        self._alone = defaultdict(float, alone)


def _sits(note: Path, being: Being) -> bool:
    with suppress(OSError, ValueError):
        result = json.loads(note.read_text(encoding="utf-8"))
        return result["posture"] == "sitting" and result["birth"].endswith(f" {being.birth}") and being.lives
    return False


def _names(who: Sequence[Being]) -> str:
    return ", ".join(sorted(map(str, who)))
