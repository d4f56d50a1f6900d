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
def _fresh_cache() -> Iterator[None]:
    TRIED.cache_clear()
    yield
    TRIED.cache_clear()


@pytest.fixture(autouse=True)
def _known_by_the_clock_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "has_units", lambda: None)


def taking(monkeypatch: pytest.MonkeyPatch, in32: float, in16: float) -> None:
    """A processor on which a product takes `in32` or `in16` seconds."""
    monkeypatch.setattr(bfloat16, "_seconds", lambda left, right: in16 if left.dtype.itemsize == 2 else in32)


@pytest.mark.parametrize(("in16", "is_worth_it"), [(0.1, True), (0.6, True), (0.7, False), (4.0, False)])
def test_where_nothing_is_known_a_product_must_be_half_as_fast_again(
    monkeypatch: pytest.MonkeyPatch, in16: float, is_worth_it: bool
) -> None:
    taking(monkeypatch, 1.0, in16)
    speed = bfloat16.measured(*LARGE)
    assert speed.is_worth_it == is_worth_it
    assert speed.ratio == pytest.approx(1 / in16)
    assert f"{max(in16, 1 / in16):.1f} times as {'fast' if in16 < 1 else 'slow'} in bfloat16" in speed.reason


@pytest.mark.parametrize(
    ("units", "reason"),
    [(True, "this processor has units for bfloat16"), (False, "this processor has no units for bfloat16")],
)
def test_what_the_kernel_says_decides_and_no_clock_is_read(
    monkeypatch: pytest.MonkeyPatch, units: bool, reason: str
) -> None:
    monkeypatch.setattr(bfloat16, "has_units", lambda: units)
    monkeypatch.setattr(bfloat16, "_measured", lambda *shape: pytest.fail("was tried"))
    speed = bfloat16.measured(*LARGE)
    assert (speed.is_worth_it, speed.reason) == (units, reason)


def test_units_that_torch_makes_no_use_of_are_worth_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "has_units", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    speed = bfloat16.measured(*LARGE)
    assert not speed.is_worth_it
    assert "no oneDNN" in speed.reason


@pytest.mark.parametrize(
    ("capability", "is_worth_it"), [((7, 5), False), ((8, 0), True), ((9, 0), True), ((12, 0), True)]
)
def test_a_cards_compute_capability_decides(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], is_worth_it: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(bfloat16, "_measured", lambda *shape: pytest.fail("was tried"))
    speed = bfloat16.measured(*LARGE, "cuda")
    assert speed.is_worth_it == is_worth_it
    assert f"compute capability {capability[0]}.{capability[1]}" in speed.reason


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
    assert bfloat16.measured(8192, *LARGE[1:]) is first, "more rows are not timed: a few suffice"
    assert bfloat16.measured(4096, 1024, 2048) is not first


def test_what_this_processor_does_is_measured() -> None:
    ratio = bfloat16.measured(*LARGE).ratio
    assert ratio is not None
    assert ratio > 0
