"""One step of our SAEs next to the same step written naively, in the same process: `python -m benchmarks.sae_step`.

Naive is what one writes first: dense codes, autograd, Adam, the same loss and the same constraint on the decoder. Both
sides take turns, so that a noisy machine hurts them alike; the figures are medians.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.turns import take_turns
from tasks.sae.architectures import build
from tasks.sae.coder import Coder, CoderConfig, StepState

D_IN, D_SAE, K, BATCH = 512, 4096, 32, 4096
ROUNDS, WARM_UP = 7, 2


def measure() -> list[dict[str, Any]]:
    """Vectors a second of each architecture's step, ours and naive, and how many times faster ours is."""
    torch.set_num_threads(min(os.cpu_count() or 1, 8))
    x = torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(0))
    return [_compare(architecture, x) for architecture in ("topk", "standard")]


def _compare(architecture: str, x: torch.Tensor) -> dict[str, Any]:
    config = CoderConfig(architecture, D_IN, D_SAE)
    sides = {"ours": _ours(build(config), x), "naive": _naive(build(config), x)}
    seconds = take_turns(sides, WARM_UP, ROUNDS, time.perf_counter)
    rates = {name: BATCH / median for name, median in seconds.items()}
    return {
        "name": f"sae step, {architecture}",
        "unit": "vectors/s",
        "ours": round(rates["ours"]),
        "naive": round(rates["naive"]),
        "ratio": round(rates["ours"] / rates["naive"], 2),
    }


def _ours(coder: Coder, x: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(coder.parameters.values(), lr=1e-3, fused=True)
    step_state = StepState(torch.zeros(0, dtype=torch.int64))

    def step() -> None:
        coder.step(x, x, step_state)
        coder.constrain_gradient()
        optimizer.step()
        coder.constrain()

    return step


def _naive(coder: Coder, x: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam([tensor.requires_grad_() for tensor in coder.parameters.values()], lr=1e-3)
    topk = coder.config.architecture == "topk"

    def step() -> None:
        optimizer.zero_grad()
        codes = torch.relu((x - coder.b_dec) @ coder.W_enc.T + coder.b_enc)
        if topk:
            kept = codes.topk(K, dim=1)
            codes = torch.zeros_like(codes).scatter(1, kept.indices, kept.values)
        error = codes @ coder.W_dec + coder.b_dec - x
        loss = error.square().sum(1).mean()
        if not topk:
            loss = loss + coder.options.l1 * codes.sum(1).mean()
        loss.backward()
        with torch.no_grad():
            coder.constrain_gradient()
            optimizer.step()
            coder.constrain()

    return step


def main() -> None:
    """Print one line a measurement."""
    for row in measure():
        print(f"{row['name']}: {row['ours']} {row['unit']}, naive {row['naive']}: {row['ratio']} times as fast")


if __name__ == "__main__":
    main()
