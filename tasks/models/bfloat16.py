"""Whether products of bfloat16 numbers are worth their rounding on a device.

Only some processors have units for them: with AMX a product takes a sixth of the time that it takes in float32, with
AVX512-BF16 half, with neither several times as long. Where the kernel lists what a processor has, that decides, so what
is decided does not change with what else the machine does; the clock, read once a process and shape, has a veto. Cards,
and processors of which nothing is known, are measured. A small product gains nothing and is not tried.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

#: Products with fewer multiplications than this stay in float32: about ten milliseconds of one core.
FEWEST = 1 << 30
#: How many times as fast as in float32 a product must be where nothing else is known, and where there are units for it.
FAST, NOT_SLOWER = 1.5, 1.0
#: What /proc/cpuinfo calls the units for bfloat16: of Intel and AMD, of ARM.
_UNITS = {"amx_bf16", "avx512_bf16", "bf16"}
#: Rows of the product that is timed, at most, and how often it is.
_ROWS, _TIMES = 256, 5
#: Numbers of 8 significant bits are this near to what they stand for, and sums of their products are nearer.
_EXACT = 2**-8


class Speed(NamedTuple):
    """How many times as fast a product is in bfloat16 as in float32; None where that was not, or cannot be, measured.

    `reason` is a clause that says why it is worth it, or not; `needed` the least ratio at which it is.
    """

    ratio: float | None
    reason: str
    needed: float = FAST

    @property
    def is_worth_it(self) -> bool:
        """Whether bfloat16 is fast enough."""
        return self.ratio is not None and self.ratio >= self.needed


def is_small(rows: int, inner: int, columns: int) -> bool:
    """Whether a product of that shape stays in float32 whatever the device."""
    return rows * inner * columns < FEWEST


def measured(rows: int, inner: int, columns: int, device: str = "cpu") -> Speed:
    """How a product (rows, inner) x (inner, columns) does in bfloat16 on that device, and why it is worth it or not."""
    if is_small(rows, inner, columns):
        return Speed(None, f"a product of {rows} x {inner} x {columns} is too small to gain from bfloat16")
    units = has_units() if device == "cpu" else None
    if units is False:
        return Speed(None, "this processor has no units for bfloat16")
    speed = _measured(min(rows, _ROWS), inner, columns, device)
    return speed._replace(needed=NOT_SLOWER) if units else speed


@cache
def has_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether the processor has units for bfloat16; None where the kernel does not say."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    listed = [line.split() for line in lines if line.startswith(("flags", "Features"))]
    return any(_UNITS & {*words} for words in listed) if listed else None


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


def _seconds(left: Tensor, right: Tensor, device: str) -> float:
    """How long the product of (rows, inner) with the transpose of (columns, inner) takes."""
    began = time.perf_counter()
    made = left @ right.T
    if device != "cpu":
        torch.cuda.synchronize()
    del made
    return time.perf_counter() - began
