"""`python -P -m mistudio_cli.supervisor`: the daemon that keeps a home's Redis and workers alive. One per home.

It decides, `child` executes, and `event_loop` waits for events. It imports nothing heavy, so that it can sit there for
months. When it is killed its workers drain and end, and Redis stays for the next one.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from mistudio_cli.log_files import bound_job_logs, rotate_all
from mistudio_cli.profile.rules import WorkerSpec
from mistudio_cli.redis import redis_server
from mistudio_cli.supervisor import event_loop, worker_process
from mistudio_cli.supervisor.child import Clock, Process
from mistudio_cli.supervisor.heartbeats import HeartbeatMonitor
from mistudio_cli.supervisor.host_reporter import HostReporter
from mistudio_cli.supervisor.lock_and_socket import Door
from mistudio_cli.supervisor.redis_keeper import RedisKeeper
from mistudio_cli.supervisor.remote_requests import RemoteRequests
from mistudio_cli.supervisor.states import TERM_GRACE_S
from mistudio_cli.supervisor.workers import Spawn, WorkerSet
from tasks.jobs.kind import kinds
from tasks.parsing.redact import without_secrets
from tasks.paths import Places
from tasks.settings import current
from tasks.system.log_output import log_to_stderr
from tasks.system.resilient_loop import Rounds

log = logging.getLogger("mistudio.supervisor")

TICK_S = 0.5
ROTATE_EVERY_S, BOUND_JOB_LOGS_EVERY_S = 10.0, 600.0
LISTEN_FOR_ANSWERS_EVERY_S = 0.05

#: A home that has been gone for so long was removed; then what runs for it has so long to end by itself.
HOMELESS_S, HOMELESS_GRACE_S = 10.0, 20.0

#: The exit code of a supervisor in the foreground when every worker has been given up.
WORKERS_GIVEN_UP = 1


class Supervisor:
    """What a home runs. `clock` and `spawn` can be others in tests, which have no door."""

    def __init__(
        self, places: Places, clock: Clock = time.monotonic, spawn: Spawn | None = None, door: Door | None = None
    ) -> None:
        self.places = places
        self._door = door
        self._homeless_since: float | None = None
        self.redis = RedisKeeper(places, clock)
        self.heartbeat_monitor = HeartbeatMonitor(clock)
        self.worker_set = WorkerSet(places, clock, spawn or self._spawn_worker, self.heartbeat_monitor)
        self._remote = RemoteRequests(self.worker_set, self.heartbeat_monitor, clock, lambda: self.ending)
        self._host = HostReporter(places, self.heartbeat_monitor, lambda: self.worker_set.gpu_limits, clock)
        self.ending = False
        self.grace_s = TERM_GRACE_S  # of workers that end because a signal came
        self.in_foreground = False
        self.exit_code = 0
        self._end_requested = False
        self._ends_redis = False
        self._rotate_at = self._bound_at = 0.0
        self._clock = clock
        steps = [
            self._obey,
            self._look_for_home,
            self.redis.tick,
            self.worker_set.tick,
            self._remote.tick,
            self._host.tick,
        ]
        steps += [self._rotate_logs, self._bound_job_logs, self._give_up]
        self._steps = [(step, Rounds(f"{step.__qualname__} of the supervisor", log)) for step in steps]

    # -- what can be asked of it ----------------------------------------------------------------------------------

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request: ping, status, start, stop, restart, scale, shutdown or check-broker."""
        operations = {
            "ping": self._ping,
            "status": lambda _: {},
            "start": self.worker_set.start,
            "stop": self.worker_set.stop,
            "restart": self.worker_set.restart,
            "scale": self.worker_set.scale,
            "shutdown": self._shutdown,
            "check-broker": lambda order: self.worker_set.refusal(order["broker_url"]) or {},
        }
        operation = operations.get(str(request.get("op")))
        if operation is None:
            return {"error": f"there is no operation {request.get('op')!r}"}
        if self.ending and request["op"] in ("start", "restart", "scale"):
            return {"error": "the supervisor is ending"}
        reply = operation(request)
        return reply if "error" in reply or request["op"] == "ping" else self.status()

    def only_reads(self, request: dict[str, Any]) -> bool:
        """Whether that request changes nothing and is answered without Redis."""
        return request.get("op") == "status" or (request.get("op") == "ping" and not request.get("redis"))

    def status(self) -> dict[str, Any]:
        """Itself and its workers, as records that JSON can carry."""
        answer = self.worker_set.to_dict()
        return {
            "supervisor": {"pid": os.getpid(), "state": self._state},
            "redis": self.redis.status(),
            **answer,
            "gpu_limits": self.worker_set.gpu_limits if answer["workers"] else None,
        }

    def _ping(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer that it is there; with `redis` it keeps the home's own Redis from now on and reports its state."""
        reply = {"pid": os.getpid(), "state": self._state}
        if not request.get("redis"):
            return reply
        if not self.redis.wanted:
            self.redis.wanted = True
            self.redis.tick()
        return {**reply, "redis": self.redis.answers(), "trouble": self.redis.trouble}

    def _shutdown(self, request: dict[str, Any]) -> dict[str, Any]:
        """Stop the workers, with `redis` the home's own Redis after them, and end."""
        self.ending = True
        self._ends_redis = self._ends_redis or bool(request.get("redis"))
        return self.worker_set.stop({"grace_s": request.get("grace_s")})

    def run_in_foreground(self, order: dict[str, Any], grace_s: float) -> None:
        """Start these workers; they write where this process does, and Redis ends with it. UserError if it cannot."""
        self.in_foreground, self.grace_s = True, grace_s
        self.redis.wanted = bool(order.pop("own_redis"))
        self.redis.tick()
        reply = self.worker_set.start(
            {**order, "environment": dict(os.environ), "broker_url": os.environ["CELERY_BROKER_URL"]}
        )
        assert "error" not in reply, reply

    # -- what it does by itself -----------------------------------------------------------------------------------

    def tick(self) -> None:
        """Take every step that is due."""
        for step, rounds in self._steps:
            with rounds.guarded():
                step()

    def _obey(self) -> None:
        if self._end_requested and not self.ending:
            self._shutdown({"grace_s": self.grace_s, "redis": self.in_foreground})

    def _look_for_home(self) -> None:
        """End what belongs to a home that was removed, or that another supervisor has taken over."""
        if self._door is None:
            return
        if self._door.is_lost and not self.ending:
            log.warning("another supervisor keeps %s: ending", self.places.home)
            self._shutdown({"grace_s": self.grace_s})
        if self._door.has_home():
            self._homeless_since = None
            return
        self._homeless_since = self._homeless_since or self._clock()
        homeless_s = self._clock() - self._homeless_since
        if homeless_s > HOMELESS_S and not self._ends_redis:
            log.warning("%s was removed: ending, with all that runs for it", self.places.home)
            self._shutdown({"grace_s": 0, "redis": True})
        if homeless_s > HOMELESS_S + HOMELESS_GRACE_S:
            self.worker_set.kill()

    def _give_up(self) -> None:
        if self.in_foreground and self.worker_set.is_lost:
            self.exit_code = WORKERS_GIVEN_UP
            self._shutdown({"grace_s": 0, "redis": True})

    def end(self) -> None:
        """A signal came: stop the workers in good order and end. In the background Redis stays."""
        self._end_requested = True

    def _rotate_logs(self) -> None:
        if self._clock() >= self._rotate_at:
            self._rotate_at = self._clock() + ROTATE_EVERY_S
            rotate_all(self.places)

    def _bound_job_logs(self) -> None:
        if self._clock() >= self._bound_at:
            self._bound_at = self._clock() + BOUND_JOB_LOGS_EVERY_S
            with suppress(FileNotFoundError):  # a job's log was removed meanwhile
                bound_job_logs(self.places, current("keep_job_logs_gb") * 1e9)

    @property
    def patience_s(self) -> float:
        """How long it may sleep until the next tick."""
        most = LISTEN_FOR_ANSWERS_EVERY_S if self.worker_set.is_expecting else TICK_S
        return min(most, max(0.0, self.worker_set.due_at - self._clock()))

    @property
    def ended(self) -> bool:
        """Whether it was asked to stop and its workers have ended."""
        return self.ending and self.worker_set.is_gone

    def last_will(self) -> None:
        """What is left to do when all workers have ended."""
        self._remote.end()
        self._host.leave()
        self.heartbeat_monitor.close()
        server = self.redis.let_go()
        if self._ends_redis:
            redis_server.stop(self.places, server=server)

    @property
    def _state(self) -> str:
        return "stopping" if self.ending else "running"

    def _spawn_worker(self, spec: WorkerSpec, environment: dict[str, str]) -> Process:
        log_path = None if self.in_foreground else self.places.worker_log(spec.name)
        return worker_process.spawn(spec.argv(), _with_secrets_of_jobs(environment), self.places.run, log_path)


def main(argv: list[str]) -> int:
    """Keep a home until asked to stop. Returns when it has ended, or at once, listening already, with `--detach`."""
    options = _parse(argv)
    places = Places(options.home, options.store)
    log_to_stderr(None if options.foreground else places.supervisor_log)
    with closing(Door(places)) as door:
        if not door.lock():
            sys.stderr.write(f"Another supervisor keeps {places.home} already.\n")
            return event_loop.HOME_IS_TAKEN
        door.listen()
        if options.detach and os.fork():
            os._exit(0)  # the lock and the listening socket are the child's from now on
        door.sign()
        supervisor = Supervisor(places, door=door)
        log.info("supervisor of %s, pid %d", places.home, os.getpid())
        if options.foreground:
            supervisor.run_in_foreground(json.loads(sys.stdin.readline()), options.grace)
        loop = event_loop.EventLoop(door, supervisor)
        supervisor.heartbeat_monitor.run_apart = loop.run_apart
        loop.serve()
        door.shut()
        supervisor.last_will()
    return supervisor.exit_code


def _with_secrets_of_jobs(environment: Mapping[str, str]) -> dict[str, str]:
    """A worker's environment: of secrets what any kind of job declares, as a job may be moved to any queue."""
    return without_secrets(environment, {name for kind in kinds().values() for name in kind.secrets})


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mistudio_cli.supervisor", description="Keeps one home's Redis and workers.")
    parser.add_argument("--home", type=Path, required=True, help="the home's folder")
    parser.add_argument("--store", type=Path, required=True, help="where its artifacts are stored")
    parser.add_argument("--detach", action="store_true", help="continue in the background")
    parser.add_argument("--foreground", action="store_true", help="start what one line of JSON on stdin orders")
    parser.add_argument("--grace", type=float, default=TERM_GRACE_S, help="seconds for jobs to finish after a signal")
    return parser.parse_args(argv)
