"""BatchTopK SAE: a batch is coded by its k * batch largest pre-activations (Bussmann et al. 2024, arXiv:2412.06410).

So a vector may have more active features than another. When it is used, a single vector has no batch: a feature is
active where its pre-activation exceeds a threshold (section 3, equation 5). The threshold is fitted to training vectors
whenever the SAE is evaluated or saved, so that k features are active on the average: see `tasks.sae.calibration`. It is
saved as the JumpReLU SAE that this makes of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.late import torch
from tasks.sae.architectures import topk
from tasks.sae.calibration import fit_threshold, sample_size
from tasks.sae.largest import places_of_largest
from tasks.sae.pairs import SAMPLE, SomePairs, from_places, places_of

if TYPE_CHECKING:
    from torch import Tensor

#: Pre-activations are looked through for what exceeds this share of the smallest one kept last time.
GUESS = 0.9


@dataclass(frozen=True)
class Options(topk.Options):
    """What can be chosen."""


class BatchTopK(topk.TopK):
    """k active features a vector on the average of a batch."""

    Options = Options
    saved_as = "jumprelu"
    buffer_names = ("threshold",)

    threshold: Tensor

    def begin(self) -> None:
        """The threshold of the saved form; 0 until it is calibrated."""
        self.threshold = torch.zeros(())
        self._least = 0.0

    def activate(self, pre: Tensor) -> Tensor:
        """See `Coder.activate`: what exceeds the threshold."""
        return pre * (pre > self.threshold)

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `Coder.saved`: one threshold for all features."""
        return {**self.parameters, "threshold": self.threshold.expand(self.config.d_sae)}, {}

    def calibrate(self, vectors: Iterable[Tensor], count: int) -> None:
        """See `Coder.calibrate`: the threshold at which k features are active on the average of these vectors."""
        self.threshold.fill_(fit_threshold(self, vectors, count, self.options.k))

    def calibration_size(self, wanted: int) -> int:
        """See `Coder.calibration_size`."""
        return sample_size(self.options.k, wanted)

    def choose(self, pre: Tensor) -> tuple[SomePairs, Tensor]:
        """See `TopK.choose`; of equal pre-activations at the edge the first ones are kept, on a card any."""
        flat, wanted = pre.flatten(), self.options.k * len(pre)
        if pre.device.type != "cpu":  # which would have to be waited for to count what exceeds a floor
            places = places_of_largest(flat, wanted)
            return from_places(places, len(pre), self.config.d_sae), flat[places].relu_()
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
