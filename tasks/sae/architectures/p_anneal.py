"""p-annealed SAE: the standard SAE under a penalty sum f^p whose p falls (Karvonen et al. 2024, arXiv:2408.00113,
section 5).

p begins at 1, where the penalty is the L1 norm, and falls in ten steps to `p_end`, closer to a count of active
features. At each step the penalty's weight is changed so that the penalty stays what it was on the batch at hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.jobs.kind import option
from tasks.lazy_import import torch
from tasks.sae.coder import Coder, CoderOptions, StepLosses, StepState
from tasks.sae.ops.active_pairs import Pairs
from tasks.sae.ops.gradients import Sums
from tasks.sae.ops.preactivations import Preactivations

if TYPE_CHECKING:
    from torch import Tensor

#: In how many steps p falls.
FALLS = 10
#: Codes below this count as this much: f^p has no gradient at zero.
LEAST = 1e-3


@dataclass(frozen=True)
class Options(CoderOptions):
    """What can be chosen."""

    l1: float = option(2.0, help="L1 coefficient", minimum=0)
    p_end: float = option(0.2, help="Final p of the Lp penalty", minimum=0.01, maximum=1)
    anneal_from: float = option(0.25, help="Fraction of training at which p-annealing starts", minimum=0, maximum=1)

    def label(self) -> str:
        """The sparsity, for a name."""
        return f"l1-{self.l1:g}-p{self.p_end:g}"


class PAnneal(Coder):
    """max(0, pre-activation) as the code."""

    Options = Options
    saved_as = "standard"
    buffer_names = ("power", "weight")
    encoder_init = 0.1

    power: Tensor
    weight: Tensor

    def begin(self) -> None:
        """Where the annealing stands: the power in force, and what the penalty's weight is multiplied with."""
        self.power, self.weight = torch.ones(()), torch.ones(())
        self._power: float | None = None

    def load(self, state: dict[str, Tensor]) -> None:
        """See `Coder.load`."""
        super().load(state)
        self._power = None

    def activate_at(self, pairs: Pairs, pre: Tensor) -> Tensor:
        """See `Coder.activate_at`."""
        return pre.relu()

    def power_at(self, progress: float) -> float:
        """The power at 0…1 of the training."""
        first = self.options.anneal_from
        fallen = 0.0 if progress <= first else (progress - first) / max(1e-9, 1 - first)
        return 1 - (1 - self.options.p_end) * min(FALLS, int(fallen * (FALLS + 1))) / FALLS

    def step(self, x: Tensor, target: Tensor, step_state: StepState) -> StepLosses:
        """See `Coder.step`; dead features get no help."""
        pre = self.project(x)
        p = self._anneal(pre, step_state.progress)
        weight = self.weight * (step_state.pressure * self.options.l1 / len(x))
        sums = Sums(self, x, target)
        for pairs in pre.exceeding(0.0):
            codes = pre.at(pairs).relu_()
            active = codes.sign()
            upstream = sums.reconstruct(pairs, codes)
            grown = codes.clamp(min=LEAST).pow_(p - 1)
            sums.sparsity = sums.sparsity + weight * (codes * grown).sum()
            slope = grown.mul_(weight * torch.where(codes > LEAST, p, 1.0))
            sums.through_decoder(pairs, codes, upstream)
            sums.through_encoder(pairs, pairs.pull(upstream, self.W_dec).add_(slope).mul_(active))
            sums.count(pairs, active)
        return sums.write()

    def _anneal(self, pre: Preactivations, progress: float) -> float:
        """The power now; when it has just fallen, the weight makes up for it on these pre-activations."""
        if self._power is None:  # read once: a device would have to be waited for
            self._power = float(self.power)
        p, before = self.power_at(progress), self._power
        if not math.isclose(p, before, rel_tol=1e-6):  # what is in force is kept in float32
            codes = pre.positive()
            old, new = (_penalty(codes, power).sum() for power in (before, p))
            self.weight.mul_(old / new.clamp_min(1e-12))
            self.power.fill_(p)
            self._power = float(torch.tensor(p))  # as it is kept
        return p

    def slow_loss(self, x: Tensor, target: Tensor, step_state: StepState) -> Tensor:
        """The same loss, all at once, at the power and the weight in force."""
        penalty = _penalty(self.encode(x), float(self.power)).sum(1).mean()
        error = (self.forward(x) - target).square().sum(1).mean()
        return error + step_state.pressure * self.options.l1 * self.weight * penalty


def _penalty(codes: Tensor, p: float) -> Tensor:
    """f^p, and a straight line to zero below LEAST."""
    return codes * codes.clamp(min=LEAST).pow(p - 1)


CODER = PAnneal
