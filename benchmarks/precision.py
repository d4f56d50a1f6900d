"""A training step that chooses features in bfloat16 next to the one in float32, and the peers: `make bench` on CPUs.

All take turns on the same batch, so that a noisy machine hurts them alike; the figures are medians of five. Beside
them stands how many times as fast the encoder's product alone is in bfloat16: that is what the processor brings, from
twice (AVX512-BF16) to six times (AMX). The peers are measured where they are installed. On a machine that others use,
MISTUDIO_BENCH_CLOCK=cpu measures the processor time of one thread instead of the clock.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.contest import SIDES, Task, enter
from benchmarks.peer_environment import NoPeersError, answer, run_there
from benchmarks.turns import take_turns
from tasks.models.cpu_backend import chosen
from tasks.sae.coder import BF16

ROUNDS, WARM_UP = 5, 2
#: Whether the time is that of one thread on its processor.
OF_ONE_THREAD = os.environ.get("MISTUDIO_BENCH_CLOCK") == "cpu"
BATCH = 2048
TASKS = (
    Task("topk", 768, 12_288, 64, 10_000, lr=1e-9),
    Task("batchtopk", 768, 6_144, 48, 10_000, lr=1e-9),
)
OURS, ROUNDED = "ours, float32", "ours, bf16"

Row = dict[str, Any]


def measure() -> list[Row]:
    """Vectors a second of each step, among the peers if they are there, else ours alone."""
    try:
        return run_there(__name__)
    except NoPeersError:
        return run_there(__name__, interpreter=Path(sys.executable))


def rows(
    tasks: tuple[Task, ...] = TASKS, sides: tuple[str, ...] = SIDES, batch: int = BATCH, rounds: int = ROUNDS
) -> list[Row]:
    """The same, in this process."""
    return [_compare(task, sides, batch, rounds) for task in tasks]


def _compare(task: Task, sides: tuple[str, ...], batch: int, rounds: int) -> Row:
    x = torch.randn(batch, task.d_in, generator=torch.Generator().manual_seed(0))
    entered = {OURS: enter("ours", task, x), ROUNDED: enter("ours", task, x)}
    rounded: Any = entered[ROUNDED]
    rounded.trainer.precision = BF16
    entered |= {side: enter(side, task, x) for side in sides if side != "ours"}
    steps: dict[str, Callable[[], object]] = {name: partial(side.step, x) for name, side in entered.items() if side}
    products = {"float32": _product(x, task.d_sae, torch.float32), BF16: _product(x, task.d_sae, torch.bfloat16)}
    clock = time.process_time if OF_ONE_THREAD else time.perf_counter
    took = take_turns({**steps, **products}, WARM_UP, rounds, clock)
    peers = [took[name] for name in steps if name not in (OURS, ROUNDED)]
    return {
        "name": f"{task.architecture}, {task.d_in} to {task.d_sae}, k {task.k}",
        "unit": "vectors/s of processor time, one thread" if OF_ONE_THREAD else "vectors/s",
        **{name: round(batch / took[name]) for name in steps},
        "bf16 / float32": round(took[OURS] / took[ROUNDED], 2),
        "bf16 / best peer": round(min(peers) / took[ROUNDED], 2) if peers else "not measured",
        "product alone, bf16 / float32": round(took["float32"] / took[BF16], 2),
        "unsure": rounded.coder.unsure_fraction,
    }


def _product(x: Tensor, d_sae: int, dtype: torch.dtype) -> Callable[[], None]:
    left, right = x.to(dtype), torch.randn(d_sae, x.shape[1]).to(dtype)
    out = left.new_empty(len(x), d_sae)

    def multiply() -> None:
        with chosen():
            torch.mm(left, right.T, out=out)

    return multiply


if __name__ == "__main__":
    torch.set_num_threads(1 if OF_ONE_THREAD else min(os.cpu_count() or 1, 8))
    answer(partial(rows, sides=SIDES if find_spec("sae_lens") else ("ours",)))
