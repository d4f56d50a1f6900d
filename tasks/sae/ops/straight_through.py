"""JumpReLU's straight-through estimators for autograd: the slow twins of what `architectures/jumprelu.py` writes out.

Rajamanoharan et al. 2024, arXiv:2407.14435, equations 11 and 12, with the rectangle kernel: where a pre-activation lies
within half a bandwidth of its threshold, the jump counts as a slope. Only the threshold learns from it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.width = width
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        slope = -(threshold / ctx.width) * _is_near(pre, threshold, ctx.width)
        return upstream[0] * (pre > threshold), (slope * upstream[0]).sum(0), None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.width = width
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        return None, -(upstream[0] * _is_near(pre, threshold, ctx.width)).sum(0) / ctx.width, None


def jump(pre: Tensor, threshold: Tensor, width: float) -> Tensor:
    """pre where it exceeds the threshold, else 0: (n, d_sae) and (d_sae,) -> (n, d_sae)."""
    return _Jump.apply(pre, threshold, width)


def step(pre: Tensor, threshold: Tensor, width: float) -> Tensor:
    """1 where pre exceeds the threshold, else 0: (n, d_sae) and (d_sae,) -> (n, d_sae)."""
    return _Step.apply(pre, threshold, width)


def _is_near(pre: Tensor, threshold: Tensor, width: float) -> Tensor:
    return ((pre - threshold).abs() < width / 2).to(pre.dtype)
