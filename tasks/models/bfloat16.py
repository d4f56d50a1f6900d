"""Whether products of bfloat16 numbers are worth their rounding on a device.

Only some processors have units for them: with AMX a product takes a sixth of the time that it takes in float32, with
AVX512-BF16 half, with neither several times as long. What the kernel lists of a processor, and a card's compute
capability, decide: so two jobs decide alike, whatever else the machine does. Only a processor of which nothing is known
is measured, once a process and shape. A small product gains nothing.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy_import import torch

if TYPE_CHECKING:
    from torch import Tensor

#: Products with fewer multiplications than this stay in float32: about ten milliseconds of one core.
FEWEST = 1 << 30
#: How many times as fast as in float32 a measured product must be.
FAST = 1.5
#: Cards from this compute capability on multiply bfloat16 numbers.
CAPABLE = (8, 0)
#: What /proc/cpuinfo calls the units for bfloat16: of Intel and AMD, of ARM.
_UNITS = {"amx_bf16", "avx512_bf16", "bf16"}
#: Rows of the product that is timed, at most, and how often it is.
_ROWS, _TIMES = 256, 5
#: Numbers of 8 significant bits are this near to what they stand for, and sums of their products are nearer.
_EXACT = 2**-8


class ProductSpeed(NamedTuple):
    """How a product does in bfloat16: how many times as fast as in float32, None where that was not measured.

    `reason` is a clause that says why it is worth it, or not; `is_known` whether it is, where nothing was measured.
    """

    ratio: float | None
    reason: str
    is_known: bool = False

    @property
    def is_worth_it(self) -> bool:
        """Whether bfloat16 is fast enough."""
        return self.is_known if self.ratio is None else self.ratio >= FAST


def is_small(rows: int, inner: int, columns: int) -> bool:
    """Whether a product of that shape stays in float32 whatever the device."""
    return rows * inner * columns < FEWEST


def describe_small(rows: int, inner: int, columns: int) -> str:
    """A clause on a product that is too small."""
    return f"a product of {rows} x {inner} x {columns} is too small to gain from bfloat16"


def measured(rows: int, inner: int, columns: int, device: str = "cpu") -> ProductSpeed:
    """How a product (rows, inner) x (inner, columns) does in bfloat16 on that device, and why it is worth it or not."""
    if is_small(rows, inner, columns):
        return ProductSpeed(None, describe_small(rows, inner, columns))
    if device != "cpu":
        return _of_card(torch.cuda.get_device_capability(device))
    units = has_units()
    if units is None:
        return _measured(min(rows, _ROWS), inner, columns)
    if not units:
        return ProductSpeed(None, "this processor has no units for bfloat16")
    if not torch.backends.mkldnn.is_available():
        return ProductSpeed(None, "this build of torch has no oneDNN, which uses the processor's units for bfloat16")
    return ProductSpeed(None, "this processor has units for bfloat16", is_known=True)


def _of_card(capability: tuple[int, int]) -> ProductSpeed:
    has = f"this card has compute capability {capability[0]}.{capability[1]}"
    if capability >= CAPABLE:
        return ProductSpeed(None, f"{has}, with units for bfloat16", is_known=True)
    return ProductSpeed(None, f"{has}, and units for bfloat16 come with {CAPABLE[0]}.{CAPABLE[1]}")


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
def _measured(rows: int, inner: int, columns: int) -> ProductSpeed:
    drawn = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, inner, generator=drawn) for size in (rows, columns))
    left16, right16 = left.bfloat16(), right.bfloat16()
    exact = left16.float() @ right16.float().T
    if not bool(((left16 @ right16.T).float() - exact).abs().max() <= _EXACT * exact.abs().max()):
        return ProductSpeed(None, "products in bfloat16 are less exact here than bfloat16 can be")
    times = [(_seconds(left, right), _seconds(left16, right16)) for _ in range(_TIMES)]
    in32, in16 = (min(column) for column in zip(*times, strict=True))
    ratio = in32 / in16
    than = f"{ratio:.1f} times as fast" if ratio >= 1 else f"{1 / ratio:.1f} times as slow"
    return ProductSpeed(ratio, f"a product of {rows} x {inner} x {columns} is {than} in bfloat16 as in float32 here")


def _seconds(left: Tensor, right: Tensor) -> float:
    """How long the product of (rows, inner) with the transpose of (columns, inner) takes."""
    began = time.perf_counter()
    left @ right.T
    return time.perf_counter() - began
