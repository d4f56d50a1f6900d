"""How good an SAE is on activations it was not trained on: the only place these numbers are defined.

All are computed in slices, so that no (n, d_sae) tensor is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tasks.problem import Problem
from tasks.sae.coder import Coder, Moment


@dataclass(frozen=True)
class Measures:
    """What `measure` found on n held-out vectors.

    `fvu` is the squared error over the squared distance to the mean, both summed over vectors and dimensions;
    `explained_variance` is 1 - fvu. A feature counts as dead when it was not active on any of the vectors.
    """

    loss: float  # as trained, in the units of the given activations
    reconstruction: float  # mean squared L2 error
    l0: float  # mean number of active features
    fvu: float
    explained_variance: float
    dead_share: float
    density: torch.Tensor  # (d_sae,) share of the vectors on which each feature is active


@torch.no_grad()
def measure(coder: Coder, x: torch.Tensor, target: torch.Tensor | None = None) -> Measures:
    """The measures of `coder` on (n, d_in) activations; a transcoder's against its (n, d_out) target.

    Problem for vectors that are all the same, as a single one is.
    """
    target = x if target is None else target
    moment = Moment(torch.zeros(0, dtype=torch.int64, device=x.device))
    loss = error = 0.0
    active = torch.zeros(coder.config.d_sae, device=x.device)
    for part, wanted in zip(x.split(coder.slice_rows), target.split(coder.slice_rows), strict=True):
        loss += float(coder.slow_loss(part, wanted, moment)) * len(part)
        codes = coder.encode(part)
        active += (codes > 0).sum(0)
        error += float((coder.complete(codes, part) - wanted).square().sum())
    variance = float(total_variance(target))
    if not variance:
        raise Problem(
            "All activations that are held out are the same: nothing can be measured on them.", "Use more text"
        )
    fvu = error / variance
    density = active / len(x)
    return Measures(
        loss=loss / len(x),
        reconstruction=error / len(x),
        l0=float(density.sum()),
        fvu=fvu,
        explained_variance=1 - fvu,
        dead_share=float((active == 0).float().mean()),
        density=density,
    )


def total_variance(x: torch.Tensor) -> torch.Tensor:
    """Squared distance of (n, d) vectors to their mean, summed; 0-dimensional."""
    return (x - x.mean(0)).square().sum()
