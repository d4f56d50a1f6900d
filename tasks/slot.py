"""One slot of a worker at work: claim the job, hold its lease, run it, relay cancel and limits.

A heavy job runs in a process group of its own (`tasks.runner`); a quick one runs right here. Either way a thread beside
the work renews the lease and hears of cancellation.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO, Any

from celery import Celery
from celery.exceptions import Ignore

from tasks import gpu
from tasks.app import open_ledger
from tasks.job import Job, JobKind, State, Stopped, kind_named, kinds
from tasks.ledger import LEASE_RENEW_S, Claim, Ledger
from tasks.places import Places
from tasks.seat import Seat
from tasks.store import Store
from tasks.wire import Unreachable
from tasks.work import STOPPED_WHEN_TOLD, TOLD_THE_LEDGER, open_context, perform, tell

log = logging.getLogger("mistudio.slot")

#: How long a job may take to write its checkpoint after TERM, before KILL.
STOP_GRACE_S = 20.0

_LOOK_EVERY_S = 0.2

#: glibc gives freed memory back to the system at once; a trainer asks for the same again at the next step.
_ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"}


class JobFailed(Exception):
    """What Celery and Flower see of a failed job; the ledger has the whole story."""


def register_tasks(app: Celery, seat: Seat) -> None:
    """Give the app a task for each kind of job. Only workers need them: producers send by name."""
    for kind in kinds().values():
        _register(app, kind, seat)


def _register(app: Celery, kind: JobKind, seat: Seat) -> None:
    # A runner can be killed by its slot; work in the slot itself only by Celery.
    hard_s = kind.effective_limits.hard_s if kind.in_slot else None

    @app.task(name=kind.wire_name, bind=True, throws=(JobFailed,), shared=False, time_limit=hard_s)
    def answer_bell(task: Any, job_id: str) -> dict[str, Any] | None:
        job = work(app, seat, str(job_id), task.request.hostname or "")
        if job is None or not job.state.ended or job.state is State.CANCELLED:
            raise Ignore
        if job.state is State.FAILED:
            raise JobFailed(job.reason)
        return job.result


def work(app: Celery, seat: Seat, job_id: str, worker: str) -> Job | None:
    """Answer one bell: run the job if it is there to be claimed. Returns its record afterwards, None if unknown."""
    with closing(open_ledger(app, rings=True)) as ledger, seat.slot() as is_mine:
        if is_mine:
            return _answer(app, ledger, job_id, worker)
        job = tell(lambda: ledger.get(job_id))
        if job is not None and job.state is State.QUEUED:  # the worker that comes next shall hear it
            tell(lambda: ledger.ring([job]))
        return job


def _answer(app: Celery, ledger: Ledger, job_id: str, worker: str) -> Job | None:
    store = Store(Places.from_environment().store)
    claim = ledger.claim(job_id, worker, socket.gethostname(), os.getppid())
    if claim is not None:
        keeper = Keeper(open_ledger(app), claim)
        with keeper, _shutdown_heard(keeper):
            try:
                _run(ledger, claim, keeper)
            except Exception as error:
                # A fault of ours, not the job's: another attempt may fare better, and the record says why this did not.
                reason = f"its worker failed: {type(error).__name__}: {error}"
                tell(lambda: ledger.put_back(claim, reason, loss=True))
                raise
    job = tell(lambda: ledger.get(job_id))
    if job is not None and job.state.ended:
        store.discard(job_id)
    return job


class Keeper(threading.Thread):
    """Renews a lease beside the work and keeps the first reason to stop it.

    `why` is "" while the work may go on, else "cancel", "lost", "shutdown" or "limit".
    """

    def __init__(self, ledger: Ledger, claim: Claim) -> None:
        super().__init__(name=f"lease-{claim.job.id}", daemon=True)
        self.why = ""
        self._ledger = ledger
        self._claim = claim
        self._limit_s = kind_named(claim.job.kind).effective_limits.soft_s
        self._done = threading.Event()

    def __enter__(self) -> Keeper:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()
        self._ledger.close()

    def stop_because(self, why: str) -> None:
        """Give a reason to stop; the first one counts, but a lost lease overrides all."""
        if not self.why or why == "lost":
            self.why = why

    def run(self) -> None:
        """Renew until the work is done."""
        began = time.monotonic()
        while not self._done.wait(LEASE_RENEW_S):
            if self._limit_s is not None and time.monotonic() - began > self._limit_s:
                self.stop_because("limit")
            try:
                status = self._ledger.renew(self._claim)
            except Unreachable:
                continue  # the work goes on; the lease is judged when Redis is back
            if status != "ok":
                self.stop_because(status)


@contextmanager
def _shutdown_heard(keeper: Keeper) -> Iterator[None]:
    """The pool ends its slots with TERM: then the job is stopped in good order and put back."""
    before = signal.signal(signal.SIGTERM, lambda *_: keeper.stop_because("shutdown"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if keeper.why == "shutdown":
            os.kill(os.getpid(), signal.SIGTERM)


def _run(ledger: Ledger, claim: Claim, keeper: Keeper) -> None:
    kind = kind_named(claim.job.kind)
    if kind.in_slot:
        _run_here(ledger, claim, keeper)
        return
    device = gpu.device_for(ledger, claim, kind, stop=lambda: bool(keeper.why))
    if device is None:
        _put_down(ledger, claim, keeper.why, "while it waited for a GPU")
        return
    ended = _run_apart(claim, kind, device, keeper)
    if ended == STOPPED_WHEN_TOLD:
        _put_down(ledger, claim, keeper.why or "shutdown", "stopped when told to")
    elif keeper.why:
        _put_down(ledger, claim, keeper.why, f"killed: it did not stop within {STOP_GRACE_S:g} s of being told to")
    elif ended != TOLD_THE_LEDGER:
        tell(lambda: ledger.put_back(claim, _explain_exit(ended), loss=True))


def _run_here(ledger: Ledger, claim: Claim, keeper: Keeper) -> None:
    try:
        perform(open_context(claim, ledger, "cpu", lambda: bool(keeper.why), on_lost=lambda: None))
    except Stopped:
        _put_down(ledger, claim, keeper.why, "stopped when told to")


def _put_down(ledger: Ledger, claim: Claim, why: str, how: str) -> None:
    """Tell the ledger of a job that was stopped on purpose. For a job already ended or lost this changes nothing."""
    if why == "cancel":
        tell(lambda: ledger.finish(claim, State.CANCELLED, f"cancelled by the user; {how}"))
    elif why == "limit":
        message = f"It ran longer than its kind may; {how}."
        tell(lambda: ledger.finish(claim, State.FAILED, message, error={"type": "TimeLimit", "message": message}))
    elif why == "shutdown":
        tell(lambda: ledger.put_back(claim, f"its worker was shut down; {how}", loss=False))


def _run_apart(claim: Claim, kind: JobKind, device: gpu.Device, keeper: Keeper) -> int:
    """The exit code of the job's runner; negative is the signal that killed it."""
    log_path = Places.from_environment().job_log(claim.job.id)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log_file:
        runner = _spawn(claim, device, log_file)
    try:
        return _watch(runner, kind, keeper)
    finally:
        _kill_group(runner)
        if runner.stdin:
            runner.stdin.close()
        runner.wait()


def _spawn(claim: Claim, device: gpu.Device, log_file: IO[bytes]) -> subprocess.Popen[bytes]:
    runner = subprocess.Popen(
        [sys.executable, "-P", "-m", "tasks.runner", claim.job.id],
        stdin=subprocess.PIPE,
        stdout=log_file,
        stderr=log_file,
        process_group=0,
        env={**_ALLOCATOR, **os.environ, **device.environment},
    )
    assert runner.stdin is not None
    try:
        runner.stdin.write(json.dumps({"token": claim.token, "device": device.torch_name}).encode() + b"\n")
        runner.stdin.flush()
    except BrokenPipeError:
        log.warning("the runner of job %s ended before it began", claim.job.id)
    return runner


def _watch(runner: subprocess.Popen[bytes], kind: JobKind, keeper: Keeper) -> int:
    hard_s, began = kind.effective_limits.hard_s, time.monotonic()
    kill_at: float | None = None
    while True:
        try:
            return runner.wait(_LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            now = time.monotonic()
        if hard_s is not None and now - began > hard_s:
            keeper.stop_because("limit")
            kill_at = now
        if keeper.why == "lost" or (kill_at is not None and now >= kill_at):
            _kill_group(runner)
        elif keeper.why and kill_at is None:
            kill_at = now + STOP_GRACE_S
            _signal_group(runner, signal.SIGTERM)


def _kill_group(runner: subprocess.Popen[bytes]) -> None:
    _signal_group(runner, signal.SIGKILL)


def _signal_group(runner: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    # The group outlives its leader while a helper of the job is left in it; nobody else can have taken its number.
    try:
        os.killpg(runner.pid, signum)
    except (ProcessLookupError, PermissionError):
        return


def _explain_exit(code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed (SIGKILL), perhaps because memory ran out"
    if code < 0:
        return f"its process died of {signal.Signals(-code).name}"
    return f"its process ended with exit code {code} without a word"
