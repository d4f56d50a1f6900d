"""Whether products of bfloat16 numbers are worth their rounding on a device: measured, once a process and shape.

Only some processors have units for them: with AMX a product takes a sixth of the time that it takes in float32, with
AVX512-BF16 half, with neither several times as long. No list of processors says that as reliably as trying does. A
small product gains nothing that could be measured, and is not tried: so what is decided does not change from one start
to the next.
"""

from __future__ import annotations

import time
from functools import cache
from typing import NamedTuple

import torch

#: Products with fewer multiplications than this stay in float32: about ten milliseconds of one core.
FEWEST = 1 << 30
#: How many times as fast as in float32 a product must be: what a card or processor with units for it has by far, and
#: one without by far not.
FAST = 1.5
#: Rows of the product that is timed, at most, and how often it is.
_ROWS, _TIMES = 256, 3
#: Numbers of 8 significant bits are this near to what they stand for, and sums of their products are nearer.
_EXACT = 2**-8


class Speed(NamedTuple):
    """How many times as fast a product is in bfloat16 as in float32; None where that was not, or cannot be, measured.

    `reason` is a clause that says why it is worth it, or not.
    """

    ratio: float | None
    reason: str

    @property
    def is_worth_it(self) -> bool:
        """Whether bfloat16 is fast enough."""
        return self.ratio is not None and self.ratio >= FAST


def is_small(rows: int, inner: int, columns: int) -> bool:
    """Whether a product of that shape stays in float32 whatever the device."""
    return rows * inner * columns < FEWEST


def measured(rows: int, inner: int, columns: int, device: str = "cpu") -> Speed:
    """How a product (rows, inner) x (inner, columns) does in bfloat16 on that device, and why it is worth it or not."""
    if is_small(rows, inner, columns):
        return Speed(None, f"a product of {rows} x {inner} x {columns} is too small to gain from bfloat16")
    return _measured(min(rows, _ROWS), inner, columns, device)


@cache
def _measured(rows: int, inner: int, columns: int, device: str) -> Speed:
    drawn = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, inner, generator=drawn).to(device) for size in (rows, columns))
    left16, right16 = left.bfloat16(), right.bfloat16()
    exact = left16.float() @ right16.float().T
    if not bool(((left16 @ right16.T).float() - exact).abs().max() <= _EXACT * exact.abs().max()):
        return Speed(None, "products in bfloat16 are less exact here than bfloat16 can be")
    times = [(_seconds(left, right, device), _seconds(left16, right16, device)) for _ in range(_TIMES)]
    in32, in16 = (min(column) for column in zip(*times, strict=True))
    ratio = in32 / in16
    than = f"{ratio:.1f} times as fast" if ratio >= 1 else f"{1 / ratio:.1f} times as slow"
    return Speed(ratio, f"a product of {rows} x {inner} x {columns} is {than} in bfloat16 as in float32 here")


def _seconds(left: torch.Tensor, right: torch.Tensor, device: str) -> float:
    """How long the product of (rows, inner) with the transpose of (columns, inner) takes."""
    began = time.perf_counter()
    made = left @ right.T
    if device != "cpu":
        torch.cuda.synchronize()
    del made
    return time.perf_counter() - began
