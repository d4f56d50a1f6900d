"""What a model loses by a coder in its place is what is measured: nothing for a perfect one, all for one of zeros."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from tasks.activations import ModelVectors
from tasks.hooks import Hook, find
from tasks.kinds import train
from tasks.masks import Mask
from tasks.splice import Spliced, can_splice, splice
from tasks.training import evaluation
from tests.sae.conftest import CONTEXT, Bench, some_tokens, tiny_model
from tests.sae.families import model_of
from tests.sae.test_train_kind import prepared

ROWS = np.arange(12)
NOTHING = Mask()
SITES = [["resid"], ["mlp"], ["attn"], ["mlp-in"]]


def vectors_at(sites: list[str], mask: Mask = NOTHING, family: str = "gpt_neox", layers: tuple[int, ...] = (1,)):
    model = tiny_model(family)
    return ModelVectors(model, some_tokens(12), [find(model, Hook(s, layer)) for s in sites for layer in layers], mask)


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama", "gemma2", "opt"])
@pytest.mark.parametrize("sites", SITES, ids=lambda sites: sites[0])
def test_a_perfect_reconstruction_changes_nothing_and_zeros_lose_all(family: str, sites: list[str]):
    source = vectors_at(sites, family=family)
    same = splice(source, ROWS, 1, lambda x: x)
    assert same.spliced == pytest.approx(same.clean)
    assert same.kl == pytest.approx(0, abs=1e-6)
    none = splice(source, ROWS, 1, torch.zeros_like)
    assert none.spliced == pytest.approx(none.ablated)
    assert none.ablated != pytest.approx(none.clean)
    assert none.kl > 1e-6
    assert none.clean == pytest.approx(same.clean)


def test_the_clean_loss_is_the_models_own():
    source = vectors_at(["resid"])
    ids = torch.from_numpy(some_tokens(12))
    own = source.model(input_ids=ids, labels=ids).loss.item()
    assert splice(source, ROWS, 1, lambda x: x).clean == pytest.approx(own, rel=1e-5)


def test_what_is_not_predicted_is_not_told():
    model = tiny_model()
    source = ModelVectors(model, some_tokens(12)[:, :2], [find(model, Hook("resid", 1))], Mask(first=True))
    assert splice(source, ROWS, 1, lambda x: x) is None, "of two tokens the first is left out and the last has no next"


def test_what_is_recovered_is_all_where_nothing_is_lost_and_nothing_where_zeros_lose_as_much():
    shares = [Spliced(2.0, spliced, ablated=4.0, kl=0.5, tokens=9).recovered for spliced in (2.0, 2.5, 4.0, 5.0)]
    assert shares == [1, 0.75, 0, -0.5]


@pytest.mark.parametrize("ablated", [2.0, 1.5])
def test_where_zeros_do_no_worse_than_the_model_there_is_no_share_to_tell(ablated: float):
    assert Spliced(clean=2.0, spliced=3.0, ablated=ablated, kl=0.5, tokens=9).recovered is None


def test_a_worse_reconstruction_costs_more():
    source = vectors_at(["resid"])
    losses = [splice(source, ROWS, 1, lambda x, s=share: x * s) for share in (1.0, 0.9, 0.5)]
    assert losses[0].kl < losses[1].kl < losses[2].kl


def test_what_does_not_count_is_left_as_it_is():
    source, every = vectors_at(["resid"], Mask(first=True)), vectors_at(["resid"])
    seen = []
    partly = splice(source, ROWS, 1, lambda x: seen.append(len(x)) or torch.zeros_like(x))
    assert sum(seen) == 12 * 15
    assert partly.ablated != pytest.approx(splice(every, ROWS, 1, torch.zeros_like).ablated)


def test_a_transcoder_is_put_where_it_writes():
    source = vectors_at(["mlp-in", "mlp"])
    mlp = source.model.get_submodule(source.points[1].module)
    own = splice(source, ROWS, 1, mlp)
    assert own.spliced == pytest.approx(own.clean, rel=1e-6)
    none = splice(source, ROWS, 1, torch.zeros_like)
    assert none.spliced == pytest.approx(none.ablated, rel=1e-6)
    assert none.ablated != pytest.approx(none.clean, rel=1e-6)


def test_a_crosscoder_is_put_into_all_its_layers():
    source = vectors_at(["resid"], layers=(0, 2))
    whole = splice(source, ROWS, 2, lambda x: x)
    assert whole.spliced == pytest.approx(whole.clean)
    assert whole.ablated != pytest.approx(whole.clean)

    def last_only(x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x[:, 16:], (16, 0))

    last = splice(source, ROWS, 2, last_only)
    assert last.spliced == pytest.approx(last.clean), "the last layer's stream decides alone"


def test_what_predicts_nothing_is_not_asked():
    assert can_splice(vectors_at(["resid"]))
    bert = model_of("bert")
    assert not can_splice(ModelVectors(bert, some_tokens(2), [find(bert, Hook("resid", 0))], Mask()))
    assert not can_splice(object())


def test_a_training_measures_itself_on_the_way_and_keeps_its_best_checkpoint(bench: Bench):
    params, _ = prepared(bench, steps=40, lr=0.01, evaluate=4)
    context = bench.context()
    result = train.run(params, context)
    lines = [json.loads(line) for line in (context.output / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
    assert lines[-1]["fvu"] < lines[0]["fvu"]
    assert lines[-1]["ce_loss_recovered"] == result["ce_loss_recovered"]
    assert lines[-1]["kl"] < lines[0]["kl"]
    assert (result["best_fvu"], result["best_step"]) == min((line["fvu"], line["step"]) for line in lines)
    kept = {int(path.name.rpartition("-")[2]) for path in context.workdir.glob("checkpoint-*")}
    assert kept == {40, result["best_step"]}


def test_each_number_says_on_how_many_held_out_tokens_it_was_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.add_tokens("many", rows=2000)
    monkeypatch.setattr(evaluation, "VECTORS", 64)
    monkeypatch.setattr(evaluation, "PREDICTED", 32)
    context = bench.context()
    result = train.run(prepared(bench, dataset="many")[0], context)
    lines = [json.loads(line) for line in (context.output / "evaluations.jsonl").read_text().splitlines()]
    of_a_row, rows = CONTEXT - 1, result["held_out_tokens"] // (CONTEXT - 1)
    assert rows > 4
    assert result["held_out_tokens"] == rows * of_a_row, "the first of each row is left out"
    for told in (result, *lines):
        assert told["evaluated_tokens"] == 4 * of_a_row
        assert told["predicted_tokens"] == 2 * (of_a_row - 1), "the last of a row has nothing to predict"


def test_a_training_that_is_not_to_be_measured_is_not(bench: Bench):
    params, _ = prepared(bench, evaluate=0)
    context = bench.context()
    assert "best_fvu" not in train.run(params, context)
    assert not (context.output / "evaluations.jsonl").exists()


def test_a_training_ends_when_its_patience_does(bench: Bench):
    params, _ = prepared(bench, steps=60, lr=0.5, evaluate=60, patience=2)
    context = bench.context()
    result = train.run(params, context)
    lines = [json.loads(line) for line in (context.output / "evaluations.jsonl").read_text().splitlines()]
    losses = [line["fvu"] for line in lines]
    assert result["steps"] == len(lines) < 60
    assert context.noted == [f"ends at step {len(lines)} of 60: the FVU was not better for 2 measurements"]
    assert min(losses[:-2]) == min(losses) < min(losses[-2:])
    assert result["best_step"] == len(lines) - 2
    best = lines[result["best_step"] - 1]
    assert result["fvu"] == pytest.approx(best["fvu"]), "the SAE that is kept is that of the best measurement"
    assert result["kl"] == best["kl"]
    metadata = json.loads((context.output / "cfg.json").read_text())["metadata"]
    assert metadata["training_tokens"] == result["best_step"] * 256
    with (context.workdir / "evaluations.jsonl").open("a") as file:
        file.write('{"ste')  # the plug was pulled, or the disk was full
    again = train.run(params, bench.context(attempt=2))
    assert again["steps"] == result["steps"], "another attempt finds it over"
