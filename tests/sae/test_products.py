"""Products are done by the library that is faster on the processor, and never by one that rounds more than float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tasks import products


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def rounding(self: torch.Tensor, other: torch.Tensor, plain: Any = torch.Tensor.__matmul__) -> torch.Tensor:
    """What a processor with units for bfloat16 makes of a product that may be rounded."""
    if self.dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium":
        return plain(self.bfloat16().float(), other.bfloat16().float())
    return plain(self, other)


def test_whatever_the_processor_products_are_exact() -> None:
    for vendor in ("AuthenticAMD", "GenuineIntel", "aarch64", None):
        assert products.choose(vendor=vendor)
        assert products.is_exact()


def test_only_amd_gets_the_other_library() -> None:
    assert products.choose(vendor="GenuineIntel") == "MKL: the processor is not AMD's"
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_processor_that_would_round_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)
    torch.set_float32_matmul_precision("medium")
    assert not products.is_exact()
    assert products.choose(vendor="AuthenticAMD") == "MKL: oneDNN would round to bfloat16 on this processor"
    assert torch.get_float32_matmul_precision() == "highest"
    assert products.is_exact()


def test_other_devices_keep_what_was_chosen_for_them() -> None:
    torch.set_float32_matmul_precision("high")
    assert products.choose("cuda") == "the device's own"
    assert torch.get_float32_matmul_precision() == "high"


def test_a_choice_for_a_while_is_taken_back() -> None:
    torch.set_float32_matmul_precision("high")
    with products.chosen() as told:
        assert told.startswith(("MKL", "oneDNN"))
    assert torch.get_float32_matmul_precision() == "high"
