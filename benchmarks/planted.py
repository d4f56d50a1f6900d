"""Planted features: does each architecture find what is there, ours and the peers' at equal steps and equal sparsity?

The activations are sparse sums of known unit directions in fewer dimensions, so a perfect answer exists. For every
planted direction the cosine of the nearest decoder row counts; their mean is MMCS.

All sides are to end at an L0 of k = 32. JumpReLU SAEs are trained with the penalty of each library that names a number.
Where nothing but a penalty's weight makes codes sparse, all sides' weights follow one rule while they train: every ten
steps the weight is multiplied by (L0 / k) to the power 1/20, from a quarter of the library's own on, for what a penalty
has silenced does not come back. Some end with fewer, as only 16 directions are active: that is to the disadvantage of
their error.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.contest import SIDES, Side, Task, enter
from benchmarks.there import answer, run_there
from tasks.sae.architectures import names

SEEDS = (0, 1, 2)
RATES = (None, 1e-3)
STEERED = ("standard", "gated", "p_anneal")
#: How often the penalties are set anew, how far at once, and where they begin.
SET_EVERY, POWER, BEGIN = 10, 1 / 20, 1 / 4
#: Vectors that are looked at for it, and that are measured on in the end.
LOOK, HELD_OUT = 256, 16


@dataclass(frozen=True)
class Planting:
    """What is planted: unit directions that fire by Zipf's law, `active` on the average; and what is to find them."""

    features: int = 512
    d_in: int = 256
    active: float = 16.0
    d_sae: int = 512
    k: int = 32
    batch: int = 1024
    steps: int = 1500

    def task(self, architecture: str, rate: float | None, seed: int) -> Task:
        """To find what is planted."""
        return Task(architecture, self.d_in, self.d_sae, self.k, self.steps, rate, seed, aims=True)


class Field:
    """Batches of planted activations, as a pure function of the step."""

    def __init__(self, planting: Planting, seed: int) -> None:
        generator = torch.Generator().manual_seed(1000 + seed)
        drawn = torch.randn(planting.features, planting.d_in, generator=generator)
        self.directions = drawn / drawn.norm(dim=1, keepdim=True)
        self.chance, self.batch, self.seed = zipf(planting.features, planting.active), planting.batch, seed

    def __call__(self, step: int) -> Tensor:
        """(batch, d_in): each planted direction that fires counts 0.5 to 1.5 times."""
        generator = torch.Generator().manual_seed((self.seed << 32) + step)
        shape = (self.batch, len(self.directions))
        on = torch.rand(shape, generator=generator) < self.chance
        return (on * (0.5 + torch.rand(shape, generator=generator))) @ self.directions


def zipf(features: int, active: float) -> Tensor:
    """Chances that fall as 1 / rank, none above a half, and add up to `active`: (features,)."""
    ranks = torch.arange(1, features + 1, dtype=torch.float64)
    low, high = 0.0, float(features)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (middle / ranks).clamp(max=0.5).sum() < active else (low, middle)
    return (low / ranks).clamp(max=0.5).float()


def measure() -> list[dict[str, Any]]:
    """For each architecture and side the means over the seeds, at whichever rate leaves the lower error."""
    return run_there(__name__)


def rows(
    planting: Planting = Planting(), sides: Sequence[str] = SIDES, seeds: Sequence[int] = SEEDS, workers: int = 1
) -> list[dict[str, Any]]:
    """The same, in as many processes of one thread."""
    trainings = [
        (side, planting.task(name, rate, seed), planting)
        for name in names()
        for side in sides
        for rate in RATES
        for seed in seeds
    ]
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return table(trainings, list(pool.map(train, *zip(*trainings, strict=True))))


def table(
    trainings: Sequence[tuple[str, Task, Planting]], found: Sequence[dict[str, Any] | None]
) -> list[dict[str, Any]]:
    """What was found by each side of each architecture, at the better rate."""
    by_side: dict[tuple[str, str], dict[float | None, list[dict[str, Any]]]] = {}
    for (side, task, _), told in zip(trainings, found, strict=True):
        if told is not None:
            by_side.setdefault((task.architecture, side), {}).setdefault(task.lr, []).append(told)
    return [_row(*whose, by_rate) for whose, by_rate in by_side.items()]


def _row(architecture: str, side: str, by_rate: dict[float | None, list[dict[str, Any]]]) -> dict[str, Any]:
    rate, found = min(by_rate.items(), key=lambda pair: statistics.mean(told["fvu"] for told in pair[1]))
    means = {key: statistics.mean(told[key] for told in found) for key in found[0]}
    return {
        "name": architecture,
        "side": side,
        "rate": "own" if rate is None else rate,
        **{key: round(mean, 3) for key, mean in means.items()},
    }


def train(name: str, task: Task, planting: Planting) -> dict[str, Any] | None:
    """What one side found: its measures on vectors it has not seen. None where it has no such architecture."""
    field = Field(planting, task.seed)
    side = enter(name, task, torch.cat([field(step) for step in range(8)])[::8])
    if side is None:
        return None
    steered = task.architecture in STEERED
    if steered:
        side.penalty *= BEGIN
    for step in range(task.steps):
        x = field(step)
        side.step(x)
        if steered and step % SET_EVERY == 0:
            active = float((side.codes(x[:LOOK]) > 0).sum()) / len(x[:LOOK])
            side.penalty *= min(2.0, max(0.5, active / task.k)) ** POWER
    return _measure(side, field, task)


def _measure(side: Side, field: Field, task: Task) -> dict[str, Any]:
    x = torch.cat([field(step) for step in range(task.steps, task.steps + HELD_OUT)])
    codes = side.codes(x)
    rows = side.directions()
    nearest = (field.directions @ (rows / rows.norm(dim=1, keepdim=True)).T).max(1).values
    error = (side.reconstruct(x) - x).square().sum() / (x - x.mean(0)).square().sum()
    return {
        "mmcs": float(nearest.mean()),
        "fvu": float(error),
        "dead": float(((codes > 0).sum(0) == 0).float().mean()),
        "l0": float((codes > 0).sum(1).float().mean()),
        "penalty": side.penalty,
    }


if __name__ == "__main__":
    answer(lambda: rows(workers=os.cpu_count() or 1))
