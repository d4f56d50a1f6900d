"""A supervisor that is ticked by hand, a clock that a test moves on, and processes that stand in for workers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from mistudio_cli.profile.rules import WorkerSpec
from mistudio_cli.supervisor import worker_process
from mistudio_cli.supervisor.main import Supervisor
from mistudio_cli.supervisor.workers import full_name
from tasks.ledger.client import Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.paths import Places
from tasks.worker.slot_locks import WorkerPhase, living_workers
from tests.conftest import PATIENCE_S, until

PAIR = (WorkerSpec("worker-training", ("training",), 1), WorkerSpec("worker-datasets", ("datasets",), 4))

#: Sleeps until asked to stop; takes its slots along as a real worker does.
OBEDIENT = "import signal; signal.sigwait([signal.SIGTERM, signal.SIGQUIT])"
STUBBORN = """
import signal, subprocess, sys
for signum in (signal.SIGTERM, signal.SIGQUIT):
    signal.signal(signum, lambda s, _: print('ignores', signal.Signals(s).name, flush=True))
slot = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], process_group=0)
print('slot', slot.pid, flush=True)
while True: signal.pause()
"""
#: Takes its lock as a real worker does; on SIGTERM it releases it at once, and exits when nothing is left to do.
SITTING = """
import signal, sys, time
from pathlib import Path
from tasks.paths import Places
from tasks.worker.slot_locks import WorkerLock
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
home, name = Path(sys.argv[1]), sys.argv[2]
lock = WorkerLock(Places(home, home / 'store'), name, ('training',), 1)
lock.acquire(lambda: True)
signal.sigwait([signal.SIGTERM])
lock.release()
while (home / 'work').exists():
    time.sleep(0.02)
lock.close()
"""
BROKEN = "print('no such thing as torch'); raise SystemExit(3)"


class World:
    """A supervisor that this test ticks by hand, and a clock that can be moved on."""

    def __init__(self, folder: Path, ledger: Ledger, url: str) -> None:
        self.places = Places(folder, folder / "store")
        for part in (self.places.run, self.places.logs):
            part.mkdir(parents=True)
        self.ledger, self.url, self.now = ledger, url, 0.0
        self.script = OBEDIENT
        self.environments: list[dict[str, str]] = []
        self.supervisor = Supervisor(self.places, lambda: self.now, self._spawn)
        self._connect_to = self.supervisor.heartbeat_monitor.connect_to
        self.supervisor.heartbeat_monitor.connect_to = self._connect_patiently

    def _connect_patiently(self, url: str) -> None:
        """Give Redis all the time that it needs: one that was held up would be asked again by a clock that stands."""
        self._connect_to(url)
        ledger = self.supervisor.heartbeat_monitor.ledger
        assert ledger is not None
        ledger.client._timeout_s = PATIENCE_S

    def _spawn(self, spec: WorkerSpec, environment: dict[str, str]) -> worker_process.WorkerProcess:
        self.environments.append(environment)
        argv = [sys.executable, "-c", self.script, str(self.places.home), spec.name]
        result = {**os.environ, "MISTUDIO_SUPERVISOR": environment["MISTUDIO_SUPERVISOR"]}
        return worker_process.spawn(argv, result, self.places.run, self.places.worker_log(spec.name))

    def start(self, *specs: WorkerSpec, **changes: Any) -> dict[str, Any]:
        result = [{"name": spec.name, "queues": list(spec.queues), "slots": spec.slots} for spec in specs or PAIR]
        request = {"op": "start", "profile": "p", "specs": result, "broker_url": self.url, "environment": {}, **changes}
        return self.supervisor.answer(request)

    def ask(self, op: str, **result: Any) -> dict[str, Any]:
        reply = self.supervisor.answer({"op": op, "broker_url": self.url, "environment": {}, **result})
        assert "error" not in reply, reply
        return reply

    def rows(self) -> list[tuple[str, str]]:
        """Every worker there is, in the order of the table."""
        return [(row["name"].partition("@")[0], row["state"]) for row in self.supervisor.status()["workers"]]

    def pid(self, name: str) -> int:
        pid = self.supervisor.worker_set.children[name].pid
        assert pid is not None
        return pid

    def active(self, *names: str) -> None:
        """Until these workers hold their locks, and have answered."""
        for name in names:
            until(lambda name=name: self.sits(name), f"{name} to sit")
            self.answer(name)
            self.ticks_until(name, "running")

    def sits(self, name: str) -> bool:
        self.supervisor.tick()
        there = [other.pid for other in living_workers(self.places) if other.phase is WorkerPhase.ACTIVE]
        child = self.supervisor.worker_set.children.get(name)
        return child is not None and child.pid in there

    def ticks_until_rows(self, rows: list[tuple[str, str]]) -> None:
        until(lambda: self.supervisor.tick() or self.rows() == rows, f"{rows}, not {self.rows()}")

    def answer(self, name: str) -> None:
        """What a worker does when it consumes."""
        pid = self.supervisor.worker_set.children[name].pid
        assert pid is not None
        self.ledger.heartbeat(WorkerHeartbeat(full_name(name), "h", pid, (), 1, 0.0))

    def up(self, *specs: WorkerSpec) -> None:
        self.start(*specs)
        for spec in specs or PAIR:
            self.answer(spec.name)
        self.supervisor.tick()
        assert set(self.states().values()) == {"running"}

    def states(self) -> dict[str, str]:
        """The worker of each lock; those on the way out apart."""
        return {name: child.state for name, child in self.supervisor.worker_set.children.items()}

    def ticks_until(self, name: str, state: str) -> None:
        until(lambda: self.supervisor.tick() or self.states()[name] == state, f"{name} to be {state}")

    def log(self, name: str) -> str:
        return self.places.worker_log(name).read_text()
