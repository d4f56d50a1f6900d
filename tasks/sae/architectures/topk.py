"""TopK SAE: each vector is coded by its k largest pre-activations (Gao et al. 2024, arXiv:2406.04093, section 2.3).

Dead features learn from the auxiliary loss of section 2.4. The step costs one dense product (the pre-activations) and
four sparse passes over the k pairs of each vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.jobs.kind import option
from tasks.lazy_import import torch
from tasks.parsing.tensor_files import shown
from tasks.sae.coder import Coder, CoderOptions, StepLosses, StepState
from tasks.sae.ops.active_pairs import Pairs, SomePairs
from tasks.sae.ops.gradients import Sums
from tasks.sae.ops.preactivations import Exact, Preactivations
from tasks.sae.training.aux_loss import AUX_WEIGHT, slow_aux, wake

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Options(CoderOptions):
    """What can be chosen."""

    k: int = option(32, help="Active features per token (L0)", minimum=1)
    aux: float = option(AUX_WEIGHT, help="Auxiliary (AuxK) loss coefficient", minimum=0)

    def label(self) -> str:
        """The sparsity, for a name."""
        return f"k{self.k}"

    def check(self, d_sae: int) -> None:
        """No more active features than there are."""
        if self.k > d_sae:
            raise UserError(
                f"--k {self.k} is more than the {d_sae} features of the SAE.", "Give a smaller --k or more features"
            )


class TopK(Coder):
    """Exactly k active features a vector, fewer where pre-activations are negative."""

    Options = Options
    saved_as = "topk"

    def activate(self, pre: Tensor) -> Tensor:
        """See `Coder.activate`: at most k positive entries a row."""
        kept = pre.topk(self.options.k, dim=1, sorted=False)
        return torch.zeros_like(pre).scatter_(1, kept.indices, kept.values.relu())

    def active(self, pre: Preactivations) -> Iterator[tuple[Pairs, Tensor]]:
        """See `Coder.active`."""
        yield self.choose(pre)

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `Coder.saved`."""
        return dict(self.parameters), {"k": self.options.k}

    @classmethod
    def options_of(cls, config: dict[str, Any]) -> Any:
        """See `Coder.options_of`. Raises UserError where that is not said."""
        k = config.get("k")
        if type(k) is not int or k < 1:  # a bool is no number of features
            raise UserError(f"The SAE is said to be TopK without a whole number of active features: k = {shown(k)}.")
        return cls.Options(k=k)

    def choose(self, pre: Preactivations) -> tuple[SomePairs, Tensor]:
        """The active pairs of pre-activations, and their codes, some of which may be zero."""
        pairs, values = pre.largest(self.options.k)
        return pairs, values.relu_()

    def step(self, x: Tensor, target: Tensor, step_state: StepState) -> StepLosses:
        """See `Coder.step`; there is no penalty to warm up."""
        pre = self.project(x)
        pairs, codes = self.choose(pre)
        active = codes.sign()
        sums = Sums(self, x, target)
        upstream = sums.reconstruct(pairs, codes)
        sums.through_decoder(pairs, codes, upstream)
        sums.through_encoder(pairs, pairs.pull(upstream, self.W_dec).mul_(active))
        sums.count(pairs, active)
        wake(sums, pre, step_state.dead, upstream, self.options.aux)
        return sums.write()

    def slow_loss(self, x: Tensor, target: Tensor, step_state: StepState) -> Tensor:
        """The same loss from dense codes."""
        pre = self.preactivations(x)
        error = self.complete(self.dense_codes(pre), x) - target
        loss = error.square().sum(1).mean()
        if len(step_state.dead):
            loss = loss + slow_aux(pre, step_state.dead, error, target, self.W_dec, self.options.aux)
        return loss

    def dense_codes(self, pre: Tensor) -> Tensor:
        """The codes of a batch as (batch, d_sae), for autograd: what is chosen is not part of the gradient."""
        pairs, _ = self.choose(Exact(pre.detach()))
        return torch.zeros_like(pre).index_put_((pairs.vectors, pairs.features), pairs.of(pre).relu())


CODER = TopK
