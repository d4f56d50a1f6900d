"""A training that begins with an SAE begins with that SAE's codes, and is refused where it could not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tasks.kinds import train
from tasks.problem import Problem
from tasks.sae.architectures import names
from tasks.sae.formats import Scales, load_sae, save_sae
from tasks.sae.trainer import Trainer
from tasks.training.start import begin_from
from tests.sae.conftest import Bench, shaped
from tests.sae.test_formats import trained
from tests.sae.test_train_kind import prepared
from tests.sae.test_training import config


def raw() -> torch.Tensor:
    return 30 * torch.randn(60, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("architecture", names())
@pytest.mark.parametrize("shape", [{}, {"d_out": 5, "skip": True}, {"blocks": 2}], ids=["plain", "transcoder", "cross"])
def test_it_makes_the_same_of_activations_as_the_sae_did(tmp_path: Path, architecture: str, shape: dict):
    coder = dataclasses.replace(shaped(architecture, 8, 24, k=3), **shape)
    target = raw() @ torch.randn(8, shape.get("d_out", 8), generator=torch.Generator().manual_seed(4))
    trainer = Trainer(
        dataclasses.replace(config(architecture), coder=coder),
        lambda step: (raw(), target) if "d_out" in shape else raw(),
    )
    trainer._measure()
    # Scaled otherwise than now; layers of a crosscoder alike, or its rows would get other lengths than each other.
    then = Scales(
        tuple(2 * scale for scale in trainer.scales.read), tuple(3 * scale for scale in trainer.scales.written)
    )
    save_sae(tmp_path, trained(architecture, **shape), then, {})
    loaded = load_sae(tmp_path)
    begin_from(trainer, tmp_path, "mine")
    trainer._measure()
    if architecture in ("batchtopk", "matryoshka"):  # its threshold is found anew from its first batches
        stretched = trainer.coder.W_enc[0].norm() / trainer.scales.unfold(loaded)["W_enc"][0].norm()
        trainer.coder.threshold.copy_(loaded.threshold[0] * stretched)
    torch.testing.assert_close(trainer.reconstruct(raw()), loaded(raw()), rtol=1e-3, atol=1e-3)


def test_fine_tuning_goes_on_from_a_trained_sae_and_says_so(bench: Bench):
    params, _ = prepared(bench, steps=60, lr=0.01)
    first = bench.context("first")
    before = train.run(params, first)
    bench.store.seal(first.output, {"job": "first", "name": "first"})
    bench.store.publish(first.output, "saes", "first")
    params, _ = prepared(bench, steps=20, lr=0.003, init_from="first")
    assert params.width == 64, "its own"
    again = bench.context("again")
    after = train.run(params, again)
    lines = [json.loads(line) for line in (again.output / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["fvu"] == pytest.approx(before["fvu"], abs=0.1), "it did not begin at random"
    assert after["fvu"] < before["fvu"] + 0.02


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"init_from": "nothing"}, "no saes/nothing"),
        ({"init_from": "first", "arch": "gated", "k": None}, "saes/first is a topk SAE: a gated one cannot begin"),
        ({"init_from": "first", "width": 63}, "has 24 features, not 63"),
        ({"init_from": "first", "expansion": 9}, "The SAE has 24 features: --expansion does nothing"),
    ],
)
def test_what_cannot_begin_with_it_is_refused(bench: Bench, values: dict, sentence: str):
    bench.add("saes", "first")
    save_sae(bench.store.path("saes", "first"), trained("topk"), Scales((1.0,), (1.0,)), {})
    with pytest.raises(Problem, match=sentence):
        prepared(bench, **values)


def test_an_sae_of_another_model_is_refused_when_it_is_loaded(bench: Bench):
    bench.add("saes", "first")
    save_sae(bench.store.path("saes", "first"), trained("topk"), Scales((1.0,), (1.0,)), {})
    params, _ = prepared(bench, init_from="first", expansion=8)
    with pytest.raises(Problem, match="a topk one of 24 features that reads 16 cannot begin with it"):
        train.run(params, bench.context())


def test_uneven_rows_cannot_become_a_topk_sae(tmp_path: Path):
    uneven = trained("topk")
    uneven.W_dec[0] *= 2
    save_sae(tmp_path, uneven, Scales((1.0,), (1.0,)), {})
    trainer = Trainer(dataclasses.replace(config("topk"), coder=shaped("topk", 8, 24, k=3)), lambda step: raw())
    begin_from(trainer, tmp_path, "mine")
    with pytest.raises(Problem, match="rows of saes/mine have different lengths"):
        trainer.run(tmp_path / "run")
