"""Features chosen in bfloat16 have the codes and gradients of float32, and where they may not, it is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.sae.architectures import names
from tasks.sae.coder import BF16, FLOAT32, Coder, StepState
from tasks.sae.ops import active_pairs, preactivations
from tasks.sae.ops.preactivations import Exact, Rounded
from tasks.sae.training.schedule import TrainConfig
from tasks.sae.training.trainer import Trainer
from tests.fixtures.bench import Planted, shaped
from tests.sae.test_architectures import (
    CHOICES,
    DEAD,
    MANY_DEAD,
    NOBODY,
    SHAPES,
    check_step,
    random,
    small,
)

PICK = ("topk", "batchtopk", "matryoshka")


def rounding(choice: str, bias: float = 0.0, **shape: Any) -> Coder:
    coder = small(choice, bias, **shape)
    coder.precision = BF16
    return coder


def ours_and_exact(coder: Coder, x: torch.Tensor) -> tuple[Rounded, Exact]:
    return Rounded(coder, x), Exact(coder.preactivations(x))


def codes(coder: Any, pre: Any) -> torch.Tensor:
    chosen, values = coder.choose(pre)
    return torch.zeros(pre.dense.shape).index_put_((chosen.vectors, chosen.features), values)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["all pairs", "active pairs"])
@pytest.mark.parametrize("shape", [*SHAPES, "crosscoder"])
def test_gradients_are_those_of_float32(monkeypatch: pytest.MonkeyPatch, choice: str, share: float, shape: str):
    monkeypatch.setattr(preactivations, "FEW", share)
    monkeypatch.setattr(active_pairs, "SLICE", 7)
    like = {"blocks": 2} if shape == "crosscoder" else SHAPES[shape]
    for bias, dead in ((0.0, DEAD), (-1.5, NOBODY), (0.0, MANY_DEAD)):
        coder = rounding(choice, bias, **like)
        check_step(coder, 50, dead)
        assert coder.unsure == 0
        assert coder.chosen == (0 if share == 0.0 and choice.split()[0] not in PICK else 50)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("d_in", [16, 300])
def test_what_was_chosen_has_the_value_of_float32(monkeypatch: pytest.MonkeyPatch, choice: str, d_in: int):
    monkeypatch.setattr(preactivations, "FEW", 1.0)
    coder, x = rounding(choice, d_in=d_in, d_sae=512), random(80, d_in)
    rounded, exact = ours_and_exact(coder, x)
    found = list(rounded.exceeding(0.5))
    for part, values in ((part, rounded.at(part)) for part in found):
        torch.testing.assert_close(values, exact.at(part), rtol=1e-4, atol=1e-4)
    assert sum(len(part.features) for part in found) < 2 * int((exact.dense > 0.5).sum()), "few more than needed"
    there = torch.zeros(80, 512, dtype=torch.bool)
    for part in found:
        there[part.rows][part.vectors, part.features] = True
    assert bool(there[exact.dense > 0.5].all()), "none is passed over"
    torch.testing.assert_close(rounded.of_features(DEAD, 9), exact.of_features(DEAD, 9), rtol=1e-4, atol=1e-4)
    assert float(rounded.positive().sum()) == pytest.approx(float(exact.positive().sum()), rel=1e-4)


@pytest.mark.parametrize("choice", PICK)
@pytest.mark.parametrize("k", [1, 4, 60, 64])
def test_any_number_of_features_can_be_chosen(choice: str, k: int):
    """Of 64 features: with the margin more than there are, or all."""
    for seed in range(5):
        coder = rounding(choice)
        object.__setattr__(coder.options, "k", k)
        rounded, exact = ours_and_exact(coder, random(40, 16, seed=seed))
        torch.testing.assert_close(codes(coder, rounded).relu_(), codes(coder, exact).relu_(), rtol=1e-4, atol=1e-4)
        assert coder.unsure == 0 or k == 64


@pytest.mark.parametrize("d_sae", [96, 2048])
@pytest.mark.parametrize("choice", PICK)
def test_equal_and_negative_pre_activations_are_chosen_like_any(choice: str, d_sae: int):
    coder = rounding(choice, d_sae=d_sae)
    x = random(30, 16)
    coder.W_enc[1:] = coder.W_enc[0]
    coder.b_enc.fill_(0.25)
    rounded, exact = ours_and_exact(coder, x)
    for made, wanted in zip(codes(coder, rounded), codes(coder, exact), strict=True):
        torch.testing.assert_close(made.relu().sort().values, wanted.relu().sort().values, rtol=1e-4, atol=1e-4)
    assert coder.unsure == 30, "any of equals could have been chosen"
    coder = rounding(choice, bias=-100.0, d_sae=d_sae)
    made, values = coder.choose(Rounded(coder, x))
    assert len(values) == 0 or float(values.max()) == 0
    assert len(made.features) == len(values)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("where", ["x", "W_enc", "inf"])
def test_what_is_no_number_makes_the_loss_none(choice: str, where: str):
    for sign in (1.0, -1.0):
        coder, x = rounding(choice, d_sae=2048), random(70, 16)
        (x if where != "W_enc" else coder.W_enc)[3, 5] = sign * (torch.inf if where == "inf" else torch.nan)
        assert not Rounded(coder, x).is_finite()
        plain = small(choice, d_sae=2048)
        plain.W_enc.copy_(coder.W_enc)
        result, wanted = (each.step(x, x, StepState(NOBODY)).loss for each in (coder, plain))
        assert torch.equal(result, wanted) or (bool(result.isnan()) and bool(wanted.isnan()))


@pytest.mark.parametrize("choice", PICK)
def test_what_the_margin_does_not_hold_is_counted_and_chosen_in_float32(choice: str):
    """Many features with nearly the same pre-activation: more than the margin, and nearer than bfloat16 resolves."""
    coder, x = rounding(choice, d_sae=2048), random(64, 16)
    coder.W_enc.copy_(coder.W_enc[0] + 1e-3 * random(2048, 16, seed=9))
    coder.b_enc.fill_(3.0)
    rounded, exact = ours_and_exact(coder, x)
    found, wanted = codes(coder, rounded), codes(coder, exact)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    passed_over = rounded.dense.float().where(found == 0, -torch.inf).amax(1)
    assert (passed_over > found.where(found > 0, torch.inf).amin(1)).any(), "rounded ones are in another order"
    assert int(coder.unsure) > 0
    assert coder.chosen == 64


@pytest.mark.parametrize("choice", PICK)
def test_hardly_a_code_differs_once_something_is_learned(tmp_path: Path, choice: str):
    source = Planted(features=400, d_in=64, active=8, batch=512)
    config = TrainConfig(shaped(choice, 64, 2048, k=16), steps=60, batch=512, lr=3e-3)
    trainer = Trainer(config, source)
    trainer.coder.precision = BF16
    trainer.run(tmp_path)
    coder = trainer.coder
    x = torch.cat([source(step) for step in range(90, 98)]) * trainer.scales.read[0]
    rounded, exact = ours_and_exact(coder, x)
    found, wanted = codes(coder, rounded), codes(coder, exact)
    differ = (found > 0) != (wanted > 0)
    assert float(differ.sum()) <= 1e-4 * 16 * len(x)
    torch.testing.assert_close(found[differ].sort().values, wanted[differ].sort().values)  # alike up to their last bits
    assert int(coder.unsure) <= 1e-2 * coder.chosen


@pytest.mark.parametrize("architecture", names())
def test_two_trainings_in_bfloat16_have_the_same_bits(tmp_path: Path, architecture: str):
    source, states = Planted(features=64, d_in=32, active=3, batch=128), []
    for name in ("one", "two"):
        trainer = Trainer(TrainConfig(shaped(architecture, 32, 512, k=4), steps=12, batch=128, lr=3e-3), source)
        trainer.coder.precision = BF16
        trainer.run(tmp_path / name)
        states.append(trainer.state_tensors())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["all pairs", "active pairs"])
@pytest.mark.parametrize("d_out", [None, 10])
def test_the_codes_of_an_extraction_are_those_of_float32(
    monkeypatch: pytest.MonkeyPatch, choice: str, share: float, d_out: int | None
):
    monkeypatch.setattr(preactivations, "FEW", share)
    coder, x = rounding(choice, d_sae=512, d_out=d_out), random(700, 16)
    coder.calibrate([x], len(x))
    torch.testing.assert_close(coder.codes(x), coder.encode(x), rtol=1e-4, atol=1e-4)
    assert (coder.chosen, int(coder.unsure)) == (0 if share == 0.0 and choice != "topk" else 700, 0)
    coder.precision = FLOAT32
    assert torch.equal(coder.codes(x), coder.encode(x))
