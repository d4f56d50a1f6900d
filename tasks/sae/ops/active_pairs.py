"""The (vector, feature) pairs that a training step works on, and the products over them.

An architecture's formulas are about codes: one number for each vector and feature, most of them zero once it has
learned something. They are written once, over pairs, and `split` decides what the pairs are: every pair of one slice of
the batch after another, where many are active, or only the active ones, of the whole batch if they are not too many to
hold. A dense product costs the same whatever it multiplies, a sparse pass costs by the pair, so the first wins while
many are active.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from tasks.lazy_import import np, torch
from tasks.sae.ops.backend import Passes, choice, residual_of

if TYPE_CHECKING:
    from torch import Tensor

#: Vectors per slice where all pairs are active, and vectors sampled to decide whether many are.
SLICE, SAMPLE = 512, 64
#: A share of active pairs under which working on them alone is faster; measured on two cores with AVX-512.
SPARSE_SHARE = 1 / 8
#: Active pairs that are worked on together, or few more: what is held of each is dozens of bytes.
MOST = 1 << 20
#: How many times as many rows as there are vectors a matrix must have for its rows to be taken in their order.
LARGER = 2
#: Features in one of the parts of a row whose maxima are compared first.
PART = 32


class Pairs(Protocol):
    """Pairs of some vectors of a batch and of features. Values at pairs have the shape that `of` gives."""

    @property
    def rows(self) -> slice:
        """Which vectors of the batch they are of."""

    def of(self, dense: Tensor) -> Tensor:
        """The values of a (batch, d_sae) tensor at the pairs; may be a view."""

    def fill(self, dense: Tensor, values: Tensor) -> None:
        """Write values at the pairs into a (batch, d_sae) tensor."""

    def of_features(self, values: Tensor) -> Tensor:
        """A (d_sae,) tensor as values at the pairs, or what broadcasts with them."""

    def decode(self, values: Tensor, matrix: Tensor) -> Tensor:
        """For each vector the sum of `matrix`'s (d_sae, d) rows, weighted with its values: (rows, d)."""

    def residual(
        self, values: Tensor, matrix: Tensor, bias: Tensor, target: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """What is decoded, plus `bias` (d,), less `target` (rows, d): times `scale`; before that, its squares' sum."""

    def pull(self, vectors: Tensor, matrix: Tensor) -> Tensor:
        """The inner product of each pair's vector, of (rows, d), with its feature's row of `matrix` (d_sae, d)."""

    def spread(self, values: Tensor, vectors: Tensor, onto: Tensor | None, out: Tensor | None = None) -> Tensor:
        """For each feature the sum of its vectors, weighted with the values: (d_sae, d), added to `onto`, if any.

        Else it may be written into `out`, if that is given.
        """

    def per_feature(self, values: Tensor) -> Tensor:
        """For each feature the sum of its values: (d_sae,)."""

    def per_vector(self, values: Tensor) -> Tensor:
        """For each vector the sum of its values: (rows,)."""

    def of_vectors(self, values: Tensor) -> Tensor:
        """A (rows,) tensor as values at the pairs, or what broadcasts with them."""

    def among(self, wanted: Tensor) -> tuple[Pairs, Tensor | slice]:
        """The pairs at which `wanted`, bool at the pairs, is true, and the places that they have among all.

        All of them where products would not become cheaper: values elsewhere must be zero.
        """


@dataclass(frozen=True)
class AllPairs:
    """Every feature with each of some vectors: values are (rows, d_sae), the products those of matrices."""

    rows: slice

    def of(self, dense: Tensor) -> Tensor:
        """See `Pairs`."""
        return dense[self.rows]

    def fill(self, dense: Tensor, values: Tensor) -> None:
        """See `Pairs`."""
        dense[self.rows] = values

    def of_features(self, values: Tensor) -> Tensor:
        """See `Pairs`."""
        return values

    def decode(self, values: Tensor, matrix: Tensor) -> Tensor:
        """See `Pairs`."""
        return values @ matrix

    def residual(
        self, values: Tensor, matrix: Tensor, bias: Tensor, target: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See `Pairs`."""
        return residual_of(values @ matrix, bias, target, scale)

    def pull(self, vectors: Tensor, matrix: Tensor) -> Tensor:
        """See `Pairs`."""
        return vectors @ matrix.T

    def spread(self, values: Tensor, vectors: Tensor, onto: Tensor | None, out: Tensor | None = None) -> Tensor:
        """See `Pairs`."""
        return torch.mm(values.T, vectors, out=out) if onto is None else onto.addmm_(values.T, vectors)

    def per_feature(self, values: Tensor) -> Tensor:
        """See `Pairs`."""
        return values.sum(0)

    def per_vector(self, values: Tensor) -> Tensor:
        """See `Pairs`."""
        return values.sum(1)

    def of_vectors(self, values: Tensor) -> Tensor:
        """See `Pairs`."""
        return values[:, None]

    def among(self, wanted: Tensor) -> tuple[AllPairs, slice]:
        """See `Pairs`."""
        return self, slice(None)


@dataclass(frozen=True)
class SomePairs:
    """Chosen pairs of `count` vectors, one vector after the other: values are (pairs,).

    `features` and `vectors`, both (pairs,) int64, say what each pair is; `starts` (count,) where each vector's begin.
    Vectors are counted from number `first` of the batch.
    """

    features: Tensor
    vectors: Tensor
    starts: Tensor
    d_sae: int
    first: int = 0

    @property
    def rows(self) -> slice:
        """As much of the batch as the pairs were chosen from."""
        return slice(self.first, self.first + len(self.starts))

    def of(self, dense: Tensor) -> Tensor:
        """See `Pairs`."""
        return dense[self.rows].flatten()[self.vectors * self.d_sae + self.features]

    def fill(self, dense: Tensor, values: Tensor) -> None:
        """See `Pairs`."""
        dense[self.rows][self.vectors, self.features] = values

    def of_features(self, values: Tensor) -> Tensor:
        """See `Pairs`."""
        return values[self.features]

    def decode(self, values: Tensor, matrix: Tensor) -> Tensor:
        """See `Pairs`."""
        return self._passes.bags(self.features, self.starts, values, matrix, None)

    def residual(
        self, values: Tensor, matrix: Tensor, bias: Tensor, target: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See `Pairs`."""
        return self._passes.residual(self.features, self.starts, values, matrix, bias, target, scale)

    def pull(self, vectors: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `Pairs`; with a `bias` (d_sae,) each pair's own is added.

        Feature by feature a large matrix is read once, and only the vectors here and there.
        """
        if vectors.device.type == "cpu" and len(matrix) >= LARGER * len(vectors):
            order, starts = self._by_feature
            features = self.features.index_select(0, order)
            found = self._passes.dots(features, starts, self._vectors_by_feature, matrix, vectors)
            made = torch.empty_like(found).scatter_(0, order, found)
            return made if bias is None else made.add_(self.of_features(bias))
        return self._passes.dots(self.vectors, self.starts, self.features, vectors, matrix, bias)

    def spread(self, values: Tensor, vectors: Tensor, onto: Tensor | None, out: Tensor | None = None) -> Tensor:
        """See `Pairs`."""
        order, starts = self._by_feature
        if onto is None and out is None and self._passes.writes_in_place:
            out = vectors.new_empty(self.d_sae, vectors.shape[1])
        weights = values.index_select(0, order)
        return self._passes.bags(self._vectors_by_feature, starts, weights, vectors, onto, out)

    def per_feature(self, values: Tensor) -> Tensor:
        """See `Pairs`."""
        return values.new_zeros(self.d_sae).index_add_(0, self.features, values)

    def per_vector(self, values: Tensor) -> Tensor:
        """See `Pairs`."""
        return values.new_zeros(len(self.starts)).index_add_(0, self.vectors, values)

    def of_vectors(self, values: Tensor) -> Tensor:
        """See `Pairs`."""
        return values[self.vectors]

    def among(self, wanted: Tensor) -> tuple[SomePairs, Tensor]:
        """See `Pairs`."""
        chosen = places_of(wanted)
        vectors = self.vectors[chosen]
        starts = _starts(vectors, len(self.starts))
        return SomePairs(self.features[chosen], vectors, starts, self.d_sae, self.first), chosen

    @property
    def _passes(self) -> Passes:
        return choice(self.features.device.type).passes

    @cached_property
    def _by_feature(self) -> tuple[Tensor, Tensor]:
        """The order that sorts the pairs by feature, and where each feature's begin: (pairs,) and (d_sae,) int64."""
        return sort_by(self.features, self.d_sae)

    @cached_property
    def _vectors_by_feature(self) -> Tensor:
        return self.vectors.index_select(0, self._by_feature[0])


def split(pre: Tensor, floor: Tensor | float) -> Iterator[Pairs]:
    """The pairs at which (batch, d_sae) pre-activations exceed a floor, or all pairs, slice by slice of the batch.

    All of them where many of the first vectors exceed it, or on a device that would have to be waited for to know. What
    does not exceed it must come out as zero by the formulas.
    """
    at_once = sparse_rows(pre[:SAMPLE], floor)
    return some_pairs(pre, floor, at_once) if at_once else all_pairs(len(pre))


def sparse_rows(sample: Tensor, floor: Tensor | float, share: float | None = None) -> int:
    """Of how many vectors active pairs are worked on together, by the first few vectors; 0 where all pairs are.

    That is where more than the `share` of them is active, by default `SPARSE_SHARE`.
    """
    share = SPARSE_SHARE if share is None else share
    active = int(is_above(sample, floor).count_nonzero()) if sample.device.type == "cpu" else sample.numel()
    return max(1, MOST * len(sample) // max(1, active)) if active <= share * sample.numel() else 0


def some_pairs(pre: Tensor, floor: Tensor | float, at_once: int) -> Iterator[Pairs]:
    """The pairs at which (batch, d_sae) pre-activations exceed a floor, `at_once` vectors at a time."""
    for start, part in zip(range(0, len(pre), at_once), pre.split(at_once), strict=True):
        yield pairs_at(is_above(part, floor), start)


def all_pairs(batch: int) -> Iterator[Pairs]:
    """All pairs, slice by slice of the batch."""
    for start in range(0, batch, SLICE):
        yield AllPairs(slice(start, min(start + SLICE, batch)))


def is_above(values: Tensor, floor: Tensor | float) -> Tensor:
    """Where values exceed a floor that broadcasts with them: bool. NumPy compares four times as fast as torch on a CPU.

    It knows no bfloat16: numbers from zero up are in the order of their bits, so a floor of those must not be less.
    """
    if values.device.type != "cpu":
        return values > floor
    than, bits = torch.as_tensor(floor, dtype=values.dtype), values.dtype == torch.bfloat16
    found = _bits(values) > _bits(than) if bits else values.numpy() > than.numpy()
    return torch.from_numpy(found)


def _bits(values: Tensor) -> Any:
    """Bfloat16 numbers as 16-bit integers, of which those from zero up have the same order."""
    return values.view(torch.int16).numpy()


def pairs_at(wanted: Tensor, first: int = 0) -> SomePairs:
    """The pairs at which the (count, d_sae) bool tensor, whose vectors are those from `first` on, is true."""
    count, d_sae = wanted.shape
    return from_places(places_of(wanted.flatten()), count, d_sae, first)


def places_of(wanted: Tensor) -> Tensor:
    """Where a flat bool tensor is true: ascending int64. NumPy finds them ten times faster than torch on a CPU."""
    if wanted.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(wanted.numpy()))
    return wanted.nonzero().flatten()


def from_places(places: Tensor, count: int, d_sae: int, first: int = 0) -> SomePairs:
    """The pairs of ascending places in a flattened (count, d_sae) tensor, whose vectors are those from `first` on."""
    vectors = places // d_sae
    return SomePairs(places - vectors * d_sae, vectors, _starts(vectors, count), d_sae, first)


def from_rows(features: Tensor, d_sae: int) -> SomePairs:
    """The pairs of each vector with as many features: `features` is (batch, k) int64."""
    batch, k = features.shape
    starts = torch.arange(0, batch * k, k, device=features.device) if k else torch.zeros_like(features[:, 0])
    vectors = torch.arange(batch, device=features.device).repeat_interleave(k)
    return SomePairs(features.flatten(), vectors, starts, d_sae)


def at_least(dense: Tensor, k: int) -> tuple[SomePairs, Tensor]:
    """Pairs of (batch, d_sae) values, the `k` largest of each vector among them, and what no other exceeds: (batch, 1).

    That is the k-th largest of the maxima of a row's parts, which rules out nearly all others. Exactly `k` are found
    where that one is no number, which counts as largest, or on a device that would have to be waited for.
    """
    d_sae = dense.shape[1]
    if dense.device.type == "cpu" and not d_sae % PART and k * PART <= d_sae:
        values = dense.view(torch.int16) if dense.dtype == torch.bfloat16 else dense
        maxima = values.unflatten(1, (PART, -1)).amax(1).numpy()  # a part is every n-th feature: whole lines are read
        least = np.partition(maxima, maxima.shape[1] - k, axis=1)[:, -k, None]
        if values is dense and not np.isnan(least).any():
            return pairs_at(torch.from_numpy(~(values.numpy() < least))), torch.from_numpy(least)
        if values is not dense and least.min() >= 0:  # bits have the order of the numbers from zero up alone
            return pairs_at(torch.from_numpy(values.numpy() >= least)), torch.from_numpy(least).view(dense.dtype)
    kept = dense.topk(k, dim=1, sorted=False)
    return from_rows(kept.indices, d_sae), kept.values.amin(1, keepdim=True)


def largest_among(pairs: SomePairs, values: Tensor, k: int, each: int) -> tuple[SomePairs, Tensor]:
    """Of each vector's pairs, `each` of them or more, those with the `k` largest values, and these: (pairs,)."""
    batch = len(pairs.starts)
    if len(values) == batch * k:
        return pairs, values
    if len(values) == batch * each:
        rows = values.view(batch, each)
    else:
        place = torch.arange(len(values)) - pairs.starts[pairs.vectors]
        rows = values.new_full((batch, int(place.max()) + 1), -math.inf).index_put_((pairs.vectors, place), values)
    kept = rows.topk(k, dim=1, sorted=False)
    return from_rows(pairs.features[pairs.starts[:, None] + kept.indices], pairs.d_sae), kept.values.flatten()


def sort_by(keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The order that sorts `keys`, int64 under `count`, stably, and where each key begins: (pairs,), (count,) int64.

    On a CPU NumPy sorts 16-bit keys by radix, ten times faster than torch; a card sorts half as many bits in int32.
    """
    if keys.device.type == "cpu":
        narrow = keys.numpy().astype(np.uint16 if count <= 1 << 16 else np.uint32)
        order, counts = np.argsort(narrow, kind="stable"), np.bincount(narrow, minlength=count)
        return torch.from_numpy(order), torch.from_numpy(counts.cumsum() - counts)
    in_order = keys.to(torch.int32).sort(stable=True)
    return in_order.indices, _starts(in_order.values, count)


def _starts(owners: Tensor, count: int) -> Tensor:
    """Where each of `count` owners' entries begin among those of sorted `owners`."""
    return torch.searchsorted(owners, torch.arange(count, dtype=owners.dtype, device=owners.device))
