"""`python -P -m tasks.worker`: starts a worker; there is no other way to start one.

The worker is thin: Celery, the ledger and the declarations of kinds; what is heavy runs in runners. What it does beside
consuming is its `heartbeat`.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import billiard
import billiard.pool
from celery import Celery
from celery.signals import worker_process_init

from tasks.errors import UserError
from tasks.jobs.kind_digest import digests
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.logs.log_shipping import WorkerLog
from tasks.messaging import queue_shares
from tasks.messaging.app import app_from_environment, open_ledger
from tasks.messaging.consumer import Consumer
from tasks.messaging.remote_control import follow_or_refuse
from tasks.messaging.revoke import make_revoke_cancel
from tasks.paths import Places
from tasks.queues import QUEUE_NAMES
from tasks.settings import check_all, current
from tasks.system.log_output import log_to_stderr, name_worker, path_from_environment
from tasks.system.umask import narrow_umask
from tasks.system.version import installed_version
from tasks.worker.fleet_membership import forget_refused, wait_until_admitted
from tasks.worker.heartbeat import Heartbeat
from tasks.worker.slot import register_tasks
from tasks.worker.slot_locks import WorkerLock
from tasks.worker.watchdog import Guard, ParentWatch
from tasks.worker.worker_name import WorkerName

#: What goes wrong in each of Celery's other pools, most of it without a word.
_OTHER_POOLS = {
    "solo": "its worker can neither receive nor send while a job runs, so time limits and shutdowns would not work",
    "threads": "a thread can be neither ended nor replaced, so time limits and shutdowns would not work",
    "gevent": "one job's wait for its process would hold up all others, and no slot could be replaced",
    "eventlet": "one job's wait for its process would hold up all others, and no slot could be replaced",
}

#: How often Celery's own monitors, such as Flower, get a heartbeat event; they count a worker as offline after two.
EVENT_HEARTBEAT_EVERY_S = 10.0

#: For how many tenths of a second a slot that ends waits until its worker has counted all its results. Celery's own 300
#: would keep a worker that miscounted for half a minute; nothing is lost with less, because the ledger has them.
_WAIT_FOR_COUNT = 20


def main(argv: list[str]) -> int:
    """Run one worker until it is asked to stop. Returns its exit code."""
    options = _parse(argv)
    try:
        log_file = path_from_environment()
        check_all()
        narrow_umask()
        log_to_stderr(log_file)
        name_worker(f"{options.name}@{socket.gethostname()}")
        app = app_from_environment()
        _need_semaphores()
        worker_lock = WorkerLock(
            Places.from_environment(), options.name, tuple(options.queues.split(",")), options.slots
        )
    except UserError as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"The worker's files cannot be created: {error}\n")
        return os.EX_CANTCREAT
    queues = tuple(options.queues.split(","))
    os.environ.update(_for_slots(options))
    queue_shares.divide(queues, options.slots)
    parent = ParentWatch()
    register_tasks(app, worker_lock)
    make_revoke_cancel()
    follow_or_refuse(queues)
    app.steps["worker"].add(Heartbeat)
    hostname = f"{options.name}@{socket.gethostname()}"
    heartbeat = WorkerHeartbeat(
        hostname,
        socket.gethostname(),
        os.getpid(),
        queues,
        options.slots,
        time.time(),
        version=installed_version(),
        kinds=digests(),
    )
    name = WorkerName(worker_lock, Places.from_environment())
    worker = _worker_of(app)(
        hostname=hostname,
        queues=options.queues,
        concurrency=options.slots,
        autoscale=(options.slots, 1) if options.slots > 1 else None,
        pool=options.pool,
        max_tasks_per_child=options.max_tasks_per_child,
        max_memory_per_child=options.max_memory_per_child,
        loglevel=logging.getLogger().level,
        quiet=current("log_format") == "json",  # Celery's banner is none
        without_gossip=True,
        without_mingle=True,
        heartbeat_interval=EVENT_HEARTBEAT_EVERY_S,
        consumer_cls=Consumer,
        heartbeat_of=heartbeat,
        name_of=name,
        worker_lock=worker_lock,
    )
    worker_log = WorkerLog(app.mistudio_broker, Places.from_environment(), hostname, log_file)
    try:
        if worker_lock.acquire(keep_waiting=parent.lives) and _is_admitted(app, heartbeat, name, parent):
            Guard(worker_lock, parent).start()
            worker_log.start()
            worker.start()
            worker_log.finish()
    finally:
        worker_lock.close()
    return worker.exitcode or 0


def _is_admitted(app: Celery, heartbeat: WorkerHeartbeat, name: WorkerName, parent: ParentWatch) -> bool:
    """Whether it may consume, which is waited for; False when its parent is gone first, or a signal ends it."""
    with closing(open_ledger(app)) as ledger, _signals_that_exit():
        try:
            return wait_until_admitted(ledger, heartbeat, name, Places.from_environment().store, parent.lives)
        except SystemExit:
            forget_refused(ledger, heartbeat, name)
            return False


@contextmanager
def _signals_that_exit() -> Iterator[None]:
    """Inside, what ends a worker raises SystemExit; afterwards Celery has its own handlers."""
    signals = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)
    before = {signum: signal.signal(signum, lambda *_: sys.exit()) for signum in signals}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _need_semaphores() -> None:
    """UserError where the pool could not coordinate its slots."""
    try:
        billiard.Lock()
    except OSError as error:
        raise UserError(
            f"A worker needs semaphores, and none can be created in /dev/shm: {error.strerror}.",
            "Make it writable (chmod 1777 /dev/shm; in a container mount a tmpfs there)",
        ) from error


def _for_slots(options: argparse.Namespace) -> dict[str, str]:
    """What slots know of their worker, by their environment."""
    variables = {
        "MISTUDIO_QUEUES": options.queues,
        "MISTUDIO_SLOTS": options.slots,
        "MISTUDIO_GPU_JOBS": options.gpu_jobs,
        "MISTUDIO_CPU_JOBS": options.cpu_jobs,
        "MISTUDIO_JOB_MEMORY_GB": options.job_memory_gb,
    }
    return {name: str(value) for name, value in variables.items() if value is not None}


def _worker_of(app: Celery) -> Any:
    """Celery's worker, but quick to end, and ignoring SIGHUP: Celery would restart itself, with no parent to watch it.

    The system sends HUP to a worker and its slots when their supervisor dies while one of them is stopped.
    """

    class Worker(app.Worker):
        def install_platform_tweaks(self, worker: Any) -> None:
            super().install_platform_tweaks(worker)
            _ignore_sighup()

    worker_process_init.connect(_ignore_sighup)
    billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = _WAIT_FOR_COUNT
    return Worker


def _ignore_sighup(**_: Any) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # no handler: that would interrupt slots that wait for jobs


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tasks.worker", description="One mistudio worker.")
    parser.add_argument("--name", required=True, help="its name, without @host")
    parser.add_argument("--queues", default=",".join(QUEUE_NAMES), help="queues it serves, most urgent first")
    parser.add_argument("--slots", type=_count, default=1, help="how many jobs it runs at once")
    parser.add_argument("--pool", default="prefork", help="what its slots are: prefork, and nothing else")
    parser.add_argument("--max-tasks-per-child", type=_count, help="recycle a slot's process after N jobs")
    parser.add_argument("--max-memory-per-child", type=_count, help="recycle a slot's process above N KiB after a job")
    parser.add_argument(
        "--job-memory-gb",
        type=_gigabytes,
        help="stop a job whose processes hold more",
    )
    parser.add_argument("--gpu-jobs", type=_count, default=1, help="how many jobs may share one GPU")
    parser.add_argument("--cpu-jobs", type=_count, help="how many jobs of GPU queues may share the processor")
    options = parser.parse_args(argv)
    if unknown := set(options.queues.split(",")) - set(QUEUE_NAMES):
        parser.error(f"there is no queue {sorted(unknown)[0]!r}; queues: {', '.join(QUEUE_NAMES)}")
    if options.pool != "prefork":
        why = _OTHER_POOLS.get(options.pool, "there is no such pool")
        parser.error(f"--pool {options.pool} is refused: {why}; leave it out, or use --pool prefork")
    return options


def _count(text: str) -> int:
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")


def _gigabytes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if 0 < number < math.inf:
        return number
    raise argparse.ArgumentTypeError(f"{text!r} is no number of gigabytes above 0")
