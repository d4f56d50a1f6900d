"""The threshold at which the mean L0 of an SAE trained with BatchTopK is k: an exact quantile in bounded memory.

Bussmann et al. 2024 (arXiv:2412.06410, section 3, equation 5) estimate it as a mean over training batches. A mean over
old batches lags behind the weights, so it is taken here from the weights as they are, on a sample of training vectors.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tasks.lazy_import import torch

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.sae.coder import Coder

#: Pre-activations that are kept at once, besides a slice: the most that k times the vectors of a sample may be.
MOST_KEPT = 1 << 22


def sample_size(k: int, wanted: int) -> int:
    """How many of the wanted vectors a sample may have."""
    return max(1, min(wanted, MOST_KEPT // k))


def fit_threshold(coder: Coder, vectors: Iterable[Tensor], count: int, k: int) -> float:
    """What k * count of the pre-activations of `count` vectors exceed; 0 where fewer are positive.

    `vectors` are pieces of (n, d_in) scaled activations, `count` of them in all. It is the middle between the
    smallest pre-activation that counts and the largest that does not, so rounding decides nothing.
    """
    wanted, floor = k * count + 1, 0.0
    kept = torch.empty(0, device=coder.W_enc.device)
    for piece in vectors:
        for x in piece.split(coder.slice_rows):
            pre = coder.preactivations(x).flatten()
            kept = torch.cat([kept, pre[pre > floor]])
            if len(kept) > 2 * wanted:
                kept = kept.topk(wanted, sorted=False).values
                floor = float(kept.min())
    if len(kept) < wanted:
        return 0.0
    least, next_one = kept.topk(wanted).values[-2:]
    middle = (least + next_one) / 2
    return float(middle if middle < least else next_one)
