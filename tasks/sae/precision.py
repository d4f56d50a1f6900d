"""What `--precision` means for one SAE: decided once, where its training or extraction begins, and kept from then on.

`bf16` chooses active features by products of bfloat16 numbers (`tasks.sae.ops.preactivations`), `tf32` has a card round
the factors of float32 products to 11 significant bits, `float32` does neither. `auto` is `bf16` where the device is
faster with it, else `float32`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from tasks.errors import UserError
from tasks.lazy_import import torch
from tasks.sae.coder import BF16, FLOAT32, PRECISIONS, TF32
from tasks.settings import current

AUTO = "auto"
#: The share of features up to which finding and computing k of them again costs less than a product in bfloat16 saves.
MOST_K = 1 / 64
CHOICES = (AUTO, *PRECISIONS)
CPU = "cpu"


@dataclass(frozen=True)
class Product:
    """The encoder's product, (rows, d_in) x (d_in, d_sae), and how many features of a row are kept, if that is set."""

    rows: int
    d_in: int
    d_sae: int
    k: int | None


class Decision(NamedTuple):
    """The precision that is used, one of `PRECISIONS`, and a clause that says why."""

    precision: str
    reason: str


def decide(wanted: str, product: Product, device: str) -> Decision:
    """What `--precision` comes to on this device. Raises UserError for one that gains nothing or is not there."""
    if wanted == FLOAT32:
        return Decision(FLOAT32, "--precision float32")
    is_worth_it, reason = _possible(TF32 if wanted == TF32 else BF16, product, device)
    if is_worth_it:
        return Decision(BF16 if wanted == AUTO else wanted, reason)
    if wanted == AUTO:
        return Decision(FLOAT32, reason)
    raise UserError(
        f"--precision {wanted} gains nothing here: {reason}.", "Leave --precision out: auto takes the fastest"
    )


def kept(begun: str, product: Product, device: str) -> Decision:
    """The precision in which a training that has `begun` in that one resumes: float32 where it gains nothing here."""
    if begun == FLOAT32:
        return Decision(FLOAT32, "the training began in float32")
    is_worth_it, reason = _possible(begun, product, device)
    return Decision(begun if is_worth_it else FLOAT32, reason)


def check_at_submit(wanted: str, product: Product) -> None:
    """Refuse what `decide` would refuse, as far as this machine shows; nothing is measured for `auto`.

    It cannot where jobs may run on other machines or on a card. Raises UserError.
    """
    if (wanted == BF16 and _too_small(product) is not None) or (wanted in (BF16, TF32) and _is_on_this_cpu()):
        decide(wanted, product, CPU)


@contextmanager
def rounding(precision: str) -> Iterator[None]:
    """Inside, a card computes float32 products in TF32 where that is the precision."""
    if precision != TF32:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _possible(precision: str, product: Product, device: str) -> tuple[bool, str]:
    """Whether bf16 or tf32 is worth it on that device, and why or why not."""
    from tasks.models import bfloat16

    if device != CPU and torch.cuda.get_device_capability(device) < bfloat16.CAPABLE:
        return False, "this card is older than compute capability 8.0"
    if precision == TF32:
        return device != CPU, "cards compute in TF32" if device != CPU else "TF32 is a format of NVIDIA's cards"
    if (reason := _too_small(product)) is not None:
        return False, reason
    if device != CPU and product.k is None:
        return False, "on a card the features of SAEs without --k are all computed"
    speed = bfloat16.measured(product.rows, product.d_in, product.d_sae, device)
    return speed.is_worth_it, speed.reason


def _too_small(product: Product) -> str | None:
    """Why bfloat16 can gain nothing anywhere; None where it may."""
    from tasks.models import bfloat16

    if product.k is not None and product.k > MOST_K * product.d_sae:
        return f"{product.k} of {product.d_sae} features are too many to be computed again in float32"
    if bfloat16.is_small(product.rows, product.d_in, product.d_sae):
        return bfloat16.describe_small(product.rows, product.d_in, product.d_sae)
    return None


def _is_on_this_cpu() -> bool:
    """Whether a job that is submitted here can run on nothing but this machine's processor."""
    return not current("broker_url") and not torch.cuda.is_available()
