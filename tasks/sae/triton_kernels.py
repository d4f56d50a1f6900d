"""The sparse passes as kernels for a GPU, in Triton: imported only by `tasks.sae.kernels`, which decides on them.

Each output is written by one program, in the order of the pairs, so the same pairs give the same bytes. All numbers are
float32, all ids int64; no more is held than what goes in and comes out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

#: Columns of a row that a program works on at once, at most.
_COLUMNS = 1024


@triton.jit(do_not_specialize=["bags", "pairs"])
def _sum_bags(ids, starts, weights, matrix, out, bags, pairs, d, block: tl.constexpr, add: tl.constexpr):  # type: ignore[no-untyped-def]
    """One bag's sum of weighted rows, for one block of columns."""
    bag = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < d
    begin = tl.load(starts + bag)
    end = tl.load(starts + bag + 1, mask=bag + 1 < bags, other=pairs)
    total = tl.zeros((block,), tl.float32)
    for place in range(begin, end):
        row = tl.load(ids + place)
        total += tl.load(weights + place) * tl.load(matrix + row * d + columns, mask=inside, other=0.0)
    target = out + bag * d + columns
    if add:
        total += tl.load(target, mask=inside, other=0.0)
    tl.store(target, total, mask=inside)


@triton.jit
def _dot_pairs(owners, ids, vectors, matrix, out, d, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """One pair's inner product."""
    pair = tl.program_id(0).to(tl.int64)
    left = vectors + tl.load(owners + pair) * d
    right = matrix + tl.load(ids + pair) * d
    total = tl.zeros((block,), tl.float32)
    for begin in range(0, d, block):
        columns = begin + tl.arange(0, block)
        inside = columns < d
        total += tl.load(left + columns, mask=inside, other=0.0) * tl.load(right + columns, mask=inside, other=0.0)
    tl.store(out + pair, tl.sum(total, 0))


class TritonPasses:
    """See `tasks.sae.kernels.Passes`."""

    def bags(self, ids: Tensor, starts: Tensor, weights: Tensor, matrix: Tensor, onto: Tensor | None) -> Tensor:
        """See `Passes`."""
        bags, d = len(starts), matrix.shape[1]
        out = matrix.new_empty(bags, d) if onto is None else onto
        if out.numel():
            block = min(_COLUMNS, triton.next_power_of_2(d))
            parts = [part.contiguous() for part in (ids, starts, weights, matrix)]
            _sum_bags[bags, triton.cdiv(d, block)](*parts, out, bags, len(ids), d, block=block, add=onto is not None)
        return out

    def dots(self, owners: Tensor, starts: Tensor, ids: Tensor, vectors: Tensor, matrix: Tensor) -> Tensor:
        """See `Passes`."""
        d, out = matrix.shape[1], torch.empty(len(ids), dtype=matrix.dtype, device=matrix.device)
        if len(ids):
            parts = [part.contiguous() for part in (owners, ids, vectors, matrix)]
            _dot_pairs[(len(ids),)](*parts, out, d, block=min(_COLUMNS, triton.next_power_of_2(d)))
        return out
