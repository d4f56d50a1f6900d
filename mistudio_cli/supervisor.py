"""`python -P -m mistudio_cli.supervisor`: the daemon that keeps a home's Redis and workers alive. One per home.

It decides; its children obey, and `listening` is its ears. It imports nothing heavy, so that it can sit there for
months. When it is killed its workers drain and end, and Redis stays for the next one.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mistudio_cli import listening, redis_server, worker_process
from mistudio_cli.child import Child, Clock, Process
from mistudio_cli.profile import WorkerSpec
from mistudio_cli.redis_keeper import RedisKeeper
from mistudio_cli.states import IDLE, TERM_GRACE_S, Status
from tasks import wire
from tasks.ledger import Ledger
from tasks.places import Places, make_private
from tasks.problem import Problem

log = logging.getLogger("mistudio.supervisor")

TICK_S = 0.5
LISTEN_FOR_ANSWERS_EVERY_S = 0.05
REDIS_AWAY_PAUSE_S = 1.0

Spawn = Callable[[WorkerSpec, dict[str, str]], Process]


class Supervisor:
    """What a home runs. `clock` and `spawn` can be others in tests."""

    def __init__(self, places: Places, clock: Clock = time.monotonic, spawn: Spawn | None = None) -> None:
        self.places = places
        self.profile: str | None = None
        self.children: dict[str, Child] = {}
        self.redis = RedisKeeper(places, clock)
        self.ending = False
        self._told_to_end = False
        self._ends_redis = False
        self._clock = clock
        self._spawn = spawn or self._spawn_worker
        self._broker_url: str | None = None
        self._environment: dict[str, str] = {}
        self._ledger: Ledger | None = None
        self._ask_ledger_at = float("-inf")

    # -- what can be asked of it ----------------------------------------------------------------------------------

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request: ping, status, start, stop or shutdown."""
        operations = {
            "ping": self._ping,
            "status": lambda _: self.status(),
            "start": self._start,
            "stop": self._stop,
            "shutdown": self._shutdown,
        }
        operation = operations.get(str(request.get("op")))
        if operation is None:
            return {"error": f"there is no operation {request.get('op')!r}"}
        return operation(request)

    def status(self) -> dict[str, Any]:
        """Itself and its workers, as records that JSON can carry."""
        return {
            "supervisor": {"pid": os.getpid(), "state": self._state},
            "profile": self.profile,
            "workers": [self._told(child) for child in self.children.values()],
        }

    def _ping(self, request: dict[str, Any]) -> dict[str, Any]:
        """Whether it is there; with `redis` it keeps the home's own Redis from now on and tells how that is."""
        reply = {"pid": os.getpid(), "state": self._state}
        if not request.get("redis"):
            return reply
        if not self.redis.wanted:
            self.redis.wanted = True
            self.redis.tick()
        return {**reply, "redis": self.redis.answers(), "trouble": self.redis.trouble}

    def _start(self, request: dict[str, Any]) -> dict[str, Any]:
        specs = [WorkerSpec.from_told(told) for told in request["specs"]]
        if self.ending:
            return {"error": "the supervisor is ending"}
        alive = sorted(child.spec.name for child in self.children.values() if child.status not in IDLE)
        if stopping := [name for name in alive if self.children[name].status is Status.STOPPING]:
            return {"error": "workers are stopping", "workers": stopping}
        same_broker = request["broker_url"] == self._broker_url
        if alive and not (same_broker and {child.spec for child in self.children.values()} == set(specs)):
            return {"error": "others run" if same_broker else "another broker", "workers": alive}
        self._environment = dict(request["environment"])  # of the worker's next life
        if not alive:
            self._take_on(specs, request["profile"], request["broker_url"])
        for child in self.children.values():
            child.start()
        return self.status()

    def _take_on(self, specs: list[WorkerSpec], profile: str, broker_url: str) -> None:
        if self._ledger is not None:
            self._ledger.client.close()
        self.profile, self._broker_url = profile, broker_url
        self._ledger = Ledger(wire.connect(broker_url, timeout_s=1.0))
        self.children = {spec.name: Child(spec, self._live, self._clock) for spec in specs}

    def _live(self, spec: WorkerSpec) -> Process:
        return self._spawn(spec, self._environment)

    def _stop(self, request: dict[str, Any]) -> dict[str, Any]:
        names = request.get("names") or list(self.children)
        if unknown := [name for name in names if name not in self.children]:
            return {"error": "unknown worker", "workers": unknown}
        grace_s = float(request.get("grace_s", TERM_GRACE_S))
        for name in names:
            self.children[name].stop(grace_s)
        return self.status()

    def _shutdown(self, request: dict[str, Any]) -> dict[str, Any]:
        """Stop the workers, with `redis` the home's own Redis after them, and end."""
        self.ending = True
        self._ends_redis = self._ends_redis or bool(request.get("redis"))
        return self._stop({"grace_s": request.get("grace_s", TERM_GRACE_S)})

    # -- what it does by itself -----------------------------------------------------------------------------------

    def tick(self) -> None:
        """Take every step that is due."""
        if self._told_to_end and not self.ending:
            self._shutdown({})
        self.redis.tick()
        for child in self.children.values():
            before = child.status
            child.tick()
            if child.status is not before:
                log.info("%s: %s -> %s %s", child.spec.name, before, child.status, child.last_exit or "")
        if any(child.status is Status.STARTING for child in self.children.values()):
            self._listen_for_answers()

    def end(self) -> None:
        """A signal came: stop the workers in good order and end. Redis stays."""
        self._told_to_end = True

    @property
    def patience_s(self) -> float:
        """How long it may sleep until the next tick."""
        starting = any(child.status is Status.STARTING for child in self.children.values())
        due_at = min((child.due_at for child in self.children.values()), default=float("inf"))
        most = LISTEN_FOR_ANSWERS_EVERY_S if starting else TICK_S
        return min(most, max(0.0, due_at - self._clock()))

    @property
    def ended(self) -> bool:
        """Whether it was told to end and its workers have."""
        return self.ending and all(child.process is None for child in self.children.values())

    def last_will(self) -> None:
        """What is left to do when all workers have ended."""
        self.redis.let_go()
        if self._ends_redis:
            redis_server.stop(self.places)

    @property
    def _state(self) -> str:
        return "stopping" if self.ending else "running"

    def _listen_for_answers(self) -> None:
        """A worker has answered when a beat in the ledger carries its name and the pid of its process."""
        if self._ledger is None or self._clock() < self._ask_ledger_at:
            return
        try:
            answered = {(beat.name, beat.pid) for beat in self._ledger.workers()}
        except (wire.Unreachable, wire.Refused):
            self._ask_ledger_at = self._clock() + REDIS_AWAY_PAUSE_S
            return
        for child in self.children.values():
            if child.status is Status.STARTING and (full_name(child.spec.name), child.pid) in answered:
                child.answered()
                log.info("%s: answered", child.spec.name)

    def _spawn_worker(self, spec: WorkerSpec, environment: dict[str, str]) -> Process:
        return worker_process.spawn(spec.argv(), environment, self.places.run, self.places.worker_log(spec.name))

    def _told(self, child: Child) -> dict[str, Any]:
        return {
            "name": full_name(child.spec.name),
            "state": str(child.status),
            "pid": child.pid,
            "queues": list(child.spec.queues),
            "slots": child.spec.slots,
            "restarts": child.restarts,
            "started_at": child.started_at,
            "last_exit": child.last_exit,
        }


def full_name(worker: str) -> str:
    """A worker's name as Celery and the ledger know it."""
    return f"{worker}@{socket.gethostname()}"


def main(argv: list[str]) -> int:
    """Keep a home until told to end. Returns when it has ended, or at once, listening already, with `--detach`."""
    parser = argparse.ArgumentParser(prog="mistudio_cli.supervisor", description="Keeps one home's Redis and workers.")
    parser.add_argument("--home", type=Path, required=True, help="the home's folder")
    parser.add_argument("--store", type=Path, required=True, help="where its artifacts lie")
    parser.add_argument("--detach", action="store_true", help="go on in the background")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    places = Places(options.home, options.store)
    for folder in (places.run, places.logs, places.supervisor_socket.parent):
        make_private(folder)
    lock = listening.lock_home(places)
    if lock is None:
        sys.stderr.write(f"Another supervisor keeps {places.home} already.\n")
        return listening.HOME_IS_TAKEN
    with lock, listening.listen(places) as listener:
        if options.detach and os.fork():
            os._exit(0)  # the lock and the listening socket are the child's from now on
        supervisor = Supervisor(places)
        log.info("supervisor of %s, pid %d", places.home, os.getpid())
        listening.serve(listener, supervisor)
        places.supervisor_socket.unlink(missing_ok=True)
        supervisor.last_will()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (OSError, Problem) as problem:
        sys.exit(str(problem))
