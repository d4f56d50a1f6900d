"""Pre-activations W_enc (x - b_dec) + b of a batch: what active features are chosen by, and their values.

`Exact` does both with one product in float32. `Rounded` chooses by a product of bfloat16 numbers, which processors with
units for it compute several times as fast, and computes what was chosen again in float32, pair by pair:

    rounded = bf16(x - b_dec) bf16(W_enc)^T + bf16(b)                 (batch, d_sae), to choose by
    exact_ij = <x_i - b_dec, W_enc_j> + b_j                           (pairs,), at what was chosen

So codes, losses and gradients are those of float32 wherever both choose the same. Rounding changes a value v by

    |rounded - exact| <= u |v| + e,    u = 2^-8,    e about u |x| |W_enc_j| / sqrt(d_in)

where e is what rounding x and W_enc adds up to if the d_in errors are independent (the worst case is 2 sqrt(d_in) times
as much, and needs x and W_enc_j to lie on one axis). So more is chosen than is needed: a margin of candidates for the k
largest, a slack below a floor. A vector whose choice may still differ from float32's is counted as unsure; where the
largest are chosen on a CPU its values are all computed in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tasks.lazy_import import torch
from tasks.sae.ops.active_pairs import (
    SAMPLE,
    SLICE,
    Pairs,
    SomePairs,
    at_least,
    from_rows,
    largest_among,
    pairs_at,
    places_of,
    some_pairs,
    sparse_rows,
    split,
)
from tasks.sae.ops.norm import norm

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.sae.coder import Coder

#: Relative error of a number rounded to bfloat16: it has 8 significant bits.
ROUNDING = 2**-8
#: Candidates beyond the k largest: an eighth of them, not under eight. Near the k-th of k largest of normally
#: distributed values, which is t standard deviations out, k t^2 / 128 of them lie within one rounding of it.
MARGIN_SHARE, MARGIN_LEAST = 8, 8
#: The slack below a floor, in units of the e above: seven standard deviations of it.
SLACK = 4.0
#: The share of pairs up to which computing them again costs less than a product in bfloat16 saves: measured on two
#: cores with AVX512-BF16, where that is half of one in float32.
FEW = 1 / 40


class Preactivations(Protocol):
    """Pre-activations of one batch of vectors."""

    @property
    def dense(self) -> Tensor:
        """(batch, d_sae) values to choose by, float32 or bfloat16."""

    @property
    def is_exact(self) -> bool:
        """Whether these are float32's, so that nothing has to be computed again."""

    def exact(self) -> Exact:
        """The same, all of them in float32."""

    def with_margin(self, count: int, most: int) -> int:
        """How many candidates, of `most`, must be looked at for the `count` largest."""

    def at(self, pairs: Pairs) -> Tensor:
        """Float32 values at the pairs, in the shape of `pairs.of`; may be a view of a buffer that is used again."""

    def of_features(self, features: Tensor, rows: int) -> Tensor:
        """Float32 values of the first `rows` vectors at some features, int64: (rows, features)."""

    def positive(self) -> Tensor:
        """Float32 values of all that are positive: flat."""

    def exceeding(self, floor: Tensor | float) -> Iterator[Pairs]:
        """Pairs among which are all that exceed a floor, (d_sae,) or one for all: see
        `tasks.sae.ops.active_pairs.split`.
        """

    def largest(self, k: int) -> tuple[SomePairs, Tensor]:
        """The pairs of each vector with its `k` largest values, and those values in float32: (pairs,)."""

    def count_unsure(self, kept: Tensor, passed_over: Tensor, pairs: SomePairs, values: Tensor) -> Tensor:
        """Count vectors whose smallest kept value may be less than one that was passed over, and say which: bool.

        `kept` and `passed_over`, the largest rounded one, are (batch,) both, or one number for the whole batch, as is
        what comes back. `values` are exact at the `pairs`.
        """

    def floor_below(self, value: Tensor, pairs: SomePairs, values: Tensor) -> float:
        """What all that may exceed a `value`, (), exceed in `dense`; `values` are exact at the `pairs`."""


class Exact:
    """Pre-activations in float32, (batch, d_sae)."""

    is_exact = True

    def __init__(self, dense: Tensor) -> None:
        self.dense = dense

    def exact(self) -> Exact:
        """See `Preactivations`."""
        return self

    def with_margin(self, count: int, most: int) -> int:
        """See `Preactivations`."""
        return count

    def at(self, pairs: Pairs) -> Tensor:
        """See `Preactivations`."""
        return pairs.of(self.dense)

    def of_features(self, features: Tensor, rows: int) -> Tensor:
        """See `Preactivations`."""
        return self.dense[:rows, features]

    def positive(self) -> Tensor:
        """See `Preactivations`."""
        return pairs_at(self.dense > 0).of(self.dense)

    def exceeding(self, floor: Tensor | float) -> Iterator[Pairs]:
        """See `Preactivations`."""
        return split(self.dense, floor)

    def largest(self, k: int) -> tuple[SomePairs, Tensor]:
        """See `Preactivations`."""
        pairs, _ = at_least(self.dense, k)
        return largest_among(pairs, pairs.of(self.dense), k, k)

    def count_unsure(self, kept: Tensor, passed_over: Tensor, pairs: SomePairs, values: Tensor) -> Tensor:
        """See `Preactivations`: none is."""
        return torch.zeros_like(kept, dtype=torch.bool)

    def floor_below(self, value: Tensor, pairs: SomePairs, values: Tensor) -> float:
        """See `Preactivations`."""
        return float(value)


class Rounded:
    """Pre-activations chosen in bfloat16 and computed in float32, of (batch, d_in) float32 vectors."""

    is_exact = False

    def __init__(self, coder: Coder, x: Tensor) -> None:
        self.coder, self.given, self.bias = coder, x, coder.own_bias()
        self.x = x if coder.is_transcoder else x - coder.b_dec  # rounded after that: what is common to all is not lost
        self._x16 = self.x.bfloat16()
        self._w16 = coder.scratch("W_enc", coder.config.d_sae, torch.bfloat16, coder.config.d_in).copy_(coder.W_enc)
        self._made: Tensor | None = None
        self._search: _Search | None = None
        self._whole: Exact | None = None  # where so much exceeds a floor that it is not worth while to choose

    def is_finite(self) -> bool:
        """Whether nothing in it can be other than a finite number; not known of a device that would be waited for."""
        if self.x.device.type != "cpu":
            return True
        x, weights, bias = (norm(tensor) for tensor in (self.x, self.coder.W_enc, self.bias))
        return bool((x * weights + bias).isfinite())

    @property
    def dense(self) -> Tensor:
        """See `Preactivations`."""
        if self._made is None:
            self._made = self._product(self._x16, self.bias)
        return self._made

    def exact(self) -> Exact:
        """See `Preactivations`."""
        return Exact(self.coder.preactivations(self.given, out=self.coder.scratch("pre", len(self.given))))

    def with_margin(self, count: int, most: int) -> int:
        """See `Preactivations`."""
        return min(most, count + max(MARGIN_LEAST, count // MARGIN_SHARE))

    def at(self, pairs: Pairs) -> Tensor:
        """See `Preactivations`."""
        if self._whole is not None:
            return self._whole.at(pairs)
        assert isinstance(pairs, SomePairs)
        x = self.x[pairs.rows]
        values = pairs.pull(x, self.coder.W_enc, self.bias)
        if self._search is not None:
            self.coder.chosen += len(x)
            self.coder.unsure += self._search.beyond_slack(pairs, values)
        return values

    def of_features(self, features: Tensor, rows: int) -> Tensor:
        """See `Preactivations`."""
        return torch.addmm(self.bias[features], self.x[:rows], self.coder.W_enc[features].T)

    def positive(self) -> Tensor:
        """See `Preactivations`."""
        return self.exact().positive()

    def exceeding(self, floor: Tensor | float) -> Iterator[Pairs]:
        """See `Preactivations`: the product is moved so far that what may exceed the floor is positive."""
        above = self.bias - floor
        slack = self._error().mul_(SLACK).add_(above.abs(), alpha=ROUNDING)
        at_once = sparse_rows(self._product(self._x16[:SAMPLE], above + slack), 0, FEW)
        if not at_once:
            self._whole = self.exact()
            return self._whole.exceeding(floor)
        self._search = _Search(self._product(self._x16, above + slack), floor, slack)
        return some_pairs(self._search.found, 0, at_once)

    def largest(self, k: int) -> tuple[SomePairs, Tensor]:
        """See `Preactivations`."""
        each = self.with_margin(k, self.coder.config.d_sae)
        pairs, least = at_least(self.dense, each)
        values = self.at(pairs)
        chosen, kept = largest_among(pairs, values, k, each)
        if each == self.coder.config.d_sae:
            return chosen, kept
        unsure = self.count_unsure(kept.view(-1, k).amin(1), least.flatten().float(), pairs, values)
        return (chosen, kept) if unsure.device.type != "cpu" else self._with_exact(chosen, kept, places_of(unsure))

    def count_unsure(self, kept: Tensor, passed_over: Tensor, pairs: SomePairs, values: Tensor) -> Tensor:
        """See `Preactivations`: by the largest error at the candidates, beyond the rounding of the value itself.

        Errors grow with a vector's length, so of vectors that are judged each by itself the ratio of both counts.
        """
        if kept.dim():
            lengths = torch.linalg.vector_norm(self.x, dim=1).clamp_min_(torch.finfo(self.x.dtype).tiny)
            error = self._largest_error(pairs, values, pairs.of_vectors(lengths)) * lengths
        else:
            error = self._largest_error(pairs, values)
        unsure = kept < passed_over + ROUNDING * passed_over.abs() + error
        self.coder.unsure += unsure.expand(len(self.x)).count_nonzero()
        self.coder.chosen += len(self.x)
        return unsure

    def floor_below(self, value: Tensor, pairs: SomePairs, values: Tensor) -> float:
        """See `Preactivations`; less by the rounding of the floor itself."""
        return float((value - self._largest_error(pairs, values)) / (1 + ROUNDING) * (1 - ROUNDING))

    def _largest_error(self, pairs: SomePairs, values: Tensor, unit: Tensor | float = 1.0) -> Tensor:
        """The largest error beyond the rounding of a value itself, in a unit at the pairs: ()."""
        if not len(values):
            return values.new_zeros(())
        rounded = pairs.of(self.dense).float()
        return ((values - rounded).abs_() - ROUNDING * rounded.abs()).div_(unit).amax().clamp_min_(0)

    def _with_exact(self, chosen: SomePairs, kept: Tensor, rows: Tensor) -> tuple[SomePairs, Tensor]:
        """The pairs, as many of each vector, and values with those of some vectors chosen among all in float32."""
        if not len(rows):
            return chosen, kept
        features, values = (each.view(len(self.x), -1).clone() for each in (chosen.features, kept))
        for some in rows.split(SLICE):
            found = self.coder.preactivations(self.given[some]).topk(values.shape[1], dim=1, sorted=False)
            features[some], values[some] = found.indices, found.values
        return from_rows(features, chosen.d_sae), values.flatten()

    def _error(self) -> Tensor:
        """What e of the module's docstring is for the longest vector: (d_sae,)."""
        lengths, longest = torch.linalg.vector_norm(self.coder.W_enc, dim=1), torch.linalg.vector_norm(self.x, dim=1)
        return lengths.mul_(longest.amax() * (ROUNDING / self.x.shape[1] ** 0.5))

    def _product(self, x16: Tensor, bias: Tensor) -> Tensor:
        """(rows, d_in) bfloat16 -> (rows, d_sae) bfloat16, with a float32 bias."""
        made = self.coder.scratch("rounded", len(x16), torch.bfloat16)
        return torch.addmm(bias.bfloat16(), x16, self._w16.T, out=made)


class _Search(NamedTuple):
    """Rounded values less a floor, with a slack: found is what is above zero of (batch, d_sae)."""

    found: Tensor
    floor: Tensor | float
    slack: Tensor

    def beyond_slack(self, pairs: SomePairs, values: Tensor) -> Tensor:
        """How many vectors have a value that rounding moved by more than the slack: others may be passed over."""
        slack, found = pairs.of_features(self.slack), pairs.of(self.found).float()
        floor = self.floor if isinstance(self.floor, float) else pairs.of_features(self.floor)
        error = (values - floor).add_(slack).sub_(found).abs_().sub_(found, alpha=ROUNDING)
        return pairs.per_vector((error > slack).to(values.dtype)).count_nonzero()
