"""`nap`: a job of a chosen length that checkpoints each tick, for tests of everything around the work."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from tasks.jobs.kind import Estimate, JobKind, option
from tasks.jobs.stop_grace import STOP_GRACE_S
from tasks.queues import Limits

TICK_S = 0.05
#: What torch says where a card has too little left.
FULL_GPU = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 24.00 GiB of which 1.00 GiB is "
    "free. Process 4242 has 3.00 GiB memory in use."
)


@dataclass(frozen=True)
class Params:
    ticks: int = option(10, help="how many ticks to sleep")
    end: str = option(
        "well",
        help="how to end",
        choices=("well", "raise", "crash", "full-disk", "full-gpu", "lost-gpu", "hang"),
    )
    until: str = option("", help="a file: once it is there the rest is left out")
    marks: str = option("", help="a file to which each tick adds a line: the attempt, its token, the tick")
    parent: str | None = option(None, help="a sae to wait for", artifact="saes")


def _number(variable: str) -> float | None:
    return float(os.environ.get(variable) or 0) or None


KIND = JobKind(
    "nap",
    queue="training",
    params=Params,
    summary="Sleep",
    module=__name__,
    produces="saes",
    limits=Limits(_number("NAP_SOFT_LIMIT_S"), _number("NAP_HARD_LIMIT_S"), _number("NAP_STALL_LIMIT_S")),
    stop_grace_s=_number("NAP_STOP_GRACE_S") or STOP_GRACE_S,
    default_name=lambda params: f"nap-{params.ticks}",
    estimate=lambda params, known: Estimate(gpu_memory_bytes=int((_number("NAP_GPU_GB") or 0) * 1e9) or None),
)


def run(params: Params, context: object) -> dict:
    import signal

    if params.end == "raise":
        raise ValueError("asked to raise")
    if params.end == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if params.end == "full-disk":
        (context.output / "half").write_text("half")
        with open("/dev/full", "w") as full:  # every write to it fails as on a full disk
            full.write("z")
    if params.end == "full-gpu":
        import torch

        raise torch.cuda.OutOfMemoryError(FULL_GPU)
    checkpoint = context.workdir / "ticks"
    done = int(checkpoint.read_text() or 0) if checkpoint.exists() else 0
    ran = 0
    for tick in range(done, params.ticks):
        if params.until and os.path.exists(params.until):
            break
        if params.marks:
            with open(params.marks, "a") as marks:
                marks.write(f"{context.attempt} {context.claim.token} {tick}\n")
        time.sleep(TICK_S)
        (context.workdir / "part").write_text(str(tick + 1))
        os.replace(context.workdir / "part", checkpoint)
        ran += 1
        context.metrics(tick + 1, {"depth": 1 - 1 / (tick + 1), "snores": tick % 3})
        context.progress("sleeping", tick + 1, params.ticks, "ticks")
    if params.end == "lost-gpu":
        raise RuntimeError("CUDA error: unspecified launch failure")
    while params.end == "hang" and context.attempt == 1:  # works for ever, reports nothing, ignores all
        time.sleep(TICK_S)
    (context.output / "dream.txt").write_text("z" * params.ticks)
    return {"ticks": params.ticks, "ran_in_last_attempt": ran}
