"""How a kernel divides rows of d numbers among its programs: a fixed table, so no step is ever spent on tuning.

The table follows from the hardware's rules and was not measured on a card: each thread of a warp has eight numbers of a
row, two loads of 16 bytes in float32, and eight rows are on their way at once, so that one row's latency hides
another's.
"""

from __future__ import annotations

from typing import NamedTuple

#: Rows that a program of the sums walks at most. A bag with more pairs is several programs' work.
SEGMENT = 64
#: Rows that are loaded at once.
_ROWS = 8
#: Columns of a program, largest first, and the largest fraction of them that may be beyond a row's end.
_COLUMNS, _IDLE = (1024, 512, 256), 1 / 8
_FEWEST, _NUMBERS_A_WARP = 16, 256


class BlockSizes(NamedTuple):
    """The tile of a row-wise kernel: `rows` by `columns` numbers at once, both powers of two, and its warps."""

    columns: int
    rows: int
    warps: int


def blocks_for(d: int) -> BlockSizes:
    """The tile for rows of `d` numbers: the widest whose columns are nearly all used, never wider than needed."""
    if d < _COLUMNS[-1]:
        columns = max(_FEWEST, 1 << (d - 1).bit_length())
    else:
        fits = [block for block in _COLUMNS if -d % block <= _IDLE * (d + -d % block)]
        columns = fits[0] if fits else _COLUMNS[-1]
    return BlockSizes(columns, _ROWS, max(1, columns // _NUMBERS_A_WARP))
