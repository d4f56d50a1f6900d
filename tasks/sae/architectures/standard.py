"""Standard SAE: ReLU codes under an L1 penalty (Bricken et al. 2023, "Towards Monosemanticity").

Inputs are scaled to a mean length of sqrt(d_in) and the squared error is summed over the dimensions, as in Anthropic's
April 2024 update (Conerly et al., "Update on how we train SAEs"), so the penalty's weight means the same here as there.
They advise 5; the default here is 2, because short trainings lose more to shrinkage than they gain in sparsity. With
`--decoder free` the decoder's rows have any length and the penalty counts each code times its row's length, as that
update has it; with `unit` the rows are kept at length 1, where both penalties are the same. A crosscoder's are always
free, and the penalty adds up their lengths in each layer (Lindsey et al. 2024, "Sparse Crosscoders").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.jobs.kind import option
from tasks.lazy_import import torch
from tasks.sae.coder import Coder, CoderOptions, StepLosses, StepState
from tasks.sae.ops.active_pairs import Pairs
from tasks.sae.ops.gradients import Sums

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Options(CoderOptions):
    """What can be chosen."""

    l1: float = option(2.0, help="L1 coefficient", minimum=0)
    decoder: str = option(
        "unit", help="Decoder rows: unit norm, or free with norm-weighted L1", choices=("unit", "free")
    )

    def label(self) -> str:
        """The sparsity, for a name."""
        return f"l1-{self.l1:g}"


class Standard(Coder):
    """max(0, pre-activation) as the code."""

    Options = Options
    saved_as = "standard"
    #: Features start quiet, or d_sae / d_in of them add up to far too much.
    encoder_init = 0.1

    @property
    def has_unit_decoder(self) -> bool:
        """Unless the penalty sees to the lengths."""
        return self.options.decoder == "unit" and self.config.blocks == 1

    def activate_at(self, pairs: Pairs, pre: Tensor) -> Tensor:
        """See `Coder.activate_at`."""
        return pre.relu()

    def step(self, x: Tensor, target: Tensor, step_state: StepState) -> StepLosses:
        """See `Coder.step`; dead features get no help beyond the penalty's warm-up."""
        lengths = self.lengths()
        scale = step_state.pressure * self.options.l1 / len(x)
        weight = lengths.sum(1) * scale
        pre = self.project(x)
        sums, mass = Sums(self, x, target), torch.zeros_like(self.b_enc)
        for pairs in pre.exceeding(0.0):
            codes = pre.at(pairs).relu_()
            active = codes.sign()
            upstream = sums.reconstruct(pairs, codes)
            to_codes = pairs.pull(upstream, self.W_dec).add_(pairs.of_features(weight))
            sums.through_decoder(pairs, codes, upstream)
            sums.through_encoder(pairs, to_codes.mul_(active))
            sums.count(pairs, active)
            mass += pairs.per_feature(codes)
        sums.sparsity = weight @ mass
        if not self.has_unit_decoder:
            assert sums.w_dec is not None
            directions = self.W_dec.unflatten(1, (self.config.blocks, -1)) / lengths[:, :, None].clamp_min(1e-30)
            sums.w_dec.addcmul_(directions.flatten(1), mass[:, None], value=scale)
        return sums.write()

    def slow_loss(self, x: Tensor, target: Tensor, step_state: StepState) -> Tensor:
        """The same loss, all at once."""
        lengths = self.lengths().sum(1)
        penalty = (self.encode(x) * (lengths.detach() if self.has_unit_decoder else lengths)).sum(1).mean()
        error = (self.forward(x) - target).square().sum(1).mean()
        return error + step_state.pressure * self.options.l1 * penalty


CODER = Standard
