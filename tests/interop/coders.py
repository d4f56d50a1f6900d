"""Coders to compare: away from their start, with every gradient at hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tasks.sae.architectures import build, coder_class
from tasks.sae.coder import Coder, CoderConfig, StepLosses, StepState
from tasks.sae.ops.preactivations import Exact

D_IN, D_SAE, BATCH = 16, 64, 50
NOBODY = torch.zeros(0, dtype=torch.int64)
DEAD = torch.tensor([3, 7, 11, 30, 31])


def random(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coder_of(architecture: str, shape: dict[str, Any] | None = None, **options: Any) -> Coder:
    """A coder none of whose parameters is as at the start; its decoder's rows have length 1 if they are to."""
    config = CoderConfig(architecture, D_IN, D_SAE, coder_class(architecture).Options(**options), **(shape or {}))
    coder = build(config, seed=1)
    for seed, parameter in enumerate(coder.parameters.values(), 2):
        parameter += 0.3 * random(*parameter.shape, seed=seed)
    coder.constrain()
    if not coder.has_unit_decoder:
        coder.W_dec *= torch.linspace(0.5, 2, D_SAE)[:, None]
    return coder


def step(
    coder: Coder, x: Tensor, target: Tensor | None = None, dead: Tensor = NOBODY, **step_state: float
) -> StepLosses:
    """One step without an update; the gradients are in `.grad`."""
    return coder.step(x, x if target is None else target, StepState(dead, **step_state))


def across(gradient: Tensor, rows: Tensor) -> Tensor:
    """The part of a gradient that turns unit rows (n, d) and does not stretch them: all that a step makes use of."""
    return gradient - (gradient * rows).sum(1, keepdim=True) * rows


def vectors_away_from_edges(coder: Coder, *edges: Tensor, margin: float = 1e-3) -> Tensor:
    """A batch none of whose pre-activations is so near an edge (d_sae,) of a formula that rounding could decide."""
    drawn = random(20 * BATCH, D_IN, seed=9)
    pre = coder.preactivations(drawn)
    is_near = torch.stack([((pre - edge).abs() < margin).any(1) for edge in edges]).any(0)
    chosen = drawn[~is_near][:BATCH]
    assert len(chosen) == BATCH
    return chosen


def least_code(coder: Coder, x: Tensor) -> Tensor:
    """The smallest code that a batch keeps, which the threshold fitted to that batch lets pass and no smaller one."""
    pre = coder.preactivations(x)
    codes = coder.choose(Exact(pre))[1]
    coder.calibrate([x], len(x))
    assert int((pre > coder.threshold).sum()) == len(codes) == coder.options.k * len(x)
    return codes.min()
