"""What is planted, and the training that looks for it: one rule for how all sides train.

The activations are sparse sums of known unit directions in fewer dimensions, so a perfect answer exists. For every
planted direction the cosine of the nearest decoder row counts; their mean is MMCS.

All sides are to end at an L0 of k. JumpReLU SAEs are trained with the penalty of each library that names a number.
Where nothing but a penalty's weight makes codes sparse, all sides' weights follow one rule while they train: every ten
steps the weight is multiplied by (L0 / k) to the power 1/20, from a quarter of the library's own on, for what a penalty
has silenced does not come back. Some end with fewer, as only half as many directions are active: that is to the
disadvantage of their error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.contest import Side, Task, enter

STEERED = ("standard", "gated", "p_anneal")


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
    held_out: int = 16  # batches that are measured on
    # Where the weights of penalties begin, how often they are adjusted, how far at once, and from how many vectors.
    begin: float = 1 / 4
    every: int = 10
    power: float = 1 / 20
    look: int = 256

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


def train(name: str, task: Task, planting: Planting) -> dict[str, Any] | None:
    """What one side found: its measures on vectors it has not seen. None where it has no such architecture."""
    field = Field(planting, task.seed)
    side = enter(name, task, torch.cat([field(step) for step in range(8)])[::8])
    if side is None:
        return None
    steered = task.architecture in STEERED
    if steered:
        side.penalty *= planting.begin
    for step in range(task.steps):
        x = field(step)
        side.step(x)
        if steered and step % planting.every == 0:
            seen = x[: planting.look]
            active = float((side.codes(seen) > 0).sum()) / len(seen)
            side.penalty *= min(2.0, max(0.5, active / task.k)) ** planting.power
    return _measure(side, field, range(task.steps, task.steps + planting.held_out))


def _measure(side: Side, field: Field, steps: range) -> dict[str, Any]:
    x = torch.cat([field(step) for step in steps])
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
