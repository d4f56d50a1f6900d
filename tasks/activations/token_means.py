"""Means over tokens and their standard errors.

Tokens of one row are not independent, so a row is a cluster: the error of a mean comes from how the rows' sums differ
(Miller 2024, "Adding Error Bars to Evals", arXiv:2411.00640, section 2.2; for ratios Cochran 1977, "Sampling
Techniques", chapter 6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.lazy_import import torch

if TYPE_CHECKING:
    from torch import Tensor


def ratio(above: Tensor, below: Tensor) -> tuple[float, float | None]:
    """The ratio of two sums, of float64 (rows,) tensors, and its standard error; None where there is one row only.

    With counts of tokens as `below` it is a mean over tokens. `below` must not add up to zero.
    """
    value, rows = float(above.sum() / below.sum()), len(above)
    if rows < 2:
        return value, None
    residual = (above - value * below).square().sum() * (rows / (rows - 1))
    return value, float(residual.sqrt() / below.sum().abs())


def per_row(values: Tensor, counts: Tensor) -> Tensor:
    """Sums over rows, (rows, q) float64, of (n, q) values; `counts` (rows,) is how many of the n each row has."""
    owners = torch.repeat_interleave(torch.arange(len(counts), device=values.device), counts.to(values.device))
    return values.new_zeros(len(counts), values.shape[1], dtype=torch.float64).index_add_(0, owners, values.double())
