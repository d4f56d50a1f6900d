"""The strikes of a siege: planned from a seed alone, so that a run can be repeated, and carried out at a home."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.ledger.client import LEASE_TTL_S
from tasks.paths import Places
from tests.conftest import until
from tests.soak.processes import Being, Census, Role, above

#: How often each is a target, and of what.
Targets = Mapping[Role, tuple[int, tuple[str, ...]]]

_TARGETS: Targets = {
    Role.RUNNER: (4, ("KILL", "TERM", "QUIT", "STOP", "STOP for good")),
    Role.SLOT: (5, ("KILL", "TERM", "QUIT", "STOP", "STOP for good")),
    Role.WORKER: (5, ("KILL", "TERM", "QUIT", "STOP", "STOP for good")),
    Role.SUPERVISOR: (4, ("KILL", "TERM", "QUIT", "STOP")),
    Role.REDIS: (3, ("KILL", "TERM", "STOP")),
}

#: Workers that have most to do.
_BUSY_WORKERS = ("worker-training", "worker-high-priority")

TARGET_PATIENCE_S = 5.0

#: As a unit with Restart=always does. A Redis that has just died several times in a row is not started at once.
TRIES, PAUSE_S = 5, 2.0


@dataclass(frozen=True)
class Strike:
    """What is done in a round: after `wait_s` a signal to one of the target's kind; `pick` in [0, 1) says which."""

    wait_s: float
    signal: str
    target: Role
    pick: float
    busy: bool
    stopped_s: float

    def __str__(self) -> str:
        return f"{self.signal} at a {self.target} after {self.wait_s:.2f} s"


@dataclass(frozen=True)
class Hit:
    """A strike that was carried out, at a time of the epoch; `jobs` are those that ran in or below the target."""

    at: float
    signal: str
    target: Being
    jobs: tuple[str, ...]


def planned(seed: int, rounds: int, targets: Targets = _TARGETS) -> list[Strike]:
    """The strikes of a siege: for a seed always the same, and the first ones of a longer siege."""
    chance = random.Random(seed)
    roles, weights = list(targets), [weight for weight, _ in targets.values()]
    plan = []
    for _ in range(rounds):
        (target,) = chance.choices(roles, weights)
        wait_s, how = chance.uniform(0.0, 2.0), chance.choice(targets[target][1])
        plan.append(Strike(wait_s, how, target, chance.random(), chance.random() < 0.7, chance.uniform(0.2, 2.0)))
    return plan


class Siege:
    """Strikes at one home, logged in `story`. `command` starts its workers, as a service manager would.

    Those in or below which a runner is `at_work` are hit more often than others, else the workers that have most to do.
    """

    def __init__(
        self, places: Places, command: Sequence[str], environment: dict[str, str], *, at_work: bool = False
    ) -> None:
        self.story: list[str] = []
        self.hits: list[Hit] = []
        self._places, self._census = places, Census(places.home)
        self._command, self._environment, self._at_work = command, environment, at_work
        self._began = time.monotonic()
        self._starting = threading.Lock()

    def log(self, what: str) -> None:
        """Add to the story, with the seconds since it began."""
        self.story.append(f"{time.monotonic() - self._began:7.2f} s  {what}")

    def start(self) -> None:
        """Start the workers, as often as a service manager would; fails when they do not come up."""
        with self._starting:
            self._start()

    def _start(self) -> None:
        for _ in range(TRIES):
            done = subprocess.run(
                [*self._command], env=self._environment, capture_output=True, text=True, timeout=200, cwd="/"
            )
            self.log(f"start: {done.returncode} {done.stderr.strip().splitlines()[-2:]}")
            if done.returncode == 0:
                return
            time.sleep(PAUSE_S)
        pytest.fail(f"the workers do not come up: {done.stderr}")

    def keep_evidence(self, broken: Sequence[str]) -> None:
        """Copy the logs to where they outlive the home, with the stacks of the workers that are there."""
        for being in self.everybody():
            if being.role is Role.WORKER:
                self.send(being, signal.SIGUSR1)  # Celery's workers then write down where each thread is
        time.sleep(1.0)
        folder = Path(tempfile.mkdtemp(prefix="mistudio-kills-"))
        shutil.copytree(self._places.logs, folder, dirs_exist_ok=True)
        for what in (*broken, *map(str, self.everybody()), f"logs: {folder}"):
            self.log(what)

    def everybody(self) -> list[Being]:
        """All processes of the home."""
        return list(self._census().values())

    def carry_out(self, strike: Strike) -> None:
        """Strike, and see to it that there is a supervisor again."""
        time.sleep(strike.wait_s)
        target = self.hit(strike)
        if target is not None:
            self.repair(strike, target)

    def hit(self, strike: Strike, patience_s: float = TARGET_PATIENCE_S) -> Being | None:
        """Strike whom the plan says, and return at once; None when there is nobody."""
        target = self._target(strike, patience_s)
        if target is None:
            self.log(f"{strike}: nobody there")
            return None
        self.log(f"{strike.signal}: {target}")
        self.hits.append(Hit(time.time(), strike.signal, target, _jobs_of(target, self._census())))
        first = strike.signal.split()[0]
        self.send(target, signal.Signals[f"SIG{first}"])
        return target

    def repair(self, strike: Strike, target: Being) -> None:
        """Continue one that was stopped, and see to it that there is a supervisor again."""
        if strike.signal.startswith("STOP"):
            time.sleep(strike.stopped_s + (LEASE_TTL_S if strike.signal == "STOP past the lease" else 0.0))
            if strike.signal == "STOP for good":
                self._kill_the_supervisor()
            else:
                self.send(target, signal.SIGCONT)
        if not self._is_kept() or (target.role is Role.SUPERVISOR and not strike.signal.startswith("STOP")):
            self.start()
        if target.role is Role.RUNNER:  # nothing but a stall limit ends a job that somebody stopped on purpose
            self.send(target, signal.SIGCONT)

    def send(self, target: Being, signum: signal.Signals) -> None:
        """Signal one that lives; whoever has its pid by now is spared."""
        if target.lives:
            os.kill(target.pid, signum)

    def _kill_the_supervisor(self) -> None:
        for being in self.everybody():
            if being.role is Role.SUPERVISOR:
                self.log(f"KILL: {being}")
                self.send(being, signal.SIGKILL)
                until(lambda being=being: not being.lives, "the supervisor to die")

    def _is_kept(self) -> bool:
        return any(being.role is Role.SUPERVISOR for being in self.everybody())

    def _target(self, strike: Strike, patience_s: float) -> Being | None:
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            found = sorted(self._candidates(strike), key=lambda being: (being.worker_lock, being.birth, being.pid))
            if found:
                return found[int(strike.pick * len(found))]
            time.sleep(0.02)
        return None

    def _candidates(self, strike: Strike) -> list[Being]:
        costs_the_supervisor = strike.target is Role.SUPERVISOR or strike.signal == "STOP for good"
        if costs_the_supervisor and strike.busy and self._starting.locked():
            return []  # it is seldom killed while it starts its workers, or a slow machine would never get to work
        everybody = self._census()
        found = [being for being in everybody.values() if being.role is strike.target and being.state not in "Tt"]
        busy = [
            being
            for being in found
            if (_jobs_of(being, everybody) if self._at_work else being.worker_lock in _BUSY_WORKERS)
        ]
        return busy if strike.busy and busy else found


def _jobs_of(being: Being, everybody: dict[int, Being]) -> tuple[str, ...]:
    """Those that run in it or below it."""
    runners = [other for other in everybody.values() if other.job]
    return tuple(
        runner.job for runner in runners if being.pid in {boss.pid for boss in (runner, *above(runner, everybody))}
    )
