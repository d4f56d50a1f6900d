"""`python -P -m mistudio_cli.supervisor`: the daemon that keeps a home's Redis and workers alive. One per home.

One thread and one loop: requests from a unix socket, deaths of children, and a clock. It imports nothing heavy, so that
it can sit there for months. When it is killed its workers drain and end, and Redis stays for the next one.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from mistudio_cli import redis_server
from mistudio_cli.child import DEFAULT_TERM_GRACE_S, Child, tail
from mistudio_cli.profile import WorkerSpec
from mistudio_cli.states import Status
from tasks import wire
from tasks.ledger import Ledger
from tasks.places import Places, make_private

log = logging.getLogger("mistudio.supervisor")

TICK_S, STARTING_TICK_S = 0.5, 0.05
REDIS_LOOK_S = 1.0
REQUEST_BYTES = 1 << 20
LOG_LINES_SHOWN = 12


class Supervisor:
    """What a home runs. `clock` and `spawn` can be others in tests."""

    def __init__(
        self, places: Places, broker_url: str | None, clock: Callable[[], float] = time.monotonic, spawn: Any = None
    ) -> None:
        self.places = places
        self.own_redis = broker_url is None
        self.broker_url = broker_url or redis_server.own_url(places)
        self.profile: str | None = None
        self.children: dict[str, Child] = {}
        self.told_to_end = False
        self.ending = False
        self.stop_redis = False
        self._clock = clock
        self._spawn = spawn or self._spawn_worker
        self._redis: subprocess.Popen[bytes] | None = None
        self._redis_looked_at = float("-inf")
        self._ledger = Ledger(wire.connect(self.broker_url, timeout_s=1.0))

    # -- what can be asked of it ----------------------------------------------------------------------------------

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request: ping, status, start, stop or shutdown."""
        operations = {"ping": self._pong, "status": self.status, "start": self._start, "stop": self._stop}
        operation = operations.get(str(request.get("op")))
        if operation is None:
            return {"error": f"there is no operation {request.get('op')!r}"}
        return operation(request)

    def status(self, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """Itself and its workers, as records that JSON can carry."""
        return {
            "supervisor": {"pid": os.getpid(), "state": "stopping" if self.ending else "running"},
            "profile": self.profile,
            "own_redis": self.own_redis,
            "workers": [self._told(child) for child in self.children.values()],
        }

    def _pong(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"pid": os.getpid(), "redis": not self.own_redis or redis_server.answers(self.places)}

    def _start(self, request: dict[str, Any]) -> dict[str, Any]:
        specs = [WorkerSpec(s["name"], tuple(s["queues"]), s["slots"]) for s in request["specs"]]
        alive = {name: child for name, child in self.children.items() if child.status is not Status.STOPPED}
        if alive and {child.spec for child in alive.values()} != set(specs):
            return {"error": "other workers run", "profile": self.profile, "running": sorted(alive)}
        if self.ending:
            return {"error": "the supervisor is stopping"}
        self.profile = request.get("profile")
        self.children = {spec.name: alive.get(spec.name) or self._child(spec) for spec in specs}
        for child in self.children.values():
            child.start()
        return self.status()

    def _stop(self, request: dict[str, Any]) -> dict[str, Any]:
        names = request.get("names") or list(self.children)
        if unknown := [name for name in names if name not in self.children]:
            return {"error": f"there is no worker {unknown[0]!r}", "running": sorted(self.children)}
        grace_s = float(request.get("grace_s", DEFAULT_TERM_GRACE_S))
        for name in names:
            self.children[name].stop(grace_s)
            self.children[name].hurry(grace_s)
        self.ending = self.ending or bool(request.get("shutdown"))
        self.stop_redis = self.stop_redis or bool(request.get("redis"))
        return self.status()

    # -- what it does by itself -----------------------------------------------------------------------------------

    def tick(self) -> None:
        """Take every step that is due."""
        if self.told_to_end and not self.ending:
            self._stop({"shutdown": True})
        self._keep_redis()
        for child in self.children.values():
            before = child.status
            child.tick()
            if child.status is not before:
                log.info("%s: %s -> %s %s", child.spec.name, before, child.status, child.last_exit or "")
        if any(child.status is Status.STARTING for child in self.children.values()):
            self._hear_answers()

    @property
    def patience_s(self) -> float:
        """How long it may sleep until the next tick."""
        restless = any(child.status in (Status.STARTING, Status.BACKOFF) for child in self.children.values())
        return STARTING_TICK_S if restless or self.ending else TICK_S

    @property
    def ended(self) -> bool:
        """Whether it was told to end and its workers have."""
        return self.ending and all(child.process is None for child in self.children.values())

    def _keep_redis(self) -> None:
        died = self._redis is not None and self._redis.poll() is not None
        if not self.own_redis or (self._clock() - self._redis_looked_at < REDIS_LOOK_S and not died):
            return
        self._redis_looked_at = self._clock()
        if died or redis_server.running(self.places) is None:
            log.info("starting Redis")
            self._redis = redis_server.start(self.places)

    def _hear_answers(self) -> None:
        try:
            answered = {beat.pid for beat in self._ledger.workers()}
        except (wire.Unreachable, wire.Refused):
            return
        for child in self.children.values():
            if child.pid in answered:
                child.answered()

    def _child(self, spec: WorkerSpec) -> Child:
        return Child(spec, self._spawn, self._clock)

    def _spawn_worker(self, spec: WorkerSpec) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "MISTUDIO_HOME": str(self.places.home),
            "MISTUDIO_STORE": str(self.places.store),
            "CELERY_BROKER_URL": self.broker_url,
        }
        with self.places.worker_log(spec.name).open("ab") as worker_log:
            return subprocess.Popen(
                spec.argv,
                stdin=subprocess.DEVNULL,
                stdout=worker_log,
                stderr=worker_log,
                cwd=self.places.run,
                env=environment,
                process_group=0,
            )

    def _told(self, child: Child) -> dict[str, Any]:
        lived = child.process is not None
        trouble = child.status in (Status.FATAL, Status.BACKOFF)
        return {
            "name": f"{child.spec.name}@{socket.gethostname()}",
            "state": str(child.status),
            "pid": child.pid,
            "queues": list(child.spec.queues),
            "slots": child.spec.slots,
            "restarts": child.restarts,
            "started_at": time.time() - (self._clock() - child.born_at) if lived else None,
            "last_exit": child.last_exit,
            "log_tail": tail(self.places.worker_log(child.spec.name), LOG_LINES_SHOWN) if trouble else [],
        }


def serve(supervisor: Supervisor) -> None:
    """Run the loop until the supervisor has ended."""
    path = supervisor.places.supervisor_socket
    path.unlink(missing_ok=True)
    with selectors.DefaultSelector() as selector, socket.socket(socket.AF_UNIX) as listener:
        wake = _wake_on_signals(supervisor)
        mask = os.umask(0o177)
        listener.bind(str(path))
        os.umask(mask)
        listener.listen(16)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while not supervisor.ended:
            supervisor.tick()
            for key, _ in selector.select(supervisor.patience_s):
                if key.fileobj is listener:
                    _answer_one(listener, supervisor)
                else:
                    wake.recv(4096)
    path.unlink(missing_ok=True)
    if supervisor.stop_redis and supervisor.own_redis:
        redis_server.stop(supervisor.places)


def _answer_one(listener: socket.socket, supervisor: Supervisor) -> None:
    link, _ = listener.accept()
    with link, link.makefile("rwb") as stream:
        link.settimeout(2.0)  # a client that says nothing must not hold up the rest for long
        try:
            reply = supervisor.answer(json.loads(stream.readline(REQUEST_BYTES)))
            stream.write(json.dumps(reply).encode() + b"\n")
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("a request could not be answered: %r", error)


def _wake_on_signals(supervisor: Supervisor) -> socket.socket:
    """A socket that becomes readable with each signal: handlers only set flags."""
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: setattr(supervisor, "told_to_end", True))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _MOUTHS.append(mouth)
    return ear


_MOUTHS: list[socket.socket] = []  # kept open for as long as the process lives


def lock_home(places: Places) -> IO[str] | None:
    """The lock of this home, held until it is closed; None when another supervisor holds it."""
    lock = (places.run / "supervisor.lock").open("a", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def main() -> int:
    """Keep the home that MISTUDIO_HOME names until told to end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    places = Places.from_environment()
    for folder in (places.run, places.logs, places.supervisor_socket.parent):
        make_private(folder)
    lock = lock_home(places)
    if lock is None:
        sys.stderr.write(f"Another supervisor keeps {places.home} already.\n")
        return 1
    with lock:
        Path(places.run / "supervisor.pid").write_text(str(os.getpid()), encoding="utf-8")
        serve(Supervisor(places, os.environ.get("CELERY_BROKER_URL")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
