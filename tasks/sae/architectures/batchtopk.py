"""BatchTopK SAE: a batch is coded by its k * batch largest pre-activations (Bussmann et al. 2024, arXiv:2412.06410).

So a vector may have more active features than another. When it is used, a single vector has no batch: a feature is
active where its pre-activation exceeds a threshold, the mean over recent batches of the smallest one that was kept
(section 3, equation 5). It is saved as the JumpReLU SAE that this makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.late import torch
from tasks.sae.architectures import topk
from tasks.sae.coder import Moment, Step
from tasks.sae.pairs import SAMPLE, SomePairs, from_places, places_of

if TYPE_CHECKING:
    from torch import Tensor

#: How much a batch counts in the threshold, once it has been averaged over as many.
THRESHOLD_RATE = 0.01
#: Pre-activations are looked through for what exceeds this share of the smallest one kept last time.
GUESS = 0.9


@dataclass(frozen=True)
class Options(topk.Options):
    """What can be chosen."""


class BatchTopK(topk.TopK):
    """k active features a vector on the average of a batch."""

    Options = Options
    saved_as = "jumprelu"
    buffer_names = ("threshold", "batches")

    threshold: Tensor
    batches: Tensor

    def begin(self) -> None:
        """The mean of the smallest code kept of a batch, and over how many batches it was taken."""
        self.threshold, self.batches = torch.zeros(()), torch.zeros(())
        self._least = 0.0

    def activate(self, pre: Tensor) -> Tensor:
        """See `Coder.activate`: what exceeds the threshold."""
        return pre * (pre > self.threshold)

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `Coder.saved`: one threshold for all features."""
        return {**self.parameters, "threshold": self.threshold.expand(self.config.d_sae)}, {}

    def step(self, x: Tensor, target: Tensor, moment: Moment) -> Step:
        """See `Coder.step`."""
        told = super().step(x, target, moment)
        self.follow_threshold()
        return told

    def follow_threshold(self) -> None:
        """Take the smallest code kept of the batch just seen into the threshold."""
        self.batches += 1
        rate = (1 / self.batches).clamp_min(THRESHOLD_RATE)
        self.threshold += (self._least - self.threshold) * rate

    def choose(self, pre: Tensor) -> tuple[SomePairs, Tensor]:
        """See `TopK.choose`; of equal pre-activations at the edge the first ones are kept."""
        flat, wanted = pre.flatten(), self.options.k * len(pre)
        for floor in self._floors(pre):
            places = places_of(flat > floor)
            if len(places) >= wanted:
                break
        values = flat[places]
        if len(places) > wanted:
            least = values.kthvalue(len(values) - wanted + 1).values
            at_edge = (values == least).nonzero().flatten()
            keep = values >= least
            keep[at_edge[len(at_edge) - (int(keep.sum()) - wanted) :]] = False
            places, values = places[keep], values[keep]
        self._least = float(values.min()) if len(values) else 0.0
        return from_places(places, len(pre), self.config.d_sae), values

    def _floors(self, pre: Tensor) -> Iterator[float]:
        """What few more than the wanted may exceed: by the batch before, by the first vectors; at last what all do."""
        if self._least:
            yield GUESS * self._least
        sample = pre[:SAMPLE].flatten()
        many = sample.topk(min(len(sample), 2 * self.options.k * len(pre[:SAMPLE])), sorted=False).values
        if (floor := float(many.min())) > 0:
            yield floor
        yield 0.0


CODER = BatchTopK
