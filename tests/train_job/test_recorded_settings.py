"""What was in force in a training is recorded, each quantity under one name."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.kinds import train
from tasks.sae.coder import default_rate
from tasks.sae.formats.model_card import card
from tasks.train_job.sae_group import members
from tests.fixtures.bench import Bench
from tests.train_job.test_train import SHORT, prepared


def test_the_rate_by_width_is_settled_at_submit(bench: Bench):
    assert prepared(bench)[0].lr == default_rate(64)
    assert prepared(bench, expansion=16)[0].lr == default_rate(256) != default_rate(64)
    assert prepared(bench, lr=0.01)[0].lr == 0.01


def test_the_rate_of_a_model_that_is_not_there_yet_is_settled_in_the_run(bench: Bench):
    params = dataclasses.replace(prepared(bench)[0], width=None, lr=None)  # as of a model that is on its way
    result = train.run(params, bench.context())
    assert (result["lr"], result["d_sae"]) == (default_rate(64), 64)
    in_force = train.KIND.params_in_force(params, result)
    assert (in_force.lr, in_force.width) == (default_rate(64), 64)
    assert dataclasses.replace(in_force, lr=None, width=None) == params, "and nothing else changes"


@pytest.mark.parametrize(
    ("values", "tokens", "steps"),
    [
        ({"steps": 300}, None, 300),
        ({"steps": 300, "tokens": train.DEFAULT_TOKENS}, None, 300),  # as records of before say
        ({"steps": None, "tokens": 5000}, 5000, None),
        ({"steps": None}, train.DEFAULT_TOKENS, None),
    ],
    ids=str,
)
def test_a_number_of_tokens_is_recorded_only_where_it_ruled(bench: Bench, values: dict[str, Any], tokens, steps):
    params, _ = prepared(bench, **values)
    assert (params.tokens, params.steps) == (tokens, steps)
    assert prepared(bench, **{**SHORT, **dataclasses.asdict(params)})[0] == params, "a retry submits it again"


def test_steps_and_tokens_are_still_refused_together(bench: Bench):
    with pytest.raises(UserError, match="--steps and --training-tokens both"):
        prepared(bench, steps=300, tokens=5000)


def test_each_of_several_saes_records_the_rate_of_its_own_width(bench: Bench):
    params, _ = prepared(bench, expansion=None, together={"width": [32, 128]})
    assert params.lr is None, "they have several"
    assert [member.params.lr for member in members(params, "both")] == [default_rate(32), default_rate(128)]
    same, _ = prepared(bench, k=None, together={"k": [2, 4]})
    assert same.lr == default_rate(64)
    rates, _ = prepared(bench, together={"lr": [0.1, 0.001]})
    assert rates.lr is None
    assert [member.params.lr for member in members(rates, "both")] == [0.1, 0.001]


def test_the_metadata_of_an_sae_say_what_it_was_trained_with(bench: Bench):
    context = bench.context()
    result = train.run(prepared(bench, warmup=0.1)[0], context)
    values = json.loads((context.output / "cfg.json").read_text())["metadata"]
    assert values["training"]["lr"] == result["lr"] == default_rate(64)
    assert (values["training"]["steps"], values["training"]["batch"], values["training"]["warmup"]) == (30, 256, 0.1)
    assert values["training"]["dead_after"] > 0
    assert values["training_tokens"] == result["training_tokens"] == 30 * 256


def test_the_loss_of_the_batch_and_what_is_measured_in_the_end_have_different_names(bench: Bench):
    context = bench.context()
    result = train.run(prepared(bench, arch="standard", k=None, l1=0.1)[0], context)
    lines = [json.loads(line) for line in (context.output / "metrics.jsonl").read_text().splitlines()]
    _, shown = context.measured[-1]
    assert "loss" in shown
    assert "loss" not in result
    assert not {"reconstruction", "sparsity", "auxiliary", "dead", "dead_share"} & {*shown, *result, *lines[0]}
    for line in lines:
        parts = line["mse_loss"] + line["sparsity_loss"] + line["aux_loss"]
        assert line["loss"] == pytest.approx(parts, rel=1e-5)
    scale = json.loads((context.output / "cfg.json").read_text())["metadata"]["activation_scale"][0]
    for line in lines:
        assert line["mse"] == pytest.approx(line["mse_loss"] / scale**2, rel=1e-5), "in the model's own units"
    assert {**lines[-1], **shown} == {"step": 30, **shown}, "the same number under each name"
    assert set(lines[-1]) - {"step"} < set(shown)


def test_the_model_card_has_the_numbers_of_the_result_by_their_names(bench: Bench):
    context = bench.context()
    result = train.run(prepared(bench, lr=0.01)[0], context)
    config = json.loads((context.output / "cfg.json").read_text())
    text = card({"name": "mine", "result": result}, config, "owner/saes", "mine")
    assert f"| this SAE | {result['explained_variance']:.4f} | {result['l0']:.1f} |" in text
    assert f"{result['dead_fraction']:.2%} of the features" in text
    for name in ("mse", "fvu", "l2_ratio", "ce_loss", "ce_loss_with_sae", "kl"):
        assert f"| `{name}` | {result[name]:.4g} | {result['standard_errors'][name]:.2g} |" in text
    old = {"explained_variance": 0.5, "l0": 4.0, "dead_share": 0.25, "held_out_tokens": 10, "loss": 1.0}
    assert "25.00% of the features" in card({"name": "mine", "result": old}, config, "owner/saes", "mine")
