"""The liveness pipe between a slot and its runner: it shows the runner when its slot no longer watches it, so that it
ends.

It is a pipe. The slot writes its order and then a byte about each second. The runner kills its own process group when
the pipe closes (the slot is dead) or is silent for nearly as long as a lease lives (the slot is stopped, and the job
will be started elsewhere).
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from typing import Any

from tasks.ledger.client import LEASE_TTL_S

#: How often a slot says that it lives.
SIGN_EVERY_S = 1.0

#: After so much silence a runner ends itself: before its job's lease has run out and another may have the job.
SILENCE_S = LEASE_TTL_S - 3.0

_PR_SET_PDEATHSIG = 1
_READ_BYTES = 4096


class LivenessPipe:
    """The slot's end. Nothing written to it ever blocks or fails: a runner that does not listen is judged elsewhere."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._signed_at = 0.0

    def give_order(self, order: dict[str, Any]) -> None:
        """Send the runner its order, with this slot's pid."""
        self._write(json.dumps({**order, "slot": os.getpid()}).encode() + b"\n")
        os.set_blocking(self._pipe, False)  # a runner that is stopped reads nothing, and the pipe fills

    def sign(self) -> None:
        """Say that the slot lives, if that was not said just now."""
        if time.monotonic() - self._signed_at >= SIGN_EVERY_S:
            self._signed_at = time.monotonic()
            self._write(b".")

    def _write(self, words: bytes) -> None:
        try:
            os.write(self._pipe, words)
        except (BlockingIOError, BrokenPipeError):
            return


def take_order() -> dict[str, Any]:
    """The runner's end: the slot's order from standard input; from now on this process dies when the slot does.

    Standard input is empty afterwards, so that no helper of the job can take the signs of life for its own.
    """
    wake_when_parent_dies()
    pipe, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    with open(pipe, "rb", buffering=0, closefd=False) as lines:
        order = json.loads(lines.readline() or '{"slot": null}')
    if os.getppid() != order["slot"]:
        kill_own_group()
    threading.Thread(target=_listen, args=(pipe,), name="slot-watch", daemon=True).start()
    return order


def kill_own_group() -> None:
    """End this process and every helper of its job at once."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def wake_when_parent_dies() -> None:
    """Ask the kernel for SIGCONT when the parent dies (PR_SET_PDEATHSIG): a stopped process would not notice the closed
    pipe.

    Not SIGKILL: it would reach this process alone, and the helpers in its group would live on.
    """
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0) != 0:
        logging.warning("the kernel will not say when the parent dies; a stopped process would not notice")


def _listen(pipe: int) -> None:
    while _received(pipe, SILENCE_S) and os.read(pipe, _READ_BYTES):
        pass
    kill_own_group()


def _received(pipe: int, within_s: float) -> bool:
    # The second look is for a runner that was stopped itself: the order may have arrived meanwhile.
    return any(select.select([pipe], [], [], seconds)[0] for seconds in (within_s, 0))
