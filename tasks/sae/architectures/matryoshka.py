"""Matryoshka BatchTopK SAE: nested dictionaries, each of which must explain the input alone (Bussmann et al. 2025,
arXiv:2503.17547).

The first features form the smallest dictionary, some more the next, all the largest; codes are those of BatchTopK. The
loss is the mean of the squared errors of the nested reconstructions (section 3, equation 3, whose sum differs by a
factor), so that early features stay general. A code of a group counts in every dictionary from there on.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from tasks.errors import UserError
from tasks.jobs.kind import option
from tasks.lazy_import import torch
from tasks.sae.architectures import batchtopk
from tasks.sae.coder import StepLosses, StepState
from tasks.sae.ops.active_pairs import SomePairs, sort_by
from tasks.sae.ops.gradients import Sums
from tasks.sae.training.aux_loss import slow_aux, wake

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Options(batchtopk.Options):
    """What can be chosen."""

    groups: int = option(5, help="Number of nested prefixes; each is twice the previous", minimum=1)

    def label(self) -> str:
        """The sparsity, for a name."""
        return f"k{self.k}-g{self.groups}"

    def check(self, d_sae: int) -> None:
        """No dictionary so small that the next one is no larger."""
        super().check(d_sae)
        if self.groups > d_sae.bit_length():
            raise UserError(
                f"{d_sae} features can be halved into {d_sae.bit_length()} dictionaries, not --groups {self.groups}.",
                "Give a smaller --groups or more features",
            )


class Matryoshka(batchtopk.BatchTopK):
    """BatchTopK whose first features must do well without the others."""

    Options = Options

    def ends(self) -> list[int]:
        """Where each nested dictionary ends, ascending; the last is d_sae."""
        whole = self.config.d_sae
        return sorted({max(1, whole >> n) for n in range(self.options.groups)})

    def step(self, x: Tensor, target: Tensor, step_state: StepState) -> StepLosses:
        """See `Coder.step`."""
        pre = self.project(x)
        pairs, codes = self.choose(pre)
        active, ends = codes.sign(), self.ends()
        sums = Sums(self, x, target)
        nested, order = _by_group(pairs, ends)
        decoded = accumulate(nested.decode(codes[order], self.W_dec).split(len(x)))
        upstreams = [
            sums.measure(pairs.rows, made, share=1 / len(ends), is_whole=end == self.config.d_sae)
            for made, end in zip(decoded, ends, strict=True)
        ]
        # A group's codes are part of every reconstruction from its own on: the last group's of the last only.
        behind = list(accumulate(reversed(upstreams)))[::-1]
        upstream = torch.cat(behind)
        sums.through_decoder(nested, codes[order], upstream)
        to_pre = torch.empty_like(codes)
        to_pre[order] = nested.pull(upstream, self.W_dec)
        sums.through_encoder(pairs, to_pre.mul_(active))
        sums.count(pairs, active)
        wake(sums, pre, step_state.dead, upstreams[-1] * len(ends), self.options.aux)
        return sums.write()

    def slow_loss(self, x: Tensor, target: Tensor, step_state: StepState) -> Tensor:
        """The same loss from dense codes."""
        pre = self.preactivations(x)
        codes = self.dense_codes(pre)
        past = x @ self.W_skip.T if self.config.skip else 0
        errors = [codes[:, :end] @ self.W_dec[:end] + self.b_dec + past - target for end in self.ends()]
        loss = torch.stack([error.square().sum(1).mean() for error in errors]).mean()
        if len(step_state.dead):
            loss = loss + slow_aux(pre, step_state.dead, errors[-1], target, self.W_dec, self.options.aux)
        return loss


def _by_group(pairs: SomePairs, ends: list[int]) -> tuple[SomePairs, Tensor]:
    """The pairs group by group, as if each group had vectors of its own; and the order that brings them there.

    Groups end at the features `ends`, and group n's pair with vector v is one of vector n * batch + v. So one product
    serves all groups, and how many pairs a group has is not asked of the device.
    """
    batch = len(pairs.starts)
    owners = pairs.vectors + batch * sum((pairs.features >= end).long() for end in ends[:-1])
    order, starts = sort_by(owners, batch * len(ends))
    return SomePairs(pairs.features[order], owners[order], starts, pairs.d_sae), order


CODER = Matryoshka
