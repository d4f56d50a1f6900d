"""Chooses how torch computes matrix products and attention on a CPU.

Torch asks MKL, which is not at its best on AMD's processors: oneDNN, which torch has too, takes a tenth less time there
(measured on Zen 4). Torch asks that one when products may be rounded to bfloat16; but oneDNN rounds only where a
processor has units for it (AMX), and is as exact as MKL everywhere else. So it is allowed to on AMD, and forbidden
again if a product comes out rounded.

For attention torch has a fused kernel, which never makes the (context, context) weights. On a CPU it works in blocks of
32 positions where there are few, and plain products take half the time then (measured from 32 to 512 positions).
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

#: What torch calls products that may be rounded to bfloat16, and those that may not.
_ONEDNN, _MKL = "medium", "highest"
#: A product of float32 numbers is as exact as this; one of numbers rounded to bfloat16 is a thousand times less.
_EXACT = 1e-5
#: Positions from which on the fused kernel works in larger blocks.
_MANY = 192


@contextmanager
def chosen(device: str = "cpu") -> Iterator[str]:
    """Inside, products on a CPU are done by the faster library; what that is and why, in words."""
    before = torch.get_float32_matmul_precision()
    try:
        yield choose(device)
    finally:
        torch.set_float32_matmul_precision(before)


def choose(device: str = "cpu", vendor: str | None = None) -> str:
    """Have products on a CPU done by the faster library in this process, and say which that is and why.

    It follows from the processor alone, so a training that is resumed on the same machine gets the same bits.
    """
    if device != "cpu":
        return "the device's own"
    precision, why = _faster(vendor or processor("vendor_id"))
    torch.set_float32_matmul_precision(precision)
    return why


@cache
def _faster(vendor: str) -> tuple[str, str]:
    """What torch calls the faster library on a processor of that vendor, and why in words; tried once a process."""
    if vendor != "AuthenticAMD":
        return _MKL, "MKL: the processor is not AMD's"
    torch.set_float32_matmul_precision(_ONEDNN)
    if is_exact():
        return _ONEDNN, "oneDNN: the processor is AMD's"
    return _MKL, "MKL: oneDNN would round to bfloat16 on this processor"


def attending(device: torch.device | str, positions: int) -> AbstractContextManager[None]:
    """Inside, what is on the device attends over rows of `positions` positions in the faster way."""
    is_faster_plain = torch.device(device).type == "cpu" and positions < _MANY
    return sdpa_kernel(SDPBackend.MATH) if is_faster_plain else nullcontext()


def is_exact() -> bool:
    """Whether float32 matmul is still computed in full float32."""
    drawn = torch.Generator().manual_seed(0)
    a, b = torch.rand(256, 256, generator=drawn), torch.rand(256, 256, generator=drawn)
    wanted = a.double() @ b.double()
    return float((a @ b - wanted).abs().max() / wanted.abs().max()) < _EXACT


@cache
def processor(field: str) -> str:
    """What the kernel says of the processor in that field of /proc/cpuinfo; its architecture where it says nothing."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(field))
    return next(found, platform.machine())
