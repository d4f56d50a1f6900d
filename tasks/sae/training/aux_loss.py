"""The auxiliary (AuxK) loss that revives dead features.

Features that have not fired for long are asked to explain what the live ones left over (Gao et al. 2024,
arXiv:2406.04093, section 2.4 and appendix A.2). It is estimated on a part of the batch, which keeps its gradient
unbiased and its price bearable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.sae.ops.active_pairs import SomePairs, from_rows

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.sae.ops.gradients import Sums
    from tasks.sae.ops.preactivations import Preactivations

#: Weight of the auxiliary loss (Gao et al., section 2.4), and the vectors on which it is estimated: the first
#: eighth of the batch, with a minimum.
AUX_WEIGHT = 1 / 32
AUX_SHARE, AUX_LEAST = 8, 256


def wake(sums: Sums, pre: Preactivations, dead: Tensor, upstream: Tensor, weight: float = AUX_WEIGHT) -> None:
    """Add the auxiliary loss and its gradient; `dead` is int64 indices of features.

    `upstream` is the gradient to the output of the whole reconstruction, (batch, d_out). Without dead features nothing
    is done.
    """
    if not len(dead) or not weight:
        return
    part = aux_rows(len(sums.x))
    left_over = upstream[:part] * (-len(sums.x) / 2)  # target - reconstruction
    pairs, codes = _strongest(pre.of_features(dead, part), dead, _most(sums.target), sums.coder.config.d_sae)
    error = pairs.decode(codes, sums.coder.W_dec).sub_(left_over)
    counts = aux_weight(sums.target[:part], left_over, weight)
    sums.auxiliary = counts * error.square().sum() / part
    error.mul_(2 * counts / part)
    to_pre = pairs.pull(error, sums.coder.W_dec).mul_(codes > 0)
    sums.through_decoder(pairs, codes, error)
    sums.w_enc = pairs.spread(to_pre, sums.x[:part], sums.w_enc)
    sums.to_pre += pairs.per_feature(to_pre)


def slow_aux(pre: Tensor, dead: Tensor, error: Tensor, target: Tensor, w_dec: Tensor, weight: float) -> Tensor:
    """The same loss for autograd; `error` is reconstruction - target on the whole batch."""
    part = aux_rows(len(pre))
    left_over = -error[:part].detach()
    pairs, _ = _strongest(pre[:part, dead], dead, _most(target), pre.shape[1])
    codes = pairs.of(pre[:part]).relu()
    dense = pre.new_zeros(part, pre.shape[1]).index_put((pairs.vectors, pairs.features), codes)
    return aux_weight(target[:part], left_over, weight) * (dense @ w_dec - left_over).square().sum(1).mean()


def aux_weight(target: Tensor, left_over: Tensor, weight: float) -> Tensor:
    """`weight` relative to the variances of what is explained, as in the code published with the paper.

    The paper's formula leaves the auxiliary loss in the units of the error: so small that dead features hardly move.
    """
    return weight * target.var(0, correction=0).sum() / left_over.var(0, correction=0).sum().clamp_min(1e-12)


def aux_rows(batch: int) -> int:
    """How many vectors of a batch the auxiliary loss looks at."""
    return min(batch, max(AUX_LEAST, batch // AUX_SHARE))


def _most(target: Tensor) -> int:
    """How many dead features a vector may use: half the dimensions of what they explain (Gao et al., appendix B.1)."""
    return max(1, target.shape[1] // 2)


def _strongest(pre: Tensor, dead: Tensor, most: int, d_sae: int) -> tuple[SomePairs, Tensor]:
    """The strongest `most` of the dead features for each vector (Gao et al., appendix A.2), and their codes.

    `pre` is (vectors, dead), the pre-activations of those.
    """
    found = pre.topk(min(len(dead), most), dim=1, sorted=False)
    return from_rows(dead[found.indices], d_sae), found.values.flatten().relu_()
