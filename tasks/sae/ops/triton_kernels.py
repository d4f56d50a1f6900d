"""The sparse passes as kernels for a GPU, in Triton: imported only by `tasks.sae.ops.backend`, which decides on them.

No program walks more than `SEGMENT` rows. A bag of more pairs is split into segments of that length; each segment's sum
goes to a row of its own, and these rows are summed in their order, again `SEGMENT` at a time. Each output is written by
one program in an order that follows from the pairs alone, so the same pairs give the same bytes.

How many segments there are is never asked of the device. Every bag has a program for its first segment. Every
`SEGMENT`-th pair has one for a further segment of the bag that it is in: a bag of n pairs contains at least as many of
those as it has further segments. Sums are float32; rows may be bfloat16, ids int32 or int64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from tasks.sae.ops.block_sizes import SEGMENT, blocks_for

if TYPE_CHECKING:
    from torch import Tensor

#: What happens to a finished sum: it is stored, added to what is there, or made a residual.
_STORE, _ADD, _RESIDUAL = 0, 1, 2


@triton.jit
def _finish(total, out, bias, target, squared, scale, bag, d, columns, mode: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store one block of a bag's sum in the way of `mode`."""
    inside = columns < d
    place = bag * d + columns
    if mode == 1:
        total += tl.load(out + place, mask=inside, other=0.0)
    if mode == 2:
        total += tl.load(bias + columns, mask=inside, other=0.0) - tl.load(target + place, mask=inside, other=0.0)
        tl.store(squared + bag * tl.num_programs(1) + tl.program_id(1), tl.sum(total * total, 0))
        total *= scale
    tl.store(out + place, total, mask=inside)


@triton.jit(do_not_specialize=["bags", "pairs"])
def _sum_segments(  # type: ignore[no-untyped-def]
    ids, starts, owners, weights, matrix, partial, out, bias, target, squared, scale, bags, pairs, d,
    block: tl.constexpr, rows: tl.constexpr, segment: tl.constexpr, mode: tl.constexpr,
):  # fmt: skip
    """One segment's sum of weighted rows, for one block of columns; the bag's, where it has no other segment."""
    further = tl.program_id(0) - bags
    bag = tl.load(owners + further, mask=further >= 0, other=tl.program_id(0)).to(tl.int64)
    begin = tl.load(starts + bag).to(tl.int64)
    end = tl.load(starts + bag + 1, mask=bag + 1 < bags, other=pairs).to(tl.int64)
    number = tl.where(further >= 0, further - (begin + segment - 1) // segment + 1, 0)
    first = begin + number * segment
    if (number > 0) & (first >= end):
        return
    columns = tl.program_id(1) * block + tl.arange(0, block)
    last = tl.minimum(first + segment, end)
    total = tl.zeros((block,), tl.float32)
    for some in range(first, last, rows):
        places = some + tl.arange(0, rows)
        row = tl.load(ids + places, mask=places < last, other=0).to(tl.int64)
        weight = tl.load(weights + places, mask=places < last, other=0.0)
        there = (places < last)[:, None] & (columns < d)[None, :]
        numbers = tl.load(matrix + row[:, None] * d + columns[None, :], mask=there, other=0.0).to(tl.float32)
        total += tl.sum(weight[:, None] * numbers, 0)
    if end - begin <= segment:
        _finish(total, out, bias, target, squared, scale, bag, d, columns, mode)
    else:
        tl.store(partial + (begin // (segment // 2) + number) * d + columns, total, mask=columns < d)


@triton.jit(do_not_specialize=["bags", "pairs", "stride"])
def _sum_partials(  # type: ignore[no-untyped-def]
    starts, owners, partial, out, bias, target, squared, scale, bags, pairs, d, stride,
    block: tl.constexpr, rows: tl.constexpr, segment: tl.constexpr, mode: tl.constexpr,
):  # fmt: skip
    """The sum of up to `segment` of a long bag's partial sums, each `stride` rows from the next, into the first."""
    bag = tl.load(owners + tl.program_id(0)).to(tl.int64)
    begin = tl.load(starts + bag).to(tl.int64)
    end = tl.load(starts + bag + 1, mask=bag + 1 < bags, other=pairs).to(tl.int64)
    count = (end - begin + segment - 1) // segment
    first = (tl.program_id(0) - (begin + segment - 1) // segment) * segment * stride
    if (count <= stride) | (first >= count):  # finished before, or nothing of this bag is left
        return
    columns = tl.program_id(1) * block + tl.arange(0, block)
    mine = partial + begin // (segment // 2) * d
    last = tl.minimum(first + segment * stride, count)
    total = tl.zeros((block,), tl.float32)
    for some in range(first, last, rows * stride):
        places = some + tl.arange(0, rows) * stride
        there = (places < last)[:, None] & (columns < d)[None, :]
        total += tl.sum(tl.load(mine + places[:, None] * d + columns[None, :], mask=there, other=0.0), 0)
    if count <= segment * stride:
        _finish(total, out, bias, target, squared, scale, bag, d, columns, mode)
    else:
        tl.store(mine + first * d + columns, total, mask=columns < d)


@triton.jit(do_not_specialize=["pairs"])
def _dot_pairs(  # type: ignore[no-untyped-def]
    owners, ids, vectors, matrix, bias, out, pairs, d, block: tl.constexpr, rows: tl.constexpr, biased: tl.constexpr
):
    """The inner products of some pairs."""
    places = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    owner = tl.load(owners + places, mask=places < pairs, other=0).to(tl.int64)
    row = tl.load(ids + places, mask=places < pairs, other=0).to(tl.int64)
    total = tl.zeros((rows, block), tl.float32)
    for begin in range(0, d, block):
        columns = begin + tl.arange(0, block)
        there = (places < pairs)[:, None] & (columns < d)[None, :]
        left = tl.load(vectors + owner[:, None] * d + columns[None, :], mask=there, other=0.0).to(tl.float32)
        right = tl.load(matrix + row[:, None] * d + columns[None, :], mask=there, other=0.0).to(tl.float32)
        total += left * right
    products = tl.sum(total, 1)
    if biased:
        products += tl.load(bias + row, mask=places < pairs, other=0.0)
    tl.store(out + places, products, mask=places < pairs)


class TritonPasses:
    """See `tasks.sae.ops.backend.Passes`."""

    writes_in_place = True

    def bags(
        self,
        ids: Tensor,
        starts: Tensor,
        weights: Tensor,
        matrix: Tensor,
        onto: Tensor | None,
        out: Tensor | None = None,
    ) -> Tensor:
        """See `Passes`."""
        if onto is not None:
            out = onto
        elif out is None:
            out = weights.new_empty(len(starts), matrix.shape[1])
        _sum(ids, starts, weights, matrix, out, (out, out, out, 0.0), _STORE if onto is None else _ADD)
        return out

    def residual(
        self, ids: Tensor, starts: Tensor, weights: Tensor, matrix: Tensor, bias: Tensor, target: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See `Passes`."""
        out = torch.empty_like(target, memory_format=torch.contiguous_format)
        squared = target.new_empty(len(out), triton.cdiv(out.shape[1], blocks_for(out.shape[1]).columns))
        finish = (bias.contiguous(), target.contiguous(), squared, scale)
        _sum(ids, starts, weights, matrix, out, finish, _RESIDUAL)
        return out, squared.sum()

    def dots(
        self,
        owners: Tensor,
        starts: Tensor,
        ids: Tensor,
        vectors: Tensor,
        matrix: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        """See `Passes`."""
        d, out = matrix.shape[1], torch.empty(len(ids), dtype=torch.float32, device=matrix.device)
        if len(ids):
            tile = blocks_for(d)
            parts = [part.contiguous() for part in (owners, ids, vectors, matrix, out if bias is None else bias)]
            _dot_pairs[(triton.cdiv(len(ids), tile.rows),)](
                *parts, out, len(ids), d,
                block=tile.columns, rows=tile.rows, biased=bias is not None, num_warps=tile.warps,
            )  # fmt: skip
        return out


def _sum(
    ids: Tensor, starts: Tensor, weights: Tensor, matrix: Tensor, out: Tensor, finish: tuple[Any, ...], mode: int
) -> None:
    """Sum the bags into `out`: their segments, then the sums of segments until none is left."""
    bags, pairs, d, tile = len(starts), len(ids), matrix.shape[1], blocks_for(matrix.shape[1])
    if not out.numel():
        return
    ids, starts, weights, matrix = (part.contiguous() for part in (ids, starts, weights, matrix))
    blocks, constants = triton.cdiv(d, tile.columns), {"block": tile.columns, "rows": tile.rows, "segment": SEGMENT}
    some = torch.arange(0, pairs, SEGMENT, dtype=starts.dtype, device=starts.device)
    owners = torch.searchsorted(starts, some, right=True, out_int32=True) - 1  # the bag of every SEGMENT-th pair
    partial = out.new_empty(pairs // (SEGMENT // 2), d) if pairs > SEGMENT else out
    rest: dict[str, Any] = {**constants, "mode": mode, "num_warps": tile.warps}
    _sum_segments[(bags + len(owners), blocks)](
        ids, starts, owners, weights, matrix, partial, out, *finish, bags, pairs, d, **rest
    )
    stride = 1
    while len(owners) > stride:
        _sum_partials[(len(owners), blocks)](starts, owners, partial, out, *finish, bags, pairs, d, stride, **rest)
        stride *= SEGMENT
