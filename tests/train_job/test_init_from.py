"""A training that begins with an SAE begins with that SAE's codes, and is refused where it could not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.errors import UserError
from tasks.kinds import train
from tasks.sae.architectures import build, names
from tasks.sae.formats.native import Scales, load_sae, save_sae
from tasks.sae.training.trainer import Trainer
from tasks.train_job.init_from import initialize_from
from tests.fixtures.bench import Bench, Catalog, shaped
from tests.sae.test_formats import trained
from tests.sae.test_training import config
from tests.train_job.test_train import prepared


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
    initialize_from(trainer, tmp_path, "mine")
    trainer._measure()
    if architecture in ("batchtopk", "matryoshka"):  # its threshold is fitted again to its first batches
        stretched = trainer.coder.W_enc[0].norm() / trainer.scales.unfold(loaded)["W_enc"][0].norm()
        trainer.coder.threshold.copy_(loaded.threshold[0] * stretched)
    torch.testing.assert_close(trainer.reconstruct(raw()), loaded(raw()), rtol=1e-3, atol=1e-3)


def test_fine_tuning_starts_from_a_trained_sae_and_says_so(bench: Bench):
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


def add_first(bench: Bench, **shape: Any) -> None:
    """An SAE of the bench's model in its store, or one of another shape."""
    coder = build(dataclasses.replace(shaped("topk", 16, 24, k=3), **shape), seed=4)
    bench.add("saes", "first")
    scale = (1.0,) * coder.config.blocks
    save_sae(bench.store.path("saes", "first"), coder, Scales(scale, scale), {})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"init_from": "nothing"}, "no saes/nothing"),
        (
            {"init_from": "first", "arch": "gated", "k": None},
            "first has topk codes: one that has gated codes cannot",
        ),
        ({"init_from": "first", "width": 63}, "has 24 features, not 63"),
        ({"init_from": "first", "expansion": 9}, "The SAE has 24 features: --expansion does nothing"),
    ],
)
def test_what_cannot_begin_with_it_is_refused(bench: Bench, values: dict, sentence: str):
    add_first(bench)
    with pytest.raises(UserError, match=sentence):
        prepared(bench, **values)


TRANSCODER = {"hook": "mlp-in", "target": "mlp"}
CROSSCODER = {"layer": None, "crosscode": "0,2"}


@pytest.mark.parametrize(
    ("shape", "values", "sentence"),
    [
        ({"d_in": 8}, {}, "first reads 8 numbers of a layer: one that reads 16 numbers of a layer cannot"),
        ({}, TRANSCODER, "first writes what it reads: one that writes 16 numbers of another place cannot"),
        ({"d_out": 16}, {}, "first writes 16 numbers of another place: one that writes what it reads cannot"),
        ({"d_out": 5}, TRANSCODER, "first writes 5 numbers of another place: one that writes 16 numbers of another"),
        ({"d_out": 16}, {**TRANSCODER, "skip": True}, "has no way past its features: one that has a way past its feat"),
        ({"d_in": 32, "blocks": 2}, {}, "first reads 2 layers: one that reads one layer cannot begin with it"),
        ({}, CROSSCODER, "first reads one layer: one that reads 2 layers cannot begin with it"),
        ({"d_out": 16}, {"arch": "batchtopk"}, "topk codes and writes .*: one that has jumprelu codes and writes"),
    ],
)
def test_an_sae_of_another_shape_is_refused_at_submit_by_what_differs(
    bench: Bench, shape: dict, values: dict, sentence: str
):
    values = {"init_from": "first", "expansion": 8, **values}
    params, _ = prepared(bench, width=24, known=Catalog(bench.store, {"saes/first"}), **values)
    add_first(bench, **shape)
    with pytest.raises(UserError, match=sentence):
        prepared(bench, **values)
    with pytest.raises(UserError, match=sentence):  # one that was still being made at submit
        train.run(params, bench.context())


@pytest.mark.parametrize(("values", "fits"), [(TRANSCODER, True), ({}, False)])
def test_a_model_that_is_not_there_yet_is_taken_to_be_the_one_that_the_sae_is_of(bench: Bench, values, fits):
    add_first(bench, d_in=8, d_out=8)
    requested = {"model": "large", "init_from": "first", "known": Catalog(bench.store, {"models/large"}), **values}
    if fits:
        assert prepared(bench, **requested)[0].width == 24
    else:
        with pytest.raises(UserError, match="first writes 8 numbers of another place: one that writes what it reads"):
            prepared(bench, **requested)


def test_uneven_rows_cannot_become_a_topk_sae(tmp_path: Path):
    uneven = trained("topk")
    uneven.W_dec[0] *= 2
    save_sae(tmp_path, uneven, Scales((1.0,), (1.0,)), {})
    trainer = Trainer(dataclasses.replace(config("topk"), coder=shaped("topk", 8, 24, k=3)), lambda step: raw())
    initialize_from(trainer, tmp_path, "mine")
    with pytest.raises(UserError, match="rows of saes/mine have different lengths"):
        trainer.run(tmp_path / "run")
