"""A recorded snapshot: a fleet of six workers and two GPUs in the middle of a sweep, with a silent worker."""

from __future__ import annotations

from mistudio_cli.machine.host import Host
from mistudio_cli.monitor.snapshot import QueueRow, Snapshot, WorkerRow
from tasks.accelerators.devices import Device, Devices
from tasks.jobs.record import Job, Progress, State
from tasks.ledger.device_lease import Lease
from tasks.queues import QUEUE_NAMES, queue_named

NOW = 1_800_000_000.0
GIB = 1 << 30


def _running(number: int, kind: str, name: str, queue: str, done: int, device: str, **more: object) -> Job:
    return Job(
        f"1kg9t2tzzh7m{number:02}",
        kind,
        name,
        queue,
        {},
        state=State.RUNNING,
        attempt=1,
        worker=f"worker-{queue}@lab",
        device=device,
        created_at=NOW - 9000,
        queued_at=NOW - 9000,
        started_at=NOW - 600 * (number + 1),
        progress=Progress("training", done, 40_000, "steps", 12.5 + number),
        **more,  # type: ignore[arg-type]
    )


RUNNING = (
    _running(
        1, "train", "pythia-160m-l6-topk-k32", "training", 18_400, "cuda:0", metrics={"loss": 0.1312, "fvu": 0.182}
    ),
    _running(2, "activations", "pythia-160m-l6-pile", "extraction", 39_900, "cuda:1"),
    _running(3, "extract", "特徴の説明", "extraction", 120, "cuda:1"),
    _running(4, "tokenize", "pile-10k-ctx256", "processing", 2_000, "cpu"),
)
QUEUED = {
    "training": tuple(
        Job(f"1kg9t2tzzh8t{number:02}", "train", f"pythia-160m-l6-sweep-{number}", "training", {}, priority=5,
            queued_at=NOW - 3000 + number, created_at=NOW - 3000, tags=("sweep:l6",))
        for number in range(9)
    ),
    "low_priority": (
        Job("1kg9t2tzzh9c00", "cleanup", "checkpoints", "low_priority", {}, priority=3, queued_at=NOW - 8000),
    ),
}  # fmt: skip
WAITING = Job(
    "1kg9t2tzzh9w00", "extract", "pythia-160m-l6-features", "extraction", {}, state=State.WAITING,
    reason="waits for pythia-160m-l6-topk-k32", parents=("1kg9t2tzzh7m01",), created_at=NOW - 2000,
)  # fmt: skip
ENDED = (
    Job("1kg9t2tzzh6e01", "download", "NeelNanda/pile-10k", "datasets", {}, state=State.SUCCEEDED, attempt=1,
        created_at=NOW - 20_000, started_at=NOW - 19_000, finished_at=NOW - 18_700),
    Job("1kg9t2tzzh6e02", "train", "pythia-160m-l6-l1-5e-3", "training", {}, state=State.FAILED, attempt=1,
        created_at=NOW - 20_000, started_at=NOW - 15_000, finished_at=NOW - 12_000,
        error={"type": "UserError", "message": "Loss became NaN/Inf at step 1200", "traceback": ""}),
    Job("1kg9t2tzzh6e03", "train", "pythia-160m-l6-topk-k64", "training", {}, state=State.CANCELLED, attempt=1,
        reason="cancelled by alice", created_at=NOW - 20_000, started_at=NOW - 11_000, finished_at=NOW - 10_000),
)  # fmt: skip


def _queue(name: str) -> QueueRow:
    pending, running = len(QUEUED.get(name, ())), sum(job.queue == name for job in RUNNING)
    return QueueRow(
        name,
        "paused" if name == "low_priority" else "ok",
        pending,
        running,
        3000.0 if pending else None,
        1,
        queue_named(name).concurrency,
        (0.0, 0.2, 0.133),
        5400.0 if name == "training" else None,
    )


def _worker(number: int, queue: str) -> WorkerRow:
    is_silent = queue == "datasets"
    return WorkerRow(
        f"worker-{queue.replace('_', '-')}@lab",
        "silent" if is_silent else "running",
        4700 + number,
        (queue,),
        queue_named(queue).concurrency,
        sum(job.queue == queue for job in RUNNING),
        (60 << 20) + (0 if is_silent else 2 * GIB),
        0 if is_silent else 2 * GIB,
        3.5 * number,
        1 if is_silent else 0,
        NOW - 86_000,
        "killed by SIGKILL" if is_silent else None,
        140.0 if is_silent else 0.4,
        140.0 if is_silent else 0.9,
        None,
    )


SNAPSHOT = Snapshot(
    read_at=NOW,
    queues=tuple(map(_queue, QUEUE_NAMES)),
    jobs=(*RUNNING, *QUEUED["training"], *QUEUED["low_priority"], WAITING, *ENDED),
    next="50",
    supervisor={"pid": 4699, "state": "running"},
    workers=tuple(_worker(number, queue) for number, queue in enumerate(QUEUE_NAMES)),
    devices=Devices(
        (
            Device(0, "NVIDIA RTX 4090", "GPU-a", 24 * GIB, 18 * GIB, 97.0, 71.0, 412.0),
            Device(1, "NVIDIA RTX 4090", "GPU-b", 24 * GIB, 9 * GIB, 45.0, 55.0, 180.0),
        )
    ),
    leases={
        RUNNING[0].id: Lease("GPU-a", 17 * GIB),
        RUNNING[1].id: Lease("GPU-b", 5 * GIB),
        RUNNING[2].id: Lease("GPU-b", 3 * GIB),
    },
    host=Host("lab", 32, 41.0, 12.5, 128 * GIB, 77 * GIB, 2000 * GIB, 812 * GIB),
    hosts=(),
)
