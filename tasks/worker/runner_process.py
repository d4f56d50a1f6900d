"""The slot's side of a runner: start it, watch it, kill its process group."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from tasks.accelerators.card_watch import CardWatch
from tasks.jobs.kind import kind_named
from tasks.ledger.client import Claim
from tasks.parsing.redact import without_secrets
from tasks.paths import Places, make_private
from tasks.runner.liveness_pipe import LivenessPipe
from tasks.runner.memory_limit import MemoryWatch
from tasks.worker.device_assignment import CPU, Placement
from tasks.worker.lease_keeper import LeaseKeeper

log = logging.getLogger("mistudio.slot")

_LOOK_EVERY_S = 0.2

#: glibc gives freed memory back to the system at once; a trainer asks for the same again at the next step.
_ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"}


#: Freed memory of a GPU can be joined to larger pieces then, instead of being lost between smaller ones.
_CUDA_ALLOCATOR = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
#: The variables by which a user may say otherwise, torch's older and newer name of one.
_OF_USERS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


def run_apart(claim: Claim, device: Placement, keeper: LeaseKeeper) -> int:
    """Run the job in a process group of its own; the exit code of its runner, negative is the signal that killed it."""
    places = Places.from_environment()
    with _open_log(places, claim.job.id) as log_file:
        runner = _spawn(claim, device, log_file, places)
    assert runner.stdin is not None
    line = LivenessPipe(runner.stdin.fileno())
    try:
        line.give_order({"token": claim.token, "attempt": claim.job.attempt, "device": device.torch_name})
        keeper.work_started()
        card = CardWatch(device.environment.get("CUDA_VISIBLE_DEVICES", ""))
        return _mind(runner, line, MemoryWatch(runner.pid, kind_named(claim.job.kind)), card, keeper)
    finally:
        _signal_group(runner, signal.SIGKILL)
        runner.stdin.close()
        runner.wait()


def _open_log(places: Places, job_id: str) -> IO[bytes]:
    """The job's log. Where none can be written the job runs without, and its record has what matters."""
    path = places.job_log(job_id)
    try:
        make_private(path.parent, places.home)
        return path.open("ab")
    except OSError as error:
        log.warning("the log of job %s cannot be written: %s", job_id, error)
        return open(os.devnull, "ab")


def explain_exit(code: int) -> str:
    """The failure reason recorded for a runner that exited without reporting one."""
    if code == -signal.SIGKILL:
        return "its process was killed (SIGKILL), perhaps because memory ran out"
    if code < 0:
        return f"its process died of {signal.Signals(-code).name}"
    return f"its process exited with code {code} and no error message"


def _spawn(claim: Claim, device: Placement, log_file: IO[bytes], places: Places) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tasks.runner", claim.job.id],
        stdin=subprocess.PIPE,
        stdout=log_file,
        stderr=log_file,
        cwd=_folder(places),
        process_group=0,
        env={**_ALLOCATOR, **without_secrets(os.environ, kind_named(claim.job.kind).secrets), **_on_device(device)},
    )


def _on_device(device: Placement) -> dict[str, str]:
    """What a job's environment has for its device; a user's own settings of torch's allocator stay."""
    if device.torch_name == CPU or any(name in os.environ for name in _OF_USERS):
        return device.environment
    return {**_CUDA_ALLOCATOR, **device.environment}


def _folder(places: Places) -> Path | None:
    """Where a runner works: its worker's own folder may have been removed."""
    try:
        return make_private(places.run, places.home)
    except OSError:
        return None


def _mind(
    runner: subprocess.Popen[bytes], line: LivenessPipe, memory: MemoryWatch, card: CardWatch, keeper: LeaseKeeper
) -> int:
    """Until it ends: say that its slot lives; once there is a reason to stop it, TERM, and KILL when its time is up."""
    is_stopping = False
    while True:
        if keeper.is_alive():  # a slot that renews no lease must keep no runner
            line.sign()
        try:
            return runner.wait(_LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            pass
        if too_much := memory.too_much():
            keeper.request_stop("memory", *too_much)
        if lost := card.lost():
            keeper.request_stop("card", *lost)
        if keeper.stop_reason == "lost" or keeper.time_is_up:
            _signal_group(runner, signal.SIGKILL)
        elif keeper.stop_reason and not is_stopping:
            is_stopping = True
            _signal_group(runner, signal.SIGTERM)


def _signal_group(runner: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    # The group outlives its leader while a helper of the job is left in it; nobody else can have taken its number.
    try:
        os.killpg(runner.pid, signum)
    except (ProcessLookupError, PermissionError):
        return
