"""No training step makes the host wait for a card, but for the few reasons that are listed here."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.sae.coder import BF16, FLOAT32, Coder
from tasks.sae.ops.topk_indices import places_of_largest
from tasks.sae.training import trainer as trainers
from tasks.sae.training.device_to_host import (
    BlockingTransfer,
    CopyChoice,
    PinnedTransfer,
    choice,
    describe_fallback,
    try_transfers,
)
from tasks.sae.training.schedule import TrainConfig
from tasks.sae.training.trainer import DEAD_EVERY, Trainer
from tests.fixtures.bench import Planted
from tests.sae.pretended_card import CARD, PretendedCard, allow_fused_adam
from tests.sae.test_architectures import CHOICES, SHAPES, config

STEPS = 20
#: What makes the host wait in 20 steps, and why it may.
LOOKS_FOR_DEAD = Counter(nonzero=-(-STEPS // DEAD_EVERY))  # whose number decides on shapes: once in DEAD_EVERY steps
READS_THE_POWER = Counter(_local_scalar_dense=1)  # of p-annealing, at the first step after a start or a resume
ALLOWED = {name: LOOKS_FOR_DEAD + (READS_THE_POWER if name == "p_anneal" else Counter()) for name in CHOICES}


class Sent:
    """A transfer that arrives when it has been asked for a third time, as from a card that is behind."""

    def __init__(self, rows: torch.Tensor) -> None:
        self._rows, self._requested = rows.to("cpu", non_blocking=True), 0

    def has_arrived(self) -> bool:
        self._requested += 1
        return self._requested > 2

    def values(self) -> list[list[float]]:
        return self._rows.tolist()


def trained(
    choice: str, folder: Path, device: str, accumulate: int = 1, precision: str = FLOAT32, **shape: Any
) -> Trainer:
    """A trainer after its beginning, with eight dead features; of its 2000 steps 20 will be made."""
    planted, width = Planted(32, 16, 3, 256), shape.get("d_out")

    def source(step: int) -> Any:
        x = planted(step)
        pair = (x, x[:, :width].clone())
        on_device = [vectors.to(device, non_blocking=True) for vectors in pair]
        return tuple(on_device) if width else on_device[0]

    made = TrainConfig(config(choice, **shape), steps=2000, batch=256, lr=3e-3, dead_after=1024, accumulate=accumulate)
    trainer = Trainer(made, source, device)
    trainer.precision = precision
    trainer.begin(folder)
    trainer.quiet[:8] = 4096
    return trainer


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> PretendedCard:
    monkeypatch.setattr(trainers, "gemm_peak", lambda *shape: 1.0)
    monkeypatch.setattr(trainers, "FLUSH_EVERY", 4)
    allow_fused_adam(monkeypatch)
    return PretendedCard()


def advance(card: PretendedCard, choice: str, folder: Path, **shape: Any) -> list[dict[str, float]]:
    """Make 20 steps there, with waits counted from the first; the lines of the metrics."""
    with card:
        trainer = trained(choice, folder, CARD, **shape)
        trainer.send = Sent
        card.waits.clear()
        for _ in range(STEPS):
            trainer.advance(folder)
        waits = card.waits.copy()
        trainer._write_metrics(folder)
    card.waits = waits
    return lines_of(folder)


def lines_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("shape", SHAPES)
def test_twenty_steps_wait_for_a_card_for_listed_reasons_only(
    tmp_path: Path, card: PretendedCard, name: str, shape: str
):
    there = advance(card, name, tmp_path / "card", **SHAPES[shape])
    assert card.waits == ALLOWED[name]
    on_the_cpu = trained(name, tmp_path / "cpu", "cpu", **SHAPES[shape])
    for _ in range(STEPS):
        on_the_cpu.advance(tmp_path / "cpu")
    on_the_cpu._write_metrics(tmp_path / "cpu")
    expected = lines_of(tmp_path / "cpu")
    assert [line["step"] for line in there] == list(range(1, STEPS + 1))
    for found, line in zip(there, expected, strict=True):
        assert found == pytest.approx(line, rel=2e-3, abs=2e-3), "the pretended card computes what the CPU does"


@pytest.mark.parametrize("name", ["topk", "standard", "matryoshka"])
def test_a_crosscoder_and_parts_of_a_batch_wait_for_nothing_more(tmp_path: Path, card: PretendedCard, name: str):
    there = advance(card, name, tmp_path, blocks=2, accumulate=2)
    assert card.waits == ALLOWED[name]
    assert len(there) == STEPS


@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka"])
def test_what_is_chosen_in_bfloat16_waits_for_nothing_more(tmp_path: Path, card: PretendedCard, name: str):
    there = advance(card, name, tmp_path / "card", precision=BF16)
    assert card.waits == ALLOWED[name]
    on_the_cpu = trained(name, tmp_path / "cpu", "cpu", precision=BF16)
    for _ in range(STEPS):
        on_the_cpu.advance(tmp_path / "cpu")
    on_the_cpu._write_metrics(tmp_path / "cpu")
    for found, line in zip(there, lines_of(tmp_path / "cpu"), strict=True):
        assert found == pytest.approx(line, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka", "jumprelu tanh"])
def test_what_revives_dead_features_is_among_what_is_counted(tmp_path: Path, card: PretendedCard, name: str):
    assert advance(card, name, tmp_path)[0]["aux_loss"] > 0


PLANTED: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "float": (lambda x: float(x.sum()), "_local_scalar_dense"),
    "if": (lambda x: 1 if (x > 0).any() else 0, "_local_scalar_dense"),
    "tolist": (lambda x: x[0].tolist(), "_to_copy"),
    "cpu": (lambda x: x.cpu(), "_to_copy"),
    "nonzero": (lambda x: x[0].nonzero(), "nonzero"),
    "where": (lambda x: torch.where(x > 0), "nonzero"),
    "masked_select": (lambda x: x.masked_select(x > 0), "masked_select"),
    "boolean index": (lambda x: x[x > 0], "index"),
    "boolean assignment": (lambda x: x.clone().__setitem__((x > 0), x[x > 0]), "index"),
    "new_tensor": (lambda x: x.new_tensor([1.0, 2.0]), "_to_copy"),
    "to the card": (lambda x: torch.ones(3).to(x.device), "_to_copy"),
    "repeats": (lambda x: torch.repeat_interleave(x[0].clamp(0, 3).long()), "repeat_interleave"),
    "equal": (lambda x: torch.equal(x, x), "equal"),
}


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_wait_is_found(tmp_path: Path, card: PretendedCard, monkeypatch: pytest.MonkeyPatch, plant: str):
    reads, name = PLANTED[plant]
    constrain = Coder.constrain

    def waits(self: Coder) -> None:
        reads(self.W_dec)
        constrain(self)

    monkeypatch.setattr(Coder, "constrain", waits)
    advance(card, "topk", tmp_path)
    assert card.waits[name] - ALLOWED["topk"][name] >= STEPS, card.waits


def test_what_a_card_would_refuse_is_an_error(card: PretendedCard):
    with card:
        there = torch.ones(3, device=CARD)
        with pytest.raises(AssertionError, match="a card refuses it"):
            there + torch.ones(3)


@pytest.mark.parametrize("at_once", [7, 1 << 28])
def test_the_largest_are_found_whatever_fits_at_once(monkeypatch: pytest.MonkeyPatch, at_once: int):
    monkeypatch.setattr("tasks.sae.ops.topk_indices._AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    for size, count in ((1, 1), (7, 7), (50, 1), (50, 20), (50, 50)):
        values = torch.randn(size, generator=generator)
        places = places_of_largest(values, count)
        assert torch.equal(places, values.topk(count).indices.sort().values)
    ties = places_of_largest(torch.tensor([1.0, 2.0, 2.0, 2.0, 3.0, 0.0, 2.0, 2.0, 1.0]), 3)
    assert len(set(ties.tolist())) == 3
    assert 4 in ties
    assert 0 not in ties
    assert torch.tensor([0.0, float("nan"), 1.0])[places_of_largest(torch.tensor([0.0, float("nan"), 1.0]), 1)].isnan()


def test_lines_are_written_in_their_order_when_they_have_arrived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trainers, "FLUSH_EVERY", 1)
    trainer, waiting = trained("topk", tmp_path, "cpu"), deque[Any]()

    class Slow(BlockingTransfer):
        is_here = False

        def has_arrived(self) -> bool:
            return self.is_here

    def send(rows: torch.Tensor) -> Slow:
        waiting.append(Slow(rows))
        return waiting[-1]

    trainer.send = send
    for _ in range(3):
        trainer.advance(tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()
    waiting[1].is_here = True
    trainer.advance(tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists(), "the first line is still on its way"
    waiting[0].is_here = True
    trainer.advance(tmp_path)
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]
    trainer.save(tmp_path)
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3, 4, 5], "a checkpoint has all lines until its step"


def test_copies_by_pinned_memory_are_tried_before_they_are_trusted():
    assert choice("cpu").send is BlockingTransfer
    if not torch.cuda.is_available():
        found = try_transfers(PinnedTransfer, "cpu")
        assert found.send is BlockingTransfer
        assert found.reason.startswith("metrics wait for the device (")

    class Wrong(BlockingTransfer):
        def values(self) -> list[list[float]]:
            return [[0.0]]

    assert try_transfers(Wrong, "cpu").reason.endswith("pinned memory received other numbers")
    assert try_transfers(BlockingTransfer, "cpu").reason.startswith("metrics are copied to pinned memory")


def test_a_job_on_a_card_whose_metrics_have_to_be_waited_for_says_so(monkeypatch: pytest.MonkeyPatch):
    reason = "metrics wait for the device (RuntimeError: no pinned memory)"
    assert describe_fallback("cpu") is None
    monkeypatch.setattr("tasks.sae.training.device_to_host.choice", lambda device: CopyChoice(BlockingTransfer, reason))
    assert describe_fallback("cuda") == reason
    monkeypatch.setattr("tasks.sae.training.device_to_host.choice", lambda device: CopyChoice(PinnedTransfer, "pinned"))
    assert describe_fallback("cuda") is None
