"""What a model loses by a coder in its place is what is measured: nothing for a perfect one, all for one of zeros."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tasks.activations.hook_sites import Hook
from tasks.activations.hooks import find
from tasks.activations.intervention import Spliced, can_splice, splice
from tasks.activations.stream import ModelVectors
from tasks.activations.token_mask import Mask
from tasks.kinds import train
from tasks.train_job import batches, evaluation
from tests.fixtures.bench import CONTEXT, Bench, some_tokens, tiny_model
from tests.models.every_family import build
from tests.models.families import model_of
from tests.train_job.test_train import prepared

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


def test_a_block_that_puts_out_a_list_can_be_replaced():
    model = model_of("openai-gpt")
    source = ModelVectors(model, some_tokens(12), [find(model, Hook("resid", 1))], NOTHING)
    assert can_splice(source)
    same = splice(source, ROWS, 1, lambda x: x)
    assert same.spliced == pytest.approx(same.clean)
    assert splice(source, ROWS, 1, torch.zeros_like).spliced != pytest.approx(same.clean)


def test_a_model_of_position_by_batch_is_not_replaced():
    model = build("xlnet")
    source = ModelVectors(model, some_tokens(12), [find(model, Hook("resid", 1))], NOTHING)
    assert not can_splice(source)


def test_the_clean_loss_is_the_models_own():
    source = vectors_at(["resid"])
    ids = torch.from_numpy(some_tokens(12))
    own = source.model(input_ids=ids, labels=ids).loss.item()
    assert splice(source, ROWS, 1, lambda x: x).clean == pytest.approx(own, rel=1e-5)


def test_what_is_not_predicted_is_not_reported():
    model = tiny_model()
    source = ModelVectors(model, some_tokens(12)[:, :2], [find(model, Hook("resid", 1))], Mask(first=True))
    assert splice(source, ROWS, 1, lambda x: x) is None, "of two tokens the first is left out and the last has no next"


def test_what_is_recovered_is_all_where_nothing_is_lost_and_nothing_where_zeros_lose_as_much():
    shares = [Spliced(2.0, spliced, ablated=4.0, kl=0.5, tokens=9).recovered for spliced in (2.0, 2.5, 4.0, 5.0)]
    assert shares == [1, 0.75, 0, -0.5]


@pytest.mark.parametrize("ablated", [2.0, 1.5])
def test_where_zeros_do_no_worse_than_the_model_there_is_no_share_to_report(ablated: float):
    assert Spliced(clean=2.0, spliced=3.0, ablated=ablated, kl=0.5, tokens=9).recovered is None


def test_a_worse_reconstruction_costs_more():
    source = vectors_at(["resid"])
    losses = [splice(source, ROWS, 1, lambda x, s=share: x * s) for share in (1.0, 0.9, 0.5)]
    assert losses[0].kl < losses[1].kl < losses[2].kl


def test_the_sae_leaves_what_it_was_not_trained_on_and_ablations_leave_nothing():
    """Which positions each run replaces, seen at the hook itself; what is scored is the same for all."""
    source = vectors_at(["attn"], Mask(first=True, ids=(5,)))
    point = source.points[0]
    own = source.read_all(source.tokens)
    kept = torch.from_numpy(source.mask.kept(source.tokens))
    assert int((source.tokens[:, 1:] == 5).sum()) > 0
    seen: list[torch.Tensor] = []
    # What the block after the hook is given in each run; the hook that replaces comes first.
    module = source.model.get_submodule(point.module)
    register = module.register_forward_hook

    def also_seen(hook):
        handle, looking = register(hook), register(lambda _m, _i, output: seen.append(output[0].detach().clone()))
        remove = handle.remove
        handle.remove = lambda: (remove(), looking.remove())
        return handle

    module.register_forward_hook = also_seen
    mean = own[kept].mean(0)
    found = splice(source, ROWS, 1, lambda x: 2 * x, mean, everywhere=True)
    clean, spliced, ablated, averaged, everywhere = (values.reshape(own.shape) for values in seen)
    torch.testing.assert_close(clean, own)
    torch.testing.assert_close(spliced, torch.where(kept[..., None], 2 * own, own))
    assert not ablated.any()
    torch.testing.assert_close(averaged, mean.expand_as(own))
    torch.testing.assert_close(everywhere, 2 * own)
    assert found.tokens == int(kept[:, :-1].sum())
    assert len({found.clean, found.spliced, found.ablated, found.averaged, found.everywhere}) == 5


@pytest.mark.parametrize("mask", [NOTHING, Mask(first=True), Mask(first=True, ids=(5, 9), pad=9)], ids=str)
def test_each_loss_is_the_mean_over_the_same_positions_that_one_computes_by_hand(mask: Mask):
    source = vectors_at(["mlp"], mask)
    tokens = some_tokens(12)
    tokens[::2, 10:] = 9 if mask.pad is not None else tokens[::2, 10:]
    source = ModelVectors(source.model, tokens, source.points, mask)
    kept, ids = torch.from_numpy(mask.kept(tokens)), torch.from_numpy(tokens)
    inputs = {"input_ids": ids} | ({} if mask.pad is None else {"attention_mask": (ids != mask.pad).long()})
    counted = kept[:, :-1] & (ids[:, 1:] != (-1 if mask.pad is None else mask.pad))
    own, mean = source.read_all(tokens), torch.linspace(-1, 1, 16)
    module = source.model.get_submodule(source.points[0].module)

    def run(value: torch.Tensor) -> torch.Tensor:
        handle = module.register_forward_hook(lambda *_: value)
        logits = source.model(**inputs).logits.detach().log_softmax(-1)
        handle.remove()
        return logits

    def loss(logits: torch.Tensor) -> float:
        return float(-logits[:, :-1].gather(2, ids[:, 1:, None])[..., 0][counted].mean())

    halved = torch.where(kept[..., None], own / 2, own)
    logits = [run(value) for value in (own, halved, torch.zeros_like(own), mean.expand_as(own))]
    clean, spliced, ablated, averaged = map(loss, logits)
    found = splice(source, ROWS, 1, lambda x: x / 2, mean)
    assert (found.clean, found.spliced) == (pytest.approx(clean, rel=1e-5), pytest.approx(spliced, rel=1e-5))
    assert (found.ablated, found.averaged) == (pytest.approx(ablated, rel=1e-5), pytest.approx(averaged, rel=1e-5))
    assert found.tokens == int(counted.sum())
    divergence = [(logits[0].exp() * (logits[0] - other)).sum(-1)[kept].mean() for other in logits[1:3]]
    assert (found.kl, found.kl_ablated) == (
        pytest.approx(float(divergence[0]), rel=1e-3),
        pytest.approx(float(divergence[1]), rel=1e-3),
    )


def taught_model() -> Any:
    """A model that predicts better than one that guesses: most tokens follow from the one before."""
    model, tokens = tiny_model(), torch.from_numpy(some_tokens(64, seed=7))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step(), optimizer.zero_grad()
    return model


def test_standard_errors_shrink_with_the_rows_and_are_reported_of_what_is_recovered():
    model = taught_model()
    source = ModelVectors(model, some_tokens(400), [find(model, Hook("resid", 1))], Mask(first=True))
    few, many = (splice(source, np.arange(n), 1, lambda x: 0.9 * x) for n in (25, 400))
    for name in ("clean", "spliced", "ablated", "kl", "recovered"):
        assert few.errors[name] == pytest.approx(4 * many.errors[name], rel=0.5), name
    parts = [splice(source, rows, 1, lambda x: 0.9 * x) for rows in np.arange(400).reshape(16, 25)]
    for name in ("spliced", "recovered"):
        spread = float(np.std([getattr(part, name) for part in parts], ddof=1))
        assert spread == pytest.approx(few.errors[name], rel=0.6), name


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
    assert {outcome["evaluated_tokens"] for outcome in (result, *lines)} == {4 * of_a_row}
    assert {outcome["predicted_tokens"] for outcome in lines} == {2 * (of_a_row - 1)}, (
        "the last of a row predicts nothing"
    )
    assert result["predicted_tokens"] == rows * (of_a_row - 1), "in the end all that is held out is predicted"


def test_the_final_evaluation_is_on_as_many_tokens_as_are_asked_for(bench: Bench):
    bench.add_tokens("many", rows=2000)
    found = [train.run(prepared(bench, dataset="many", eval_tokens=n)[0], bench.context(f"{n}")) for n in (640, 10**6)]
    rows = [result["held_out_tokens"] // (CONTEXT - 1) for result in found]
    assert rows == [640 // CONTEXT, 200], "a tenth of all rows at most"
    assert train.Common.eval_tokens == 65_536
    for result, held in zip(found, rows, strict=True):
        assert result["predicted_tokens"] == held * (CONTEXT - 2)
        for name in ("mse", "l0", "fvu", "ce_loss", "ce_loss_with_sae", "kl"):
            assert (result["standard_errors"][name] > 0) == (name != "l0"), "of a TopK SAE each token has k"


def test_numbers_of_more_rows_than_are_held_in_memory_are_of_all_of_them(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.add_tokens("many", rows=2000)
    params = prepared(bench, dataset="many", arch="batchtopk")[0]
    whole = train.run(params, bench.context("whole"))
    monkeypatch.setattr(batches, "HELD_OUT_VECTORS", 20 * CONTEXT)
    pieces = train.run(params, bench.context("pieces"))
    assert (whole["baseline_tokens"], pieces["baseline_tokens"]) == (200 * (CONTEXT - 1), 20 * (CONTEXT - 1))
    assert whole["held_out_tokens"] == pieces["held_out_tokens"] == 200 * (CONTEXT - 1)
    for name in ("mse", "fvu", "l0", "l1", "dead_fraction", "cosine_similarity"):
        assert pieces[name] == pytest.approx(whole[name], rel=1e-4), name


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
    assert metadata["training_tokens"] == result["best_step"] * 256, "what the saved one has seen"
    assert result["training_tokens"] == result["steps"] * 256
    with (context.workdir / "evaluations.jsonl").open("a") as file:
        file.write('{"ste')  # the plug was pulled, or the disk was full
    again = train.run(params, bench.context(attempt=2))
    assert again["steps"] == result["steps"], "another attempt finds it over"
