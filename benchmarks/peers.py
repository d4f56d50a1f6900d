"""One training step of every architecture: ours next to the peers', each with its own optimizer and bookkeeping.

All sides get the same batch and take turns, so that a noisy machine hurts them alike; the figures are medians. Rates
of change are all but zero, so each step is that of the state it is named for: `start`, or `L0 64`, where the encoder's
biases were lowered until 64 features are active. Each library starts where it starts, which the column of L0 shows. A
share of the GEMM peak is the time that the products which the formulas need would take at the speed of one large one,
measured in the same rounds, over the time of the step.

All sides run with the settings of the allocator that our jobs run with, which are good for each of them. The peers do
not set them, so what a user of theirs gets is measured in a second run without them; it is held against our rate in the
first by the speed of the large product, which both runs measure.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.contest import PENALISED, SIDES, Side, Task, enter
from benchmarks.peer_environment import answer, run_there
from benchmarks.turns import take_turns
from tasks.models.cpu_backend import chosen
from tasks.sae.architectures import names
from tasks.sae.ops.active_pairs import SPARSE_SHARE

ROUNDS, WARM_UP = 7, 2
#: How often the range is halved in which a bias is looked for.
HALVINGS = 16
#: What a side's rate is called next to ours.
BEST = "best peer"
#: What the rate is called at which vectors go through one product of full size.
GEMM = "one GEMM"


@dataclass(frozen=True)
class Size:
    """How large the SAE and the batches are; what is penalised gets half of a batch."""

    d_in: int = 512
    d_sae: int = 4096
    k: int = 32
    few: int = 64
    batch: int = 4096


def measure() -> list[dict[str, Any]]:
    """Vectors a second of each step, our rate over the best peer's, and the shares of the GEMM peak."""
    return beside(run_there(__name__), run_there(__name__, allocator={}))


def beside(rows: list[dict[str, Any]], as_they_come: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with our rate over the best peer's as it was without our allocator settings."""
    for row, plain in zip(rows, as_they_come, strict=True):
        peers = [plain[side] for side in SIDES if side != "ours" and side in plain]
        ratio = row["ours"] / row[GEMM] / (max(peers) / plain[GEMM]) if peers else None
        row[f"ours / {BEST} as it comes"] = ratio and round(ratio, 2)
    return rows


def of_peak(side: str) -> str:
    """What a side's share of the GEMM peak is called."""
    return f"{side}, of GEMM peak"


def rows(
    size: Size = Size(),
    sides: tuple[str, ...] = SIDES,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """The same, in this process."""
    made = []
    for name in names():
        for few in (None, size.few) if name in PENALISED else (None,):
            made.append(_compare(name, few, size, sides, rounds, clock))
    return made


def _compare(
    name: str, few: int | None, size: Size, sides: tuple[str, ...], rounds: int, clock: Callable[[], float]
) -> dict[str, Any]:
    batch = size.batch // 2 if name in PENALISED else size.batch
    x = torch.randn(batch, size.d_in, generator=torch.Generator().manual_seed(0))
    there = _enter(Task(name, size.d_in, size.d_sae, size.k, 10_000, lr=1e-9), few, x, sides)
    active = {side: _active(name, size, made, x) for side, made in there.items()}
    products = {side: _products(name, l0 / size.d_sae) for side, l0 in active.items()}
    steps: dict[str, Callable[[], None]] = {side: partial(made.step, x) for side, made in there.items()}
    seconds = take_turns({**steps, "gemm": _gemm(x, size.d_sae)}, WARM_UP, rounds, clock)
    gemm = seconds.pop("gemm")
    peers = [took for side, took in seconds.items() if side != "ours"]
    return {
        "name": f"{name}, L0 {few}" if few else f"{name}, start" if name in PENALISED else f"{name}, k {size.k}",
        "unit": "vectors/s",
        **{side: round(batch / took) for side, took in seconds.items()},
        f"ours / {BEST}": round(min(peers) / seconds["ours"], 2) if peers else None,
        GEMM: round(batch / gemm),
        **{of_peak(side): round(gemm * products[side] / took, 3) for side, took in seconds.items()},
        "L0 of each": ", ".join(f"{l0:.0f}" for l0 in active.values()),
    }


def _enter(task: Task, few: int | None, x: Tensor, sides: tuple[str, ...]) -> dict[str, Side]:
    entered = {name: enter(name, task, x) for name in sides}
    there = {name: side for name, side in entered.items() if side is not None}
    for side in there.values():
        if few:
            quieten(side, x, few)
    return there


def quieten(side: Side, x: Tensor, few: int) -> None:
    """Lower the biases by as little as it takes to have not more than `few` features active on the average."""
    start = side.bias.clone()
    enough, less = float(side.codes(x).max()), 0.0
    for _ in range(HALVINGS):
        tried = (enough + less) / 2
        side.bias.copy_(start - tried)
        if int(side.codes(x).count_nonzero()) > few * len(x):
            less = tried
        else:
            enough = tried
    side.bias.copy_(start - enough)


def _gemm(x: Tensor, d_sae: int) -> Callable[[], None]:
    """One product of a batch with a matrix of the encoder's size, at the speed of the machine."""
    matrix, out = torch.randn(x.shape[1], d_sae), x.new_empty(len(x), d_sae)

    def multiply() -> None:
        with chosen():
            torch.mm(x, matrix, out=out)

    return multiply


def _active(name: str, size: Size, side: Side, x: Tensor) -> float:
    """How many features are active on a vector."""
    return float((side.codes(x) > 0).sum(1).float().mean()) if name in PENALISED else float(size.k)


def _products(name: str, share: float) -> float:
    """How many products of full size a step needs: the pre-activations, and others at what is active alone.

    Those are: decode, the gradients of both matrices, and of the codes; a gate decodes for itself, and has a gradient.
    Where many are active, nothing is faster than products of full size.
    """
    return 1 + (6 if name == "gated" else 4) * (share if share <= SPARSE_SHARE else 1)


if __name__ == "__main__":
    torch.set_num_threads(min(os.cpu_count() or 1, 8))
    answer(rows)
