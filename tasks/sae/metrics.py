"""How well an SAE reconstructs activations it was not trained on; each number is defined in docs/metrics.md.

Codes are those of the saved SAE. All is computed in slices, so that no (n, d_sae) tensor is made of many vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tasks.activations.token_means import per_row, ratio
from tasks.errors import UserError
from tasks.sae.coder import Coder
from tasks.sae.density import histogram

#: Means over tokens: the names of the columns of sums that `Measurement` keeps, in their order.
MEANS = ("mse", "l0", "l1", "cosine_similarity", "l2_norm_in", "l2_norm_out", "l2_ratio")
#: Shorter inputs are not divided by when norms are compared, as in SAELens.
_SHORTEST = 1e-4


@dataclass(frozen=True)
class Measures:
    """What was measured of an SAE on `tokens` vectors, by the names of docs/metrics.md.

    L2 values are in the units of the model's activations, for a crosscoder in those of scaled ones.
    """

    mse: float
    fvu: float
    explained_variance: float
    l0: float
    l1: float
    cosine_similarity: float
    l2_norm_in: float
    l2_norm_out: float
    l2_ratio: float
    relative_reconstruction_bias: float | None
    dead_fraction: float
    density: torch.Tensor  # (d_sae,) fraction of the vectors on which each feature is active
    tokens: int
    standard_errors: dict[str, float | None]

    def as_json(self) -> dict[str, Any]:
        """All of it by name, densities as their histogram, without the number of tokens."""
        values = {name: value for name, value in vars(self).items() if name not in ("density", "tokens")}
        return {**values, "density_histogram": histogram(self.density).to_dict()}


@dataclass
class Measurement:
    """Adds up what `Measures` are made of, piece by piece.

    `unit` is what scaled vectors are multiplied with to have the model's own units.
    """

    coder: Coder
    unit: float = 1.0
    _sums: list[torch.Tensor] = field(default_factory=list)  # (rows, columns) each: MEANS, deviation
    _counts: list[torch.Tensor] = field(default_factory=list)  # (rows,) each
    _products: torch.Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    _active: torch.Tensor | None = None
    _centre: torch.Tensor | None = None
    _shift: torch.Tensor | None = None

    @torch.no_grad()
    def add(self, x: torch.Tensor, target: torch.Tensor | None = None, counts: np.ndarray | None = None) -> None:
        """Take (n, d_in) scaled vectors and their (n, d_out) targets into account; without `target` an autoencoder's.

        `counts` is how many of the n vectors each row of tokens has; without it each vector is a row of its own.
        """
        target = x if target is None else target
        if not len(x):
            return
        if self._centre is None:
            self._centre = target.double().mean(0)
            self._shift = torch.zeros_like(self._centre)
            self._active = x.new_zeros(self.coder.config.d_sae)
        size = self.coder.slice_rows
        columns = [self._look(*pair) for pair in zip(x.split(size), target.split(size), strict=True)]
        owned = torch.ones(len(x), dtype=torch.int64) if counts is None else torch.as_tensor(counts, dtype=torch.int64)
        self._sums.append(per_row(torch.cat(columns), owned).cpu())
        self._counts.append(owned.double())

    def _look(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The columns of one slice, (n, columns)."""
        assert self._active is not None
        assert self._centre is not None
        assert self._shift is not None
        codes = self.coder.encode(x)
        made, target = self.coder.complete(codes, x) * self.unit, target * self.unit
        is_active = codes > 0
        self._active += is_active.sum(0)
        norm_in, norm_out, inner = target.norm(dim=1), made.norm(dim=1), (target * made).sum(1)
        away = target.double() - self._centre * self.unit
        self._shift += away.sum(0)
        self._products += torch.stack([made.double().square().sum(), inner.double().sum()]).cpu()
        of_tokens = {
            "mse": (made - target).square().sum(1),
            "l0": is_active.sum(1),
            "l1": codes.sum(1),
            "cosine_similarity": inner / (norm_in * norm_out).clamp_min(1e-30),
            "l2_norm_in": norm_in,
            "l2_norm_out": norm_out,
            "l2_ratio": norm_out / torch.where(norm_in < _SHORTEST, 1.0, norm_in),
        }
        return torch.stack([*(of_tokens[name].double() for name in MEANS), away.square().sum(1)], dim=1)

    @property
    def tokens(self) -> int:
        """How many vectors were added."""
        return int(sum(float(counts.sum()) for counts in self._counts))

    def result(self) -> Measures:
        """The measures of all that was added.

        UserError for what is not finite, and for vectors that are all the same, as a single one is.
        """
        nothing = torch.zeros(0, len(MEANS) + 1, dtype=torch.float64)
        *sums, deviation = torch.cat([nothing, *self._sums]).unbind(1)
        counts, tokens = torch.cat([nothing[:, 0], *self._counts]), self.tokens
        # The deviations are from the mean of the first piece: what its distance to the mean of all adds is taken off.
        beyond = float(self._shift.square().sum()) / tokens if tokens and self._shift is not None else 0.0
        variance = float(deviation.sum()) - beyond
        if not math.isfinite(variance):
            raise UserError(
                "Activations that are held out are infinite or no numbers: nothing can be measured on them.",
                "Read them with --model-dtype float32",
            )
        if not math.isfinite(float(sums[0].sum())):
            raise UserError("What the SAE reconstructs is infinite or no number.", "Train with a lower --learning-rate")
        if variance <= 1e-12 * max(1e-30, float(deviation.sum())):
            raise UserError(
                "All activations that are held out are the same: nothing can be measured on them.", "Use more text"
            )
        means = {name: ratio(column, counts) for name, column in zip(MEANS, sums, strict=True)}
        fvu = ratio(sums[0], deviation - beyond / tokens * counts)
        errors = {name: error for name, (_, error) in (*means.items(), ("fvu", fvu), ("explained_variance", fvu))}
        assert self._active is not None
        out, along = self._products.tolist()
        return Measures(
            **{name: value for name, (value, _) in means.items()},
            fvu=fvu[0],
            explained_variance=1 - fvu[0],
            relative_reconstruction_bias=out / along if along else None,
            dead_fraction=float((self._active == 0).float().mean()),
            density=self._active / tokens,
            tokens=tokens,
            standard_errors=errors,
        )


def measure(
    coder: Coder,
    x: torch.Tensor,
    target: torch.Tensor | None = None,
    unit: float = 1.0,
    counts: np.ndarray | None = None,
) -> Measures:
    """The measures of `coder` on (n, d_in) scaled activations; a transcoder's against its (n, d_out) target.

    UserError for what is not finite, and for vectors that are all the same, as a single one is.
    """
    measurement = Measurement(coder, unit)
    measurement.add(x, target, counts)
    return measurement.result()


def total_variance(x: torch.Tensor) -> torch.Tensor:
    """Squared distance of (n, d) vectors to their mean, summed; 0-dimensional."""
    return (x - x.mean(0)).square().sum()
