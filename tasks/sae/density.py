"""Feature densities (how often features fire) as a histogram, and its bins.

The bins are those of the density histogram of Bricken et al. 2023 ("Towards Monosemanticity", section "Feature density
histograms and dead neurons"): of equal width in log10 of the share of vectors on which a feature is active.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.lazy_import import torch

if TYPE_CHECKING:
    from torch import Tensor

#: Where bins begin and end, in log10 of the density: half a decade each, from 1e-7 to 1. The first also holds the
#: features below it, the last those that are active on every vector. They never change, so that runs can be compared.
LOG10_EDGES = tuple(-7 + half / 2 for half in range(15))


@dataclass(frozen=True)
class Histogram:
    """How many features never fired, and how many have a density from each edge up to the next."""

    never: int
    counts: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON. `never` and `counts` add up to the number of features."""
        return {"never": self.never, "log10_edges": list(LOG10_EDGES), "counts": list(self.counts)}

    @classmethod
    def of(cls, data: dict[str, Any]) -> Histogram:
        """The histogram that `to_dict` wrote."""
        return cls(data["never"], tuple(data["counts"]))


def histogram(density: Tensor) -> Histogram:
    """The histogram of the shares of vectors, (d_sae,), on which features are active."""
    # In float32 on both sides: a count divided by a power of ten is the very number that stands at an edge.
    inner = torch.tensor([10.0**edge for edge in LOG10_EDGES[1:-1]], dtype=torch.float32)
    fired = density[density > 0].float().cpu()
    counts = torch.bucketize(fired, inner, right=True).bincount(minlength=len(LOG10_EDGES) - 1)
    return Histogram(len(density) - len(fired), tuple(counts.tolist()))
