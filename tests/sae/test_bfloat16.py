"""bfloat16 is used where products are faster in it and as exact as it can be, and what decides that is measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tasks.models import bfloat16

LARGE = (4096, 1024, 1024)


TRIED = bfloat16._measured
UNITS = bfloat16.has_units


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    TRIED.cache_clear()
    yield
    TRIED.cache_clear()


@pytest.fixture(autouse=True)
def _known_by_the_clock_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "has_units", lambda: None)


def taking(monkeypatch: pytest.MonkeyPatch, in32: float, in16: float) -> None:
    """A processor on which a product takes so many seconds."""
    monkeypatch.setattr(bfloat16, "_seconds", lambda left, right, device: in16 if left.dtype.itemsize == 2 else in32)


@pytest.mark.parametrize(
    ("in16", "units", "is_worth_it"),
    [
        (0.1, None, True),
        (0.6, None, True),
        (0.7, None, False),
        (4.0, None, False),
        (0.5, True, True),
        (0.9, True, True),
        (1.1, True, False),
    ],
)
def test_a_product_must_be_half_as_fast_again_or_have_units_and_not_be_slower(
    monkeypatch: pytest.MonkeyPatch, in16: float, units: bool | None, is_worth_it: bool
) -> None:
    monkeypatch.setattr(bfloat16, "has_units", lambda: units)
    taking(monkeypatch, 1.0, in16)
    speed = bfloat16.measured(*LARGE)
    assert speed.is_worth_it == is_worth_it
    assert speed.ratio == pytest.approx(1 / in16)
    assert f"{max(in16, 1 / in16):.1f} times as {'fast' if in16 < 1 else 'slow'} in bfloat16" in speed.reason


def test_a_processor_without_units_is_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "has_units", lambda: False)
    monkeypatch.setattr(bfloat16, "_measured", lambda *shape: pytest.fail("was tried"))
    assert bfloat16.measured(*LARGE) == (None, "this processor has no units for bfloat16", bfloat16.FAST)


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sse", True),
        ("flags : fpu amx_bf16", True),
        ("Features\t: fp asimd bf16", True),
        ("processor : 0\nflags : fpu avx512f\nvmx flags : bf16", False),
        ("processor : 0", None),
        (None, None),
    ],
)
def test_units_are_those_that_the_kernel_lists(tmp_path: Path, text: str | None, units: bool | None) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert UNITS(tmp_path / "cpuinfo") is units


def test_a_small_product_is_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "_measured", lambda *shape: pytest.fail("was tried"))
    speed = bfloat16.measured(4096, 512, 511)
    assert not speed.is_worth_it
    assert speed.ratio is None
    assert "too small" in speed.reason


def test_a_device_that_rounds_more_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    taking(monkeypatch, 1.0, 0.1)
    plain = torch.Tensor.__matmul__

    def coarse(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        made = plain(self, other)
        return made.to(torch.float8_e5m2).to(made.dtype) if made.dtype == torch.bfloat16 else made

    monkeypatch.setattr(torch.Tensor, "__matmul__", coarse)
    speed = bfloat16.measured(*LARGE)
    assert not speed.is_worth_it
    assert "less exact" in speed.reason


def test_it_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taking(monkeypatch, 1.0, 0.5)
    first = bfloat16.measured(*LARGE)
    taking(monkeypatch, 1.0, 5.0)
    assert bfloat16.measured(*LARGE) is first
    assert bfloat16.measured(8192, *LARGE[1:]) is first, "more rows are not timed: a few tell"
    assert bfloat16.measured(4096, 1024, 2048) is not first


def test_what_this_processor_does_is_measured() -> None:
    ratio = bfloat16.measured(*LARGE).ratio
    assert ratio is not None
    assert ratio > 0
