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

from tasks.lazy_import import np, torch
from tasks.sae.architectures import topk
from tasks.sae.calibration import fit_threshold, sample_size
from tasks.sae.coder import Coder
from tasks.sae.ops.active_pairs import SAMPLE, Pairs, SomePairs, from_places, is_above, places_of
from tasks.sae.ops.preactivations import Preactivations
from tasks.sae.ops.topk_indices import places_of_largest

if TYPE_CHECKING:
    from torch import Tensor

#: Pre-activations are looked through for what exceeds this share of the smallest one kept last time.
GUESS = 0.95


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

    def activate_at(self, pairs: Pairs, pre: Tensor) -> Tensor:
        """See `Coder.activate_at`."""
        return self.activate(pre)

    def floor(self) -> float:
        """See `Coder.floor`."""
        return float(self.threshold)

    def active(self, pre: Preactivations) -> Iterator[tuple[Pairs, Tensor]]:
        """See `Coder.active`: a vector has no batch then."""
        return Coder.active(self, pre)

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `Coder.saved`: one threshold for all features."""
        return {**self.parameters, "threshold": self.threshold.expand(self.config.d_sae)}, {}

    def calibrate(self, vectors: Iterable[Tensor], count: int) -> None:
        """See `Coder.calibrate`: the threshold at which k features are active on the average of these vectors."""
        self.threshold.fill_(fit_threshold(self, vectors, count, self.options.k))

    def calibration_size(self, wanted: int) -> int:
        """See `Coder.calibration_size`."""
        return sample_size(self.options.k, wanted)

    def choose(self, pre: Preactivations) -> tuple[SomePairs, Tensor]:
        """See `TopK.choose`; of equal pre-activations at the edge the first ones are kept, on a card any."""
        batch, d_sae = pre.dense.shape
        flat, wanted = pre.dense.flatten(), self.options.k * batch
        count = pre.with_margin(wanted, len(flat))
        if flat.device.type != "cpu":  # which would have to be waited for to count what exceeds a floor
            return self._choose_without_waiting(pre, count, wanted)
        for floor in self._floors(pre.dense, count // batch):
            places = places_of(is_above(flat, floor))
            if len(places) >= count:
                break
        if len(places) < count and not pre.is_exact:  # all that are positive, of which rounding may have hidden some
            return self.choose(pre.exact())
        values = flat[places].float()
        kept = places_of(_largest(values, count))
        places, values = places[kept], values[kept]
        self._least = float(values.min()) if len(values) else 0.0
        pairs = from_places(places, batch, d_sae)
        return (pairs, values) if pre.is_exact else self._choose_again(pre, pairs, wanted)

    def _choose_without_waiting(self, pre: Preactivations, count: int, wanted: int) -> tuple[SomePairs, Tensor]:
        """The `wanted` largest, of `count` candidates where those were chosen by rounded values."""
        batch, d_sae = pre.dense.shape
        flat = pre.dense.flatten()
        places = places_of_largest(flat, count)
        pairs = from_places(places, batch, d_sae)
        if pre.is_exact:
            return pairs, flat[places].relu_()
        values = pre.at(pairs)
        kept = places_of_largest(values, wanted)
        pre.count_unsure(values[kept].amin(), flat[places].amin().float(), pairs, values)
        return from_places(places[kept], batch, d_sae), values[kept].relu_()

    def _choose_again(self, pre: Preactivations, pairs: SomePairs, wanted: int) -> tuple[SomePairs, Tensor]:
        """The `wanted` largest of candidates that were chosen by rounded values, by exact ones.

        Where one that was passed over may be among them, all that may be are candidates.
        """
        kept, codes, values = _positive(pre, pairs, wanted)
        least = codes.amin() if len(codes) == wanted else codes.new_zeros(())
        if not pre.count_unsure(least, codes.new_tensor(self._least), pairs, values):
            return kept, codes
        floor = pre.floor_below(least, pairs, values)
        if floor <= 0:
            return self.choose(pre.exact())
        places = places_of(is_above(pre.dense.flatten(), floor))
        return _positive(pre, from_places(places, *pre.dense.shape), wanted)[:2]

    def _floors(self, pre: Tensor, each: int) -> Iterator[float]:
        """What few more than the wanted may exceed: by the batch before, by the first vectors; at last what all do."""
        if self._least:
            yield GUESS * self._least
        sample = pre[:SAMPLE].float()
        many = sample.flatten().topk(min(sample.numel(), 2 * each * len(sample)), sorted=False).values
        if (floor := float(many.min())) > 0:
            yield floor
        yield 0.0


def _positive(pre: Preactivations, pairs: SomePairs, wanted: int) -> tuple[SomePairs, Tensor, Tensor]:
    """Of some pairs those with the `wanted` largest values that are positive, these values, and those of all."""
    values = pre.at(pairs)
    kept, places = pairs.among(_largest(values, wanted).logical_and_(values > 0))
    return kept, values[places], values


def _largest(values: Tensor, wanted: int) -> Tensor:
    """Where the `wanted` largest of flat values on a CPU are, of equal ones at the edge the first: bool."""
    if len(values) <= wanted:
        return torch.ones_like(values, dtype=torch.bool)
    least = np.partition(values.numpy(), -wanted)[-wanted]  # ten times as fast as torch's kthvalue
    at_edge = (values == least).nonzero().flatten()
    keep = values >= least
    keep[at_edge[len(at_edge) - (int(keep.sum()) - wanted) :]] = False
    return keep


CODER = BatchTopK
