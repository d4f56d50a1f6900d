"""Several SAEs in one job read each batch once, and each becomes what it would have become alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tasks.activations import stream as reading
from tasks.errors import UserError
from tasks.jobs.kind import Stopped, kind_named
from tasks.jobs.multi_result import Parts
from tasks.kinds import train
from tasks.sae.training import throughput
from tasks.sae.training.trainer import Trainer
from tasks.train_job import single_sae as one
from tasks.train_job.params import PARTS
from tasks.train_job.sae_group import members
from tests.fixtures.bench import Bench
from tests.fixtures.work_folders import left_by

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
        outcome = train.run(prepared(bench, **{k: v for k, v in values.items() if k in ALL or k in TWO_BY_TWO}), alone)
        together = context.output / member.name
        assert weights(together) == weights(alone.output)
        for name in ("metrics.jsonl", "evaluations.jsonl", "cfg.json"):
            assert (together / name).read_text() == (alone.output / name).read_text()
        for name in (
            "mse",
            "fvu",
            "l0",
            "dead_fraction",
            "ce_loss_recovered",
            "pca_explained_variance",
            "hook",
            "d_sae",
        ):
            assert result.made[member.name][name] == outcome[name]


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
    assert {result["hook"] for result in made.values()} == {"gpt_neox.layers.1", "gpt_neox.layers.1.mlp"}
    result = [json.loads((context.output / name / "cfg.json").read_text())["metadata"]["hook_name"] for name in made]
    assert result == ["blocks.1.hook_resid_post"] * 2 + ["blocks.1.hook_mlp_out"] * 2
    rates = train.run(prepared(bench, layer=1, k=4, lr=None, together={"lr": [0.1, 0.001]}), bench.context("rates"))
    assert len({result["fvu"] for result in rates.made.values()}) == 2


def test_a_layer_that_the_model_does_not_have_is_refused(bench: Bench):
    with pytest.raises(UserError, match="tiny has no layer 7"):
        prepared(bench, together={"layer": [0, 7]})


def test_a_name_may_begin_as_an_output_does(bench: Bench):
    params = prepared(bench, layer=1, together={"k": [4, 8]})
    with pytest.raises(Stopped):
        train.run(params, bench.context("output", stop=lambda done: done >= 17 * 256))
    made = train.run(params, bench.context("output")).made
    assert all(result["steps_in_last_attempt"] < 14 for result in made.values())


@pytest.mark.parametrize("after", [3, 17, 29])
def test_a_job_that_is_stopped_resumes_to_the_same_bytes(bench: Bench, after: int):
    params = prepared(bench, together=TWO_BY_TWO)
    whole = bench.context("whole")
    train.run(params, whole)
    stopped = bench.context("stopped", stop=lambda done: done >= after * 256)
    with pytest.raises(Stopped):
        train.run(params, stopped)
    assert train.resume_point(stopped.workdir) == f"step {after}", "the first SAE is one step further"
    resumed = bench.context("stopped")
    result = train.run(params, resumed)
    for (name, outcome), folder in zip(
        result.made.items(), sorted(path for path in whole.output.iterdir()), strict=True
    ):
        assert outcome["steps_in_last_attempt"] == 30 - after - (name == "stopped-l0-k4")
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
            shutil.copytree(left_by(bench.store, "killed") / PARTS / "killed-l0-k8", bench.root / "behind")
    shutil.rmtree(left_by(bench.store, "killed") / PARTS / "killed-l0-k8")
    (bench.root / "behind").rename(left_by(bench.store, "killed") / PARTS / "killed-l0-k8")
    assert train.resume_point(left_by(bench.store, "killed")) == "step 11"
    resumed = bench.context("killed")
    made = train.run(params, resumed).made
    last = [result["steps_in_last_attempt"] for result in made.values()]
    assert last[1] == 19
    assert max(last[0], *last[2:]) <= 10
    for name in made:
        assert weights(resumed.output / name) == weights(whole.output / name.replace("killed", "whole"))


def test_one_that_fails_does_not_take_the_others_with_it(bench: Bench):
    params = prepared(bench, layer=1, k=4, lr=None, together={"lr": [0.01, 1e36]})
    context = bench.context("all")
    result = train.run(params, context)
    alone = bench.context("alone")
    train.run(prepared(bench, layer=1, k=4), alone)
    assert list(result.made) == ["all-lr0.01"]
    assert weights(context.output / "all-lr0.01") == weights(alone.output)
    assert list(result.failed) == ["all-lr1e36"]
    assert "no longer a number" in result.failed["all-lr1e36"]
    assert [note for note in context.noted if "all-lr1e36 is given up" in note]


def test_one_that_was_given_up_stays_so_when_the_job_is_resumed(bench: Bench):
    params = prepared(bench, layer=1, k=4, lr=None, together={"lr": [0.01, 1e36]}, steps=60)
    whole = bench.context("whole")
    train.run(params, whole)
    stopped = bench.context("all", stop=lambda done: done >= 40 * 256)
    with pytest.raises(Stopped):
        train.run(params, stopped)
    assert train.resume_point(stopped.workdir) in ("step 40", "step 41"), "of the one that continues"
    resumed = bench.context("all")
    result = train.run(params, resumed)
    assert weights(resumed.output / "all-lr0.01") == weights(whole.output / "whole-lr0.01")
    assert list(result.failed) == ["all-lr1e36"]
    (on,) = resumed.noted
    assert on in ("all-lr0.01 resumes from step 40", "all-lr0.01 resumes from step 41")
    assert next(done for phase, done, _, _ in resumed.said if phase == "training") >= 40 * 256
    other = prepared(bench, layer=1, k=4, lr=None, together={"lr": [0.01, 0.02]}, steps=60)
    assert train.run(other, bench.context("all")).failed == {}


def test_one_that_cannot_even_begin_or_end_does_not_take_the_others_with_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    for where in ("begin", "state_tensors"):
        plain = getattr(Trainer, where)

        def failing(self: Trainer, *args: Any, plain: Any = plain) -> Any:
            if self.config.lr == 0.02:
                raise UserError("It was dropped.")
            return plain(self, *args)

        with monkeypatch.context() as patched:
            patched.setattr(Trainer, where, failing)
            params = prepared(bench, layer=1, k=4, lr=None, together={"lr": [0.01, 0.02]})
            result = train.run(params, bench.context(where.replace("_", "-")))
        assert [name.rpartition("-")[2] for name in result.made] == ["lr0.01"]
        assert list(result.failed.values()) == ["It was dropped."]


def test_all_of_them_may_fail(bench: Bench):
    result = train.run(prepared(bench, layer=1, k=4, lr=None, together={"lr": [1e36, 2e36]}), bench.context("all"))
    assert (result.made, len(result.failed)) == ({}, 2)


def test_each_reports_the_speed_of_its_own_steps_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr(throughput.Pace.__init__, "__defaults__", (lambda: clock[0],))

    def slow(*args: Any) -> dict[str, Any]:
        clock[0] += 1000.0
        return {"fvu": 0.5}

    def step(self: Trainer, folder: Path, plain: Any = Trainer.advance) -> None:
        plain(self, folder)
        clock[0] += 1.0

    monkeypatch.setattr(one, "compare", slow)
    monkeypatch.setattr(Trainer, "advance", step)
    result = train.run(prepared(bench, layer=1, k=4), bench.context("alone"))
    assert result["tokens_per_s"] == 256
    made = train.run(prepared(bench, together=TWO_BY_TWO), bench.context("all")).made
    assert [result["tokens_per_s_together"] for result in made.values()] == pytest.approx([64] * 4, abs=2)
    assert not [result for result in made.values() if "tokens_per_s" in result], (
        "one trained alone would be believed to be so slow"
    )


def test_those_that_begin_with_an_sae_get_its_width(bench: Bench):
    first = bench.context("first")
    bench.store.seal(first.output, {"result": train.run(prepared(bench, layer=1, k=4, width=24, expansion=8), first)})
    bench.store.publish(first.output, "saes", "first")
    params = prepared(bench, layer=1, k=4, lr=None, expansion=8, init_from="first", together={"lr": [0.01, 0.001]})
    made = train.run(params, bench.context("all")).made
    assert [result["d_sae"] for result in made.values()] == [24, 24]
    assert {one.width for one in train.makes(params, "all").values()} == {24}


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
        ({"batch": [64, 128]}, "SAEs that are trained together share --batch-size."),
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
        ({"k": [4, None]}, "--k needs a list of different values, not [4, None]."),
        ({"hook": ["resid", "mlp"], "layer": [0, 1]}, "--layer is given a value beside those in --together."),
        ({"arch": ["topk", "standard"], "k": [4, 8]}, "--k is no option of a standard SAE."),
    ],
)
def test_what_cannot_be_trained_together_is_refused(bench: Bench, together: dict, sentence: str):
    with pytest.raises(UserError) as refused:
        prepared(bench, layer=1, together=together)
    assert sentence in refused.value.sentence


def test_stored_activations_serve_several(bench: Bench):
    from tasks.kinds import activations as storing

    params, _ = storing.prepare(
        storing.KIND.read_params({"model": "tiny", "dataset": "words", "layer": 1, "dtype": "float32"}), bench.known
    )
    context = bench.context("acts")
    result = storing.run(params, context)
    bench.store.seal(context.output, {"job": "acts", "params": vars(params), "result": result})
    bench.store.publish(context.output, "activations", "acts")
    values = {"model": None, "dataset": None, "activations": "acts"}
    made = train.run(prepared(bench, **values, together={"k": [4, 8]}), bench.context("all")).made
    assert [result["hook"] for result in made.values()] == ["gpt_neox.layers.1"] * 2
    alone = bench.context("alone")
    train.run(prepared(bench, **values, k=8), alone)
    together = left_by(bench.store, "all") / "output" / "all-k8"
    assert load_file(together / "sae_weights.safetensors").keys()
    assert weights(together) == weights(alone.output)
    for option, several in {"layer": [0, 1], "hook": ["resid", "mlp"]}.items():
        with pytest.raises(UserError, match=f"activations/acts are of one {option}."):
            prepared(bench, **values, together={option: several})
