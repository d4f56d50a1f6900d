"""`train` from a model and tokens in a store to an SAE, and what it refuses before and while it runs."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from tasks.activations.hook_sites import Hook
from tasks.activations.hooks import find
from tasks.activations.stream import ModelVectors, read
from tasks.activations.token_mask import Mask
from tasks.errors import UserError
from tasks.jobs.kind import Request, Stopped, kind_named
from tasks.kinds import train
from tasks.models.loading import load_model
from tasks.sae.architectures import build, coder_class, names
from tasks.sae.formats.native import load_density, load_sae
from tasks.sae.metrics import measure
from tasks.sae.training.schedule import TrainConfig
from tasks.text.tokens import TokenWriter
from tasks.train_job.batches import Reading
from tasks.train_job.single_sae import dead_after
from tests.fixtures.bench import CONTEXT, VOCABULARY, Bench, Catalog, shaped, some_tokens, tiny_model
from tests.fixtures.work_folders import left_by
from tests.models.families import model_of

SHORT = {"model": "tiny", "dataset": "words", "layer": 1, "k": 4, "batch": 256, "steps": 30, "expansion": 4}


def prepared(bench: Bench, **values) -> tuple[train.Params, list[Request]]:
    known = values.pop("known", None) or bench.known
    values = {name: value for name, value in {**SHORT, **values}.items() if value is not None}
    return train.prepare(train.KIND.read_params(values), known)


@pytest.mark.parametrize(
    "choice",
    [
        {"arch": "topk"},
        {"arch": "batchtopk"},
        {"arch": "matryoshka", "groups": 2},
        {"arch": "standard", "l1": 0.1, "k": None},
        {"arch": "gated", "l1": 0.1, "k": None},
        {"arch": "p_anneal", "l1": 0.1, "k": None},
        {"arch": "jumprelu", "l0": 0.01, "k": None},
    ],
    ids=lambda choice: choice["arch"],
)
def test_training_leaves_a_working_sae_and_says_how_good_it_is(bench: Bench, choice: dict):
    params, requests = prepared(bench, lr=0.01, **choice)
    context = bench.context()
    result = train.run(params, context)
    assert requests == []
    assert (result["steps"], result["d_in"], result["d_sae"]) == (30, 16, 64)
    assert result["hook"] == "gpt_neox.layers.1"
    assert result["tokens_per_s"] > 0
    assert result["explained_variance"] == pytest.approx(1 - result["fvu"])
    assert result["explained_variance"] > result["random_explained_variance"]
    assert all(math.isfinite(result[key]) for key in ("mse", "l0", "dead_fraction", "pca_explained_variance"))
    assert json.dumps(result)
    lines = [json.loads(line) for line in (context.output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 31))
    metadata = json.loads((context.output / "cfg.json").read_text())["metadata"]
    assert metadata["hook_name"] == "blocks.1.hook_resid_post"
    assert metadata["hook_module"] == "gpt_neox.layers.1"
    assert metadata["context_size"] == CONTEXT
    assert context.said[-1][0] == "measuring"
    assert ("training", 30 * 256, 30 * 256, "tokens") in context.said

    density = load_density(context.output)
    outcome = result["density_histogram"]
    assert outcome["never"] + sum(outcome["counts"]) == 64
    assert outcome["never"] == int((density == 0).sum())
    assert density.sum().item() == pytest.approx(result["l0"], rel=1e-4)
    assert (density == 0).float().mean().item() == pytest.approx(result["dead_fraction"])

    sae = load_sae(context.output)
    model = tiny_model()
    activations = read(model, some_tokens(40, seed=1), [find(model, Hook("resid", 1))])[0][:, 1:].flatten(0, 1)
    explained = 1 - (sae(activations) - activations).square().sum() / (activations - activations.mean(0)).square().sum()
    assert explained.item() == pytest.approx(result["explained_variance"], abs=0.1)


@pytest.mark.parametrize(("hook", "name"), [("mlp", "hook_mlp_out"), ("attn", "hook_attn_out")])
def test_what_mlp_and_attention_add_is_trained_on_and_named_exactly(bench: Bench, hook: str, name: str):
    params, _ = prepared(bench, hook=hook, lr=0.01)
    context = bench.context()
    result = train.run(params, context)
    module = {"mlp": "gpt_neox.layers.1.mlp", "attn": "gpt_neox.layers.1.attention"}[hook]
    metadata = json.loads((context.output / "cfg.json").read_text())["metadata"]
    assert (metadata["hook_name"], metadata["hook_module"]) == (f"blocks.1.{name}", module)
    assert result["hook"] == module
    model = tiny_model()
    vectors = read(model, some_tokens(40, seed=1), [find(model, Hook(hook, 1))])[0][:, 1:].flatten(0, 1)
    reconstructed = load_sae(context.output)(vectors)
    explained = 1 - (reconstructed - vectors).square().sum() / (vectors - vectors.mean(0)).square().sum()
    assert explained.item() == pytest.approx(result["explained_variance"], abs=0.1)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("hook", ["resid", "mlp"])
def test_encoders_are_read_as_causal_models_are(bench: Bench, family: str, hook: str):
    model_of(family).save_pretrained(bench.store.path("models", family))
    (bench.store.path("models", family) / "manifest.json").write_text("{}")
    params, _ = prepared(bench, model=family, hook=hook, lr=0.01)
    assert params.width == 4 * 16
    context = bench.context()
    result = train.run(params, context)
    assert result["explained_variance"] > result["random_explained_variance"]
    name = {"resid": "hook_normalized_resid_post", "mlp": "hook_mlp_out"}[hook]
    assert json.loads((context.output / "cfg.json").read_text())["metadata"]["hook_name"] == f"blocks.1.{name}"


def test_a_model_that_reads_two_texts_is_refused(bench: Bench):
    folder = bench.store.path("models", "tiny")
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": VOCABULARY}
    AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", **sizes)).save_pretrained(folder)
    with pytest.raises(UserError, match="tiny has an encoder and a decoder"):
        load_model("tiny", bench.store)


@pytest.mark.parametrize("skip_bos", [True, False])
def test_the_sae_says_which_tokens_it_was_not_trained_on(bench: Bench, skip_bos: bool):
    bench.add_tokens("marked", rows=200, bos_id=3, pad_id=4)
    params, _ = prepared(bench, dataset="marked", skip_bos=skip_bos)
    context = bench.context()
    train.run(params, context)
    metadata = json.loads((context.output / "cfg.json").read_text())["metadata"]
    result = (metadata["exclude_special_tokens"], metadata["seqpos_slice"])
    assert result == (([3, 4], [1, None]) if skip_bos else ([4], [None])), "padding is left out always"


TRANSCODER = {"hook": "mlp-in", "target": "mlp"}


@pytest.mark.parametrize("arch", names())
@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
def test_a_transcoder_learns_what_the_mlp_writes(bench: Bench, arch: str, skip: bool):
    k = 4 if "k" in {spec.name for spec in dataclasses.fields(coder_class(arch).Options)} else None
    params, _ = prepared(bench, arch=arch, k=k, lr=0.01, skip=skip, steps=60, **TRANSCODER)
    context = bench.context()
    result = train.run(params, context)
    outcome = json.loads((context.output / "cfg.json").read_text())["metadata"]
    assert (outcome["hook_name"], outcome["hook_name_out"]) == ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    assert (outcome["hook_module"], outcome["hook_module_out"]) == ("gpt_neox.layers.1.mlp", "gpt_neox.layers.1.mlp")
    sae, model = load_sae(context.output), tiny_model()
    wired = [find(model, Hook(site, 1)) for site in ("mlp-in", "mlp")]
    x, target = (found.flatten(0, 1) for found in read(model, some_tokens(40, seed=1), wired))
    left = float((sae(x) - target).square().sum() / (target - target.mean(0)).square().sum())
    assert 1 - left == pytest.approx(result["explained_variance"], abs=0.15)
    assert left < 0.9


@pytest.mark.parametrize("choice", [{"arch": "standard", "l1": 0.1, "k": None}, {"arch": "batchtopk"}])
def test_a_crosscoder_reads_and_writes_several_layers(bench: Bench, choice: dict):
    params, _ = prepared(bench, lr=0.01, layer=None, crosscode="0,2", **choice)
    assert train.default_name(params).startswith("tiny-l0.2-")
    context = bench.context()
    result = train.run(params, context)
    outcome = json.loads((context.output / "cfg.json").read_text())
    assert (result["d_in"], result["d_sae"], outcome["blocks"]) == (32, 64, 2)
    assert outcome["metadata"]["hook_names"] == ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"]
    model = tiny_model()
    points = [find(model, Hook("resid", layer)) for layer in (0, 2)]
    x = torch.cat(read(model, some_tokens(40, seed=1), points), -1).flatten(0, 1)
    lengths = [part.norm(dim=1).mean().item() for part in x.split(16, dim=1)]
    assert lengths[1] != pytest.approx(lengths[0], rel=0.05), "layers have lengths of their own"
    assert [scale * length for scale, length in zip(outcome["metadata"]["activation_scale"], lengths, strict=True)] == [
        pytest.approx(4, rel=0.1)
    ] * 2
    left = (load_sae(context.output)(x) - x).square().sum() / (x - x.mean(0)).square().sum()
    assert left < 0.9


def test_a_stopped_training_resumes_and_ends_as_if_it_had_not_been_stopped(bench: Bench):
    params, _ = prepared(bench)
    whole = bench.context("whole")
    uninterrupted = train.run(params, whole)
    with pytest.raises(Stopped):
        train.run(params, bench.context("parts", stop=lambda done: done >= 11 * 256))
    again = bench.context("parts", attempt=2)
    resumed = train.run(params, again)
    assert again.said[1][1] > 0, "it did not start from scratch"
    assert (whole.noted, again.noted) == ([], ["resumes from step 12"])
    assert (uninterrupted["steps_in_last_attempt"], resumed["steps_in_last_attempt"]) == (30, 18)
    for changing in ("tokens_per_s", "gemm_share", "gemm_peak_gflops", "steps_in_last_attempt"):
        uninterrupted.pop(changing), resumed.pop(changing)
    assert resumed == uninterrupted
    for name in ("sae_weights.safetensors", "sparsity.safetensors", "metrics.jsonl", "cfg.json"):
        assert (again.output / name).read_bytes() == (whole.output / name).read_bytes(), name


def test_a_checkpoint_of_other_settings_is_reported_and_not_used(bench: Bench):
    params, _ = prepared(bench)
    train.run(params, bench.context("whole"))
    with pytest.raises(Stopped):
        train.run(dataclasses.replace(params, lr=0.5), bench.context("parts", stop=lambda done: done >= 11 * 256))
    again = bench.context("parts", attempt=2)
    assert train.resume_point(again.workdir) == "step 12"
    result = train.run(params, again)
    assert again.noted == ["starts from scratch: the checkpoint at step 12 was made with other settings"]
    assert (result["steps"], result["steps_in_last_attempt"]) == (30, 30)
    for name in ("sae_weights.safetensors", "metrics.jsonl"):
        whole = left_by(bench.store, "whole") / "output" / name
        assert (again.output / name).read_bytes() == whole.read_bytes(), name


def test_an_attempt_after_the_last_step_only_measures(bench: Bench):
    params, _ = prepared(bench)
    first = train.run(params, bench.context())
    second = train.run(params, bench.context(attempt=2))
    assert second["tokens_per_s"] is None
    assert second["explained_variance"] == first["explained_variance"]


def test_the_name_contains_model_layer_and_sparsity(bench: Bench):
    def name(**values) -> str:
        values = {name: value for name, value in {**SHORT, **values}.items() if value is not None}
        return train.default_name(train.KIND.read_params(values))

    assert name() == "tiny-l1-topk-k4"
    assert name(hook="attn") == "tiny-l1-attn-topk-k4"
    assert name(arch="standard", k=None, l1=0.25) == "tiny-l1-standard-l1-0.25"
    assert name(model="EleutherAI/pythia-70m", layer=3) == "EleutherAI--pythia-70m-l3-topk-k4"
    folder = name(model=str(bench.store.path("models", "tiny")))
    assert folder.startswith("tiny-")
    assert folder.endswith("-l1-topk-k4")
    assert folder != name()
    assert name(arch="standard", k=None, l1=1e20) == "tiny-l1-standard-l1-1e-20"


def test_the_four_flags_of_the_readme_are_enough():
    params = train.KIND.read_params({"model": "m", "dataset": "d", "layer": 6, "arch": "topk", "k": 32})
    assert (params.batch, params.expansion, params.width, params.steps) == (4096, 8, None, None)


def test_tokens_are_used_as_they_are_and_datasets_are_tokenized_first(bench: Bench, tmp_path):
    bench.add("datasets", "books")
    params, requests = prepared(bench, dataset="books")
    values = {"dataset": "books", "model": "tiny", "context": 64}
    assert requests == [Request("tokenize", params.dataset, values)]
    assert params.dataset == kind_named("tokenize").default_name(kind_named("tokenize").read_params(values))

    text = tmp_path / "book.txt"
    text.write_text("It was a dark night.")
    params, requests = prepared(bench, dataset=str(text))
    assert [request.kind for request in requests] == ["download", "tokenize"]
    assert requests[0].params == {"source": str(text)}
    assert requests[1].params["dataset"] == requests[0].name
    assert requests[1].name == params.dataset

    params, requests = prepared(bench, dataset="owner/corpus")
    assert requests[0].params == {"source": "owner/corpus"}


def test_what_is_on_its_way_need_not_be_there(bench: Bench):
    known = Catalog(bench.store, {"models/new", "tokens/packed"})
    params, requests = prepared(bench, known=known, model="new", dataset="packed", layer=50)
    assert (params.model, params.dataset, params.width, requests) == ("new", "packed", None, [])


def test_a_job_says_what_was_trained_with_every_default(bench: Bench):
    params, _ = prepared(bench, arch="jumprelu", k=None, penalty="tanh")
    assert (params.penalty, params.l0, params.bandwidth, params.k) == ("tanh", 1.0, 0.1, None)


def test_a_folder_is_remembered_by_its_whole_path(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(bench.store.root / "models")
    params, _ = prepared(bench, model="./tiny")
    assert params.model == str(bench.store.root / "models/tiny")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"layer": 3}, "tiny has no layer 3: its layers are 0 to 2"),
        ({"layer": -1}, "--layer must be at least 0"),
        ({"arch": "gate"}, "--arch 'gate' is not one of: batchtopk, gated"),
        ({"l1": 2.0}, "--l1 is no option of a topk SAE. It has: --aux, --k"),
        ({"arch": "batchtopk", "k": 65}, "--k 65 is more than the 64 features"),
        ({"k": 65}, "--k 65 is more than the 64 features"),
        ({"width": 3, "expansion": 8}, "--k 4 is more than the 3 features"),
        ({"model": "tinny"}, "'tinny' is not a model: tried the store"),
        ({"model": "/no/such/model"}, "is not a model: tried the store"),
        ({"dataset": "wards"}, "'wards' is no dataset in the store, no file or folder here"),
        ({"dataset": "../words"}, "no dataset in the store"),
        ({"arch": "jumprelu", "k": None, "target_l0": 16.0}, "--target-l0 does nothing with --penalty step"),
        ({"arch": "jumprelu", "k": None, "tanh_scale": 2.0}, "--tanh-scale does nothing with --penalty step"),
        ({"sparsity_warmup": 0.5}, "makes topk sparse: --sparsity-warmup does nothing"),
        ({"width": 40, "expansion": 3}, "The SAE has 40 features: --expansion does nothing"),
        ({"patience": 4, "evaluate": 4}, "--patience 4 ends nothing that is measured 4 times"),
        ({"patience": 1, "evaluate": 0}, "--patience 1 ends nothing that is measured 0 times"),
        ({"skip": True}, "Only a transcoder has something to skip past"),
        ({"target": "resid"}, "writes something else than it reads"),
        ({"target_layer": 2}, "Only a transcoder has another layer"),
        ({"target": "mlp", "target_layer": 9}, "has no layer 9"),
        ({"crosscode": "0,2"}, "A crosscoder's layers are those of --crosscode"),
        ({"layer": None, "crosscode": "2"}, "'2' are no layers of a crosscoder"),
        ({"layer": None, "crosscode": "0,9"}, "has no layer 9"),
        ({"layer": None, "crosscode": "0,2", "target": "mlp"}, "writes the layers that it reads"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"hook": "norm"}, "--hook 'norm' is not one of: resid, mlp, attn"),
        ({"depth": 1}, "no parameter 'depth'"),
    ],
)
def test_a_bad_request_is_refused_with_a_sentence(bench: Bench, values: dict, sentence: str):
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        prepared(bench, **values)


def test_too_little_to_measure_on_is_refused(tmp_path: Path):
    model, hook = tiny_model(), Hook("resid", 0)
    vectors = ModelVectors(model, some_tokens(12)[:, :2], [find(model, hook)], Mask(first=True))
    with pytest.raises(UserError, match="too few tokens to hold some out"):
        Reading(vectors, [hook], batch=4, seed=0, on_read=lambda: None, spill=tmp_path)
    same = torch.ones(5, 16)
    with pytest.raises(UserError, match="are the same: nothing can be measured on them"):
        measure(build(shaped("topk", 16, 24, k=3)), same)


@pytest.mark.parametrize("steps", [100, 97, 7])
@pytest.mark.parametrize("resample", [1, 3, 4, 8, 20])
def test_a_feature_that_never_fires_is_resampled_each_time(steps: int, resample: int):
    params = train.Params(batch=64, resample=resample)
    plan = TrainConfig(shaped("standard", 16, 24), steps, resample=resample, dead_after=dead_after(steps, params))
    draws = [step for step in range(steps) if plan.resamples_at(step)]
    quiet = [64 * (after - before) for before, after in pairwise([0, *draws])]
    assert all(since >= plan.dead_after for since in quiet if since)
    assert plan.dead_after <= 64 * steps // 8


def test_tokens_of_another_vocabulary_are_refused(bench: Bench):
    with TokenWriter(bench.add("tokens", "foreign"), CONTEXT, VOCABULARY + 1) as writer:
        writer.append([[VOCABULARY] * CONTEXT] * 4)
    with pytest.raises(UserError, match="tokens/foreign contain ids up to 97, but tiny has 97 tokens"):
        prepared(bench, dataset="foreign")
    with pytest.raises(UserError, match="ids up to 97"):
        train.run(train.KIND.read_params({**SHORT, "dataset": "foreign"}), bench.context())


def test_a_vocabulary_with_an_added_token_that_no_text_contains_fits(bench: Bench):
    bench.add_tokens("padded", rows=4, vocabulary=VOCABULARY + 1)
    params, _ = prepared(bench, dataset="padded")
    assert params.dataset == "padded"


def test_what_only_the_run_can_know_ends_in_a_sentence_too(bench: Bench):
    with pytest.raises(UserError, match="no layer 7"):
        train.run(train.KIND.read_params({**SHORT, "layer": 7}), bench.context())
    bench.add_tokens("single", rows=1)
    with pytest.raises(UserError, match="only one row of tokens"):
        train.run(train.KIND.read_params({**SHORT, "dataset": "single"}), bench.context())
    with pytest.raises(UserError, match="--k 4 is more than the 2 features"):
        train.run(train.KIND.read_params({**SHORT, "width": 2}), bench.context())


def test_pickled_weights_are_not_read(bench: Bench):
    folder = bench.store.path("models", "tiny")
    torch.save(tiny_model().state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"no weights as safetensors, the only format read here, but pytorch_model\.bin"
    ):
        load_model("tiny", bench.store)
