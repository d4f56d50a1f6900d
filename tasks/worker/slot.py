"""One slot of a worker at work: claim the job, run it, and see to its end.

A heavy job runs in a process group of its own (`tasks.worker.runner_process`); a quick one runs right here. Either way
a thread beside the work renews the lease and receives cancellation (`tasks.worker.lease_keeper`).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from celery import Celery, states
from celery.exceptions import Ignore, TaskRevokedError

from tasks.accelerators import nvml_process
from tasks.errors import UserError
from tasks.jobs.kind import JobKind, Stopped, kind_named, kinds
from tasks.jobs.kind_digest import digests
from tasks.jobs.record import Job, State
from tasks.ledger.client import Claim, Ledger, new_token
from tasks.logs.log_shipping import SHUTDOWN_WAIT_S, AttemptLog
from tasks.messaging.app import open_ledger
from tasks.messaging.foreign_tasks import NotTaken, job_of_foreign_message
from tasks.parsing.redact import redact
from tasks.paths import Places
from tasks.redis_client.redis_connection import Refused, Unreachable
from tasks.redis_client.redis_retry import patient
from tasks.runner.execute import OUTCOME_RECORDED, STOPPED_ON_REQUEST, describe_failure, result_made_by, work_on
from tasks.storage.store import Store
from tasks.submission.checkpoints import leave_behind
from tasks.submission.plan import ArtifactCatalog
from tasks.system.log_output import about
from tasks.worker import device_assignment
from tasks.worker.lease_keeper import LeaseKeeper
from tasks.worker.runner_process import explain_exit, run_apart
from tasks.worker.slot_locks import WorkerLock

log = logging.getLogger("mistudio.slot")

#: `tasks.worker.lease_keeper` ends work in the slot at its hard limit, and records that. Celery's own limit comes this
#: much later, for a slot that does not even get to that.
_BACKSTOP_S = 60.0


class JobFailed(Exception):
    """What Celery and Flower see of a failed job; the ledger has the whole story."""


def register_tasks(app: Celery, worker_lock: WorkerLock) -> None:
    """Give the app a task for each kind of job. Only workers need them: producers send by name."""
    logging.getLogger("celery.app.trace").addFilter(_is_no_ignored)
    for kind in kinds().values():
        _register(app, kind, worker_lock)


def _is_no_ignored(record: logging.LogRecord) -> bool:
    """Whether a line is not Celery's "ignored", said of what is cancelled or queued again: see `_log_outcome`."""
    return not (isinstance(record.args, dict) and record.args.get("description") == "ignored")


def _register(app: Celery, kind: JobKind, worker_lock: WorkerLock) -> None:
    hard_s = kind.effective_limits.hard_s if kind.in_slot else None
    backstop_s = None if hard_s is None else hard_s + _BACKSTOP_S

    @app.task(name=kind.wire_name, bind=True, throws=(JobFailed, NotTaken), shared=False, time_limit=backstop_s)
    def handle_message(task: Any, *args: Any, **values: Any) -> dict[str, Any] | None:
        delivery = task.request.delivery_info or {}
        source = {"queue": delivery.get("routing_key") or "", "step": delivery.get("priority")}
        with _faults_counted(worker_lock), closing(open_ledger(app)) as ledger:
            job_id = _job_named_by(ledger, kind, task.request, args, values)
            job = job_id and work(
                app, ledger, worker_lock, job_id, task.request.hostname or "", {**source, "stand_ins": _stand_ins(kind)}
            )
        if not job or not job.state.ended:
            raise Ignore
        if job.id != job_id:
            _store_result_of(task, job)
            raise Ignore
        if job.state is State.CANCELLED:
            _show_as_revoked(task, job)
            raise Ignore
        if job.state is State.FAILED:
            raise JobFailed(job.reason)
        return job.result


def _stand_ins(kind: JobKind) -> list[str]:
    """The kinds that may start on a message of a kind: those that the time limit Celery sets for it does not cut short.

    Which jobs do is for the ledger to say, where owners take turns.
    """
    if not kind.in_slot:
        return list(kinds())
    hard_s = kind.effective_limits.hard_s
    return [other.name for other in kinds().values() if other.in_slot and other.effective_limits.hard_s == hard_s]


def _store_result_of(task: Any, job: Job) -> None:
    """What Celery and Flower see of a job that has ended on the message of another."""
    result, state = {
        State.SUCCEEDED: (job.result, states.SUCCESS),
        State.FAILED: (JobFailed(job.reason), states.FAILURE),
        State.CANCELLED: (TaskRevokedError(job.reason), states.REVOKED),
    }[job.state]
    try:
        task.backend.store_result(job.id, result, state)
    except Exception as error:  # noqa: BLE001 - results may be stored anywhere; the ledger has the truth
        log.warning("the result of %s could not be stored for Celery: %s", job.id, error)


@contextmanager
def _faults_counted(worker_lock: WorkerLock) -> Iterator[None]:
    """Count what is neither the job's fault nor Redis's: a worker that cannot begin jobs is replaced by its guard."""
    try:
        yield
    except (NotTaken, Unreachable):
        raise
    except Exception as error:
        worker_lock.faults.add(redact(f"{type(error).__name__}: {error}"))
        raise
    worker_lock.faults.clear()


def _show_as_revoked(task: Any, job: Job) -> None:
    """What Celery and Flower see of a cancelled job; without it, it would seem to run for ever."""
    try:
        task.backend.mark_as_revoked(job.id, job.reason, request=task.request)
        task.send_event("task-revoked", terminated=True, signum=None, expired=False)
    except Exception as error:  # noqa: BLE001 - the result backend may be anywhere; the ledger has the truth
        log.warning("could not publish to Celery that %s was cancelled: %s", job.id, error)


def _job_named_by(ledger: Ledger, kind: JobKind, request: Any, args: Any, values: dict[str, Any]) -> str | None:
    """The id of the job that a message names; None when the message of another program has just become a job."""
    if list(args) == [request.id]:  # a message of the ledger's own
        return request.id
    return job_of_foreign_message(ledger, _store(), kind, request.id, args, values, request)


def work(
    app: Celery, ledger: Ledger, worker_lock: WorkerLock, job_id: str, worker: str, message: dict[str, Any]
) -> Job | None:
    """Handle one message: run its job, or another whose turn it is. Returns that job's record, None if unknown."""
    with worker_lock.slot(message["queue"]) as is_mine:
        if is_mine:
            with about(job_id):
                return _answer(app, ledger, job_id, worker, message)
        job = patient(ledger).get(job_id)
        if job is not None and job.state is State.QUEUED:  # for the worker that comes next
            patient(ledger).enqueue_again(job_id)
        return job


def _answer(app: Celery, ledger: Ledger, job_id: str, worker: str, message: dict[str, Any]) -> Job | None:
    claim = patient(ledger).claim(
        job_id, worker, socket.gethostname(), os.getppid(), token=new_token(), kinds=digests(), **message
    )
    if claim is None:
        return _see_off(ledger, job_id, None, has_logged_its_end=True)
    with about(claim.job.id, queue=claim.job.queue), _log_sent(app, claim) as attempt_log:
        keeper = LeaseKeeper(open_ledger(app), claim)
        with keeper, _shutdown_handled(keeper, attempt_log):
            try:
                has_logged_its_end = _run(ledger, claim, keeper)
            except Unreachable:  # for too long: the lease has run out
                raise
            except Exception as error:
                # An internal error, not the job's: a retry may succeed, and the record says why this did not.
                reason = redact(f"its worker failed: {type(error).__name__}: {error}")
                patient(ledger).put_back(claim, reason, loss=True)
                raise
        return _see_off(ledger, claim.job.id, claim, has_logged_its_end=has_logged_its_end)


@contextmanager
def _log_sent(app: Celery, claim: Claim) -> Iterator[AttemptLog]:
    """Send what the job logs meanwhile to where other hosts read it."""
    attempt_log = AttemptLog(app.mistudio_broker, Places.from_environment(), claim.job.id, claim.job.attempt)
    attempt_log.start()
    try:
        yield attempt_log
    finally:
        attempt_log.finish()


def _see_off(ledger: Ledger, job_id: str, claim: Claim | None, *, has_logged_its_end: bool) -> Job | None:
    """The job's record after a message was answered; of one that has ended only what another try needs is kept."""
    job = patient(ledger).get(job_id)
    if job is not None and job.state.ended:
        try:
            leave_behind(ledger, _store(), job)
        except OSError as error:
            log.warning("what job %s leaves behind cannot be seen to: %s", job.id, error)
    if claim is None:
        log.info("nothing to run: the job is %s", "unknown" if job is None else job.state)
    elif job is not None and job.attempt == claim.job.attempt and job.state is not State.RUNNING:
        _log_outcome(job, in_its_log=not has_logged_its_end or job.state is State.QUEUED)
    return job


def _log_outcome(job: Job, *, in_its_log: bool) -> None:
    """Say in the worker's log, and in the job's, how an attempt ended, or why the job is in its queue again."""
    began, ended = job.started_at, job.finished_at
    took = "" if began is None or ended is None else f" after {ended - began:.1f} s"
    level = logging.ERROR if job.state is State.FAILED else logging.INFO
    with about(job.id, job.attempt, Places.from_environment().job_log(job.id) if in_its_log else None, queue=job.queue):
        log.log(
            level,
            "%s %s %s%s: %s",
            job.kind,
            job.name,
            job.state,
            took,
            job.reason,
            extra={"event": f"job_{job.state}"},
        )


@contextmanager
def _shutdown_handled(keeper: LeaseKeeper, attempt_log: AttemptLog) -> Iterator[None]:
    """The pool ends its slots with TERM: then the job is stopped in good order and put back."""
    is_requested = threading.Event()

    def on_sigterm(*_: object) -> None:
        is_requested.set()
        keeper.request_stop("shutdown")

    before = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if is_requested.is_set():  # whatever the job was stopped for
            attempt_log.finish(SHUTDOWN_WAIT_S)
            os.kill(os.getpid(), signal.SIGTERM)


def _run(ledger: Ledger, claim: Claim, keeper: LeaseKeeper) -> bool:
    """Run the job; whether the work has said in its log how it ended."""
    kind = kind_named(claim.job.kind)
    if kind.in_slot:
        return _run_here(ledger, claim, keeper)
    try:
        device = device_assignment.device_for(
            ledger,
            claim,
            kind,
            option=claim.job.gpu,
            stop=lambda: bool(keeper.stop_reason),
            need=lambda: _gpu_memory(ledger, kind, claim.job),
        )
    except UserError as problem:
        failure = describe_failure(problem)
        patient(ledger).finish(claim, State.FAILED, failure["message"], error=failure)
        return False
    finally:
        nvml_process.close()
    if device is None:
        keeper.record_outcome(patient(ledger), "while it waited for a device")
        return False
    ended = run_apart(claim, device, keeper)
    # A runner may be killed after it has recorded the end of its job: then there is nothing left to record.
    return ended == OUTCOME_RECORDED or _record_for_runner(ledger, claim, keeper, ended) == "lost"


def _record_for_runner(ledger: Ledger, claim: Claim, keeper: LeaseKeeper, ended: int) -> str:
    """The end of a runner that did not record it, by its exit code; "lost" if the job has ended or is another's."""
    if patient(ledger).renew(claim) == "lost":  # `finish` says "ok" once more to the attempt that it ended
        return "lost"
    result = result_made_by(claim.job, _store())
    if result is not None:  # it was killed after it had published its result
        return patient(ledger).finish(claim, State.SUCCEEDED, "done", result=result)
    was_terminated = keeper.stop_reason and ended == -signal.SIGTERM  # before it could listen
    if ended == STOPPED_ON_REQUEST or was_terminated:
        return keeper.record_outcome(patient(ledger), "stopped on request")
    if keeper.stop_reason:
        how = keeper.how_killed if ended == -signal.SIGKILL else explain_exit(ended)
        return keeper.record_outcome(patient(ledger), how)
    return patient(ledger).put_back(claim, explain_exit(ended), loss=True)


def _gpu_memory(ledger: Ledger, kind: JobKind, job: Job) -> int | None:
    """The kind's estimate, in bytes. Errors are ignored here; the job itself will report them in full.

    But for Unreachable and Refused: who asks again may be answered.
    """
    if kind.estimate is None:
        return None
    known = ArtifactCatalog(ledger, _store())
    try:
        return kind.estimate(kind.read_params(job.params), known).gpu_memory_bytes
    except (Unreachable, Refused):
        raise
    except Exception as error:  # noqa: BLE001 - a guess must not end a job
        log.warning("the GPU memory of job %s is not known: %s", job.id, error)
        return None


def _run_here(ledger: Ledger, claim: Claim, keeper: LeaseKeeper) -> bool:
    keeper.work_started()
    with about(claim.job.id, claim.job.attempt, Places.from_environment().job_log(claim.job.id)):
        return _perform_here(ledger, claim, keeper)


def _perform_here(ledger: Ledger, claim: Claim, keeper: LeaseKeeper) -> bool:
    try:
        work_on(claim, ledger, device_assignment.CPU, lambda: bool(keeper.stop_reason), on_lost=lambda: None)
    except Stopped:
        keeper.record_outcome(patient(ledger), "stopped on request")
        return False
    return True


def _store() -> Store:
    return Store(Places.from_environment().store)
