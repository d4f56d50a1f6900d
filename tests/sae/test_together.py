"""Several SAEs in one job read each batch once, and each becomes what it would have become alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tasks import activations as reading
from tasks.job import Parts, Stopped, kind_named
from tasks.kinds import train
from tasks.problem import Problem
from tasks.training.together import members
from tests.sae.conftest import Bench

ALL = {"model": "tiny", "dataset": "words", "batch": 256, "steps": 30, "expansion": 4, "lr": 0.01}
TWO_BY_TWO = {"layer": [0, 2], "k": [4, 8]}


def prepared(bench: Bench, **values: Any) -> train.Params:
    params, requests = train.prepare(train.KIND.read_params({**ALL, **values}), bench.known)
    assert requests == []
    return params


def weights(folder: Path) -> bytes:
    return (folder / "sae_weights.safetensors").read_bytes()


def test_each_sae_is_to_the_bit_what_it_is_alone(bench: Bench):
    params = prepared(bench, together=TWO_BY_TWO)
    context = bench.context("all")
    result = train.run(params, context)
    assert isinstance(result, Parts)
    assert result.failed == {}
    found = members(params, "all")
    assert [member.name for member in found] == [f"all-l{layer}-k{k}" for layer in (0, 2) for k in (4, 8)]
    for member in found:
        alone = bench.context(f"alone-{member.words}")
        values = {**ALL, "layer": member.params.layer, "k": member.params.k}
        told = train.run(prepared(bench, **{k: v for k, v in values.items() if k in ALL or k in TWO_BY_TWO}), alone)
        together = context.output / member.name
        assert weights(together) == weights(alone.output)
        for name in ("metrics.jsonl", "evaluations.jsonl", "cfg.json"):
            assert (together / name).read_text() == (alone.output / name).read_text()
        for name in ("loss", "fvu", "l0", "dead_share", "ce_loss_recovered", "pca_explained_variance", "hook", "d_sae"):
            assert result.made[member.name][name] == told[name]


def test_each_batch_is_read_from_the_model_once(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    passes: list[tuple[int, int]] = []
    forward = reading.read

    def counted(model: Any, tokens: Any, points: Any, pad: int | None = None) -> Any:
        passes.append((len(tokens), len(points)))
        return forward(model, tokens, points, pad)

    monkeypatch.setattr(reading, "read", counted)
    train.run(prepared(bench, layer=2, k=4, evaluate=1), bench.context("alone"))
    alone = sum(rows for rows, _ in passes)
    passes.clear()
    train.run(prepared(bench, together=TWO_BY_TWO, evaluate=1), bench.context("all"))
    assert sum(rows for rows, _ in passes) <= alone
    assert {points for _, points in passes} == {2}
    passes.clear()
    train.run(prepared(bench, layer=1, together={"k": [2, 4, 8]}, evaluate=1), bench.context("three"))
    assert sum(rows for rows, _ in passes) <= alone
    assert {points for _, points in passes} == {1}


def test_sites_architectures_and_rates_may_differ(bench: Bench):
    params = prepared(bench, layer=1, k=4, together={"hook": ["resid", "mlp"], "arch": ["topk", "batchtopk"]})
    context = bench.context("all")
    made = train.run(params, context).made
    assert {told["hook"] for told in made.values()} == {"gpt_neox.layers.1", "gpt_neox.layers.1.mlp"}
    told = [json.loads((context.output / name / "cfg.json").read_text())["metadata"]["hook_name"] for name in made]
    assert told == ["blocks.1.hook_resid_post"] * 2 + ["blocks.1.hook_mlp_out"] * 2
    rates = train.run(prepared(bench, layer=1, k=4, lr=None, together={"lr": [0.1, 0.001]}), bench.context("rates"))
    assert len({told["fvu"] for told in rates.made.values()}) == 2


@pytest.mark.parametrize("after", [3, 17, 29])
def test_a_job_that_is_stopped_resumes_to_the_same_bytes(bench: Bench, after: int):
    params = prepared(bench, together=TWO_BY_TWO)
    whole = bench.context("whole")
    train.run(params, whole)
    stopped = bench.context("stopped", stop=lambda done: done >= after * 256)
    with pytest.raises(Stopped):
        train.run(params, stopped)
    reached = after + 1  # it hears of the wish after the next step
    assert train.goes_on_at(stopped.workdir) == f"step {reached}"
    resumed = bench.context("stopped")
    result = train.run(params, resumed)
    for (name, told), folder in zip(result.made.items(), sorted(path for path in whole.output.iterdir()), strict=True):
        assert told["steps_in_last_attempt"] == 30 - reached
        assert weights(resumed.output / name) == weights(folder)
        assert (resumed.output / name / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


def test_one_that_a_kill_left_behind_catches_up(bench: Bench):
    params = prepared(bench, together=TWO_BY_TWO)
    whole = bench.context("whole")
    train.run(params, whole)
    for steps in (11, 20):
        with pytest.raises(Stopped):
            train.run(params, bench.context("killed", stop=lambda done, steps=steps: done >= steps * 256))
        if steps == 11:  # as if the kill had come after three of four new checkpoints were written
            shutil.copytree(bench.store.workdir("killed") / "killed-l0-k8", bench.root / "behind")
    shutil.rmtree(bench.store.workdir("killed") / "killed-l0-k8")
    (bench.root / "behind").rename(bench.store.workdir("killed") / "killed-l0-k8")
    assert train.goes_on_at(bench.store.workdir("killed")) == "step 12"
    resumed = bench.context("killed")
    made = train.run(params, resumed).made
    assert [told["steps_in_last_attempt"] for told in made.values()] == [10, 18, 10, 10]
    for name in made:
        assert weights(resumed.output / name) == weights(whole.output / name.replace("killed", "whole"))


def test_one_that_fails_does_not_take_the_others_with_it(bench: Bench):
    params = prepared(bench, layer=1, k=4, together={"lr": [0.01, 1e36]})
    context = bench.context("all")
    result = train.run(params, context)
    alone = bench.context("alone")
    train.run(prepared(bench, layer=1, k=4), alone)
    assert list(result.made) == ["all-lr0.01"]
    assert weights(context.output / "all-lr0.01") == weights(alone.output)
    assert list(result.failed) == ["all-lr1e36"]
    assert "no longer a number" in result.failed["all-lr1e36"]
    assert [note for note in context.noted if "all-lr1e36 is given up" in note]


def test_the_metrics_of_the_job_are_the_error_of_each(bench: Bench):
    context = bench.context("all")
    result = train.run(prepared(bench, together=TWO_BY_TWO), context)
    at, values = context.measured[-1]
    assert at == 30
    assert list(values) == [f"fvu l{layer}-k{k}" for layer in (0, 2) for k in (4, 8)]
    lines = [(context.output / name / "metrics.jsonl").read_text().splitlines()[-1] for name in result.made]
    assert values["fvu l2-k8"] == pytest.approx(json.loads(lines[-1])["fvu"])


def test_names_are_those_of_jobs_of_their_own_unless_one_is_given(bench: Bench):
    params = prepared(bench, together={"layer": [0, 2], "k": [4, 8]})
    name = train.default_name(params)
    assert name == "tiny-l0.l2-k4.k8"
    own = [train.default_name(prepared(bench, layer=layer, k=k)) for layer in (0, 2) for k in (4, 8)]
    assert list(train.makes(params, name)) == own
    assert list(train.makes(params, "mine")) == [f"mine-l{layer}-k{k}" for layer in (0, 2) for k in (4, 8)]
    for made in train.makes(params, name).values():
        assert made.together is None
        assert kind_named("train").read_params(vars(made)) == made


@pytest.mark.parametrize(
    ("together", "sentence"),
    [
        ({"batch": [64, 128]}, "SAEs that are trained together share --batch."),
        ({"seed": [0, 1]}, "SAEs that are trained together share --seed."),
        ({"model": ["tiny", "other"]}, "--model cannot have several values."),
        ({"depth": [1, 2]}, "--depth cannot have several values."),
        ({"together": [1, 2]}, "--together cannot have several values."),
        ({"k": [4]}, "--together is for several SAEs."),
        ({}, "--together is for several SAEs."),
        ({"k": [4, 4]}, "--k needs a list of different values, not [4, 4]."),
        ({"k": 4}, "--k needs a list of different values, not 4."),
        ({"k": [4, "many"]}, "--k must be a whole number, not 'many'."),
        ({"k": [4, 0]}, "--k must be at least 1, not 0."),
        ({"layer": [0, 7]}, "tiny has no layer 7"),
        ({"arch": ["topk", "standard"]}, "--k is no option of a standard SAE."),
    ],
)
def test_what_cannot_be_trained_together_is_refused(bench: Bench, together: dict, sentence: str):
    with pytest.raises(Problem) as refused:
        prepared(bench, layer=1, k=4, together=together)
    assert sentence in refused.value.sentence


def test_stored_activations_serve_several(bench: Bench):
    from tasks.kinds import activations as storing

    params, _ = storing.prepare(
        storing.KIND.read_params({"model": "tiny", "dataset": "words", "layer": 1, "dtype": "float32"}), bench.known
    )
    context = bench.context("acts")
    told = storing.run(params, context)
    bench.store.seal(context.output, {"job": "acts", "params": vars(params), "result": told})
    bench.store.publish(context.output, "activations", "acts")
    values = {"model": None, "dataset": None, "activations": "acts"}
    made = train.run(prepared(bench, **values, together={"k": [4, 8]}), bench.context("all")).made
    assert [told["hook"] for told in made.values()] == ["gpt_neox.layers.1"] * 2
    alone = bench.context("alone")
    train.run(prepared(bench, **values, k=8), alone)
    together = bench.store.workdir("all") / "output-1" / "all-k8"
    assert load_file(together / "sae_weights.safetensors").keys()
    assert weights(together) == weights(alone.output)
    with pytest.raises(Problem, match="were read with --layer 1, not 0"):
        prepared(bench, **values, together={"layer": [0, 1]})
