"""`cfg.json` says where model and text are, and what loads the model; an export names hooks as SAELens finds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.activations.hooks import HookPoint
from tasks.sae.formats.exporting import SAE_LENS, for_sae_lens, write_as
from tasks.sae.formats.model_card import card
from tasks.sae.formats.native import read_config, save_sae
from tasks.sae.importing.convert import take
from tasks.sae.importing.sae_lens import own_hooks
from tasks.train_job.provenance import of_model, of_text
from tests.fixtures.bench import Bench
from tests.sae.test_formats import SCALE, trained
from tests.train_job.test_train import prepared, train

POINT = HookPoint("blocks.1.hook_mlp_out", "model.layers.1.post_feedforward_layernorm")


@pytest.mark.parametrize(
    ("model", "source", "loader"),
    [
        ("EleutherAI/pythia-70m", "hub", "HookedTransformer"),
        ("owner/a-new-model", "hub", "AutoModelForCausalLM"),
        ("/data/models/mine", "local", "AutoModelForCausalLM"),
        ("tiny", "store", "AutoModelForCausalLM"),
    ],
)
def test_a_model_is_said_with_where_it_is_and_what_loads_it(model: str, source: str, loader: str):
    found = of_model(model, [POINT], [])
    assert (found["model_name"], found["model_source"], found["model_class_name"]) == (model, source, loader)
    assert found["hf_hook_name"] == POINT.module


def test_a_revision_is_said_beside_the_name_that_saelens_loads():
    found = of_model("EleutherAI/pythia-70m@step3000", [POINT], [])
    assert (found["model_name"], found["model_revision"]) == ("EleutherAI/pythia-70m", "step3000")
    assert (found["model_source"], found["model_class_name"]) == ("hub", "HookedTransformer")


def test_a_model_of_the_store_is_one_whatever_the_hub_calls_its_own(bench: Bench):
    assert of_model("gpt2", [POINT], [])["model_source"] == "hub"
    put(bench, "models", "gpt2", {}, {})
    assert of_model("gpt2", [POINT], [], bench.store)["model_source"] == "store"
    of_revision = of_model("gpt2@main", [POINT], [], bench.store)
    assert (of_revision["model_source"], of_revision["model_class_name"]) == ("hub", "HookedTransformer")


def test_what_a_module_is_given_has_no_name_among_transformers_hooks():
    read = HookPoint("blocks.1.mlp.hook_in", "model.layers.1.mlp", input=True)
    found = of_model("tiny", [read], [POINT])
    assert "hf_hook_name" not in found
    assert found["hf_hook_name_out"] == POINT.module


def put(bench: Bench, family: str, name: str, params: dict[str, Any], made_from: dict[str, str]) -> None:
    folder = bench.store.path(family, name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"name": name, "params": params, "made_from": made_from}))


@pytest.mark.parametrize(("source", "kind"), [("owner/books", "hub"), ("/data/books.jsonl", "local")])
def test_a_text_is_said_by_where_it_was_read_from(bench: Bench, source: str, kind: str):
    put(bench, "datasets", "books", {"source": source, "split": "train", "config": None, "column": "text"}, {})
    put(bench, "tokens", "packed", {"context": 16}, {"dataset": "datasets/books"})
    read = {"split": "train", "column": "text"}
    assert of_text(bench.store, "packed") == {
        "dataset_path": source,
        "dataset_source": {"kind": kind, "tokens": "packed", **read},
    }
    assert of_text(bench.store, "unknown")["dataset_source"] == {"kind": "store", "tokens": "unknown"}


def test_a_trained_sae_says_them_and_its_export_is_what_saelens_finds(bench: Bench):
    put(bench, "datasets", "books", {"source": "owner/books"}, {})
    put(bench, "tokens", "words", {}, {"dataset": "datasets/books"})
    params, _ = prepared(bench, hook="mlp")
    context = bench.context("mine")
    train.run(params, context)
    bench.store.seal(context.output, {"name": "mine"})
    sae = bench.store.publish(context.output, "saes", "mine")
    about = read_config(sae)["metadata"]
    assert (about["model_name"], about["model_source"]) == ("tiny", "store")
    assert about["model_class_name"] == "AutoModelForCausalLM"
    assert (about["hook_name"], about["hf_hook_name"]) == ("blocks.1.hook_mlp_out", "gpt_neox.layers.1.mlp")
    assert (about["dataset_path"], about["dataset_source"]["kind"]) == ("owner/books", "hub")
    write_as(SAE_LENS, sae, bench.root / "exported")
    result = read_config(bench.root / "exported")["metadata"]
    assert result["hook_name"] == "gpt_neox.layers.1.mlp"
    assert (result["model_name"], result["model_source"]) == (str(bench.store.path("models", "tiny")), "local")
    take(bench.root / "exported", bench.root / "back", "somewhere", {})
    back = read_config(bench.root / "back")["metadata"]
    assert (back["hook_name"], back["hook_module"]) == ("blocks.1.hook_mlp_out", "gpt_neox.layers.1.mlp")


def test_hooks_that_transformer_lens_has_keep_its_names():
    about = {"model_class_name": "HookedTransformer", "hook_name": "blocks.1.hook_mlp_out", "hf_hook_name": "h.1.mlp"}
    assert for_sae_lens(about) == about


def test_a_hook_of_no_module_that_is_known_by_its_path_comes_back_too(tmp_path: Path):
    about = {**of_model("owner/gemma", [POINT], []), "hook_name": POINT.name, "hook_module": POINT.module}
    result = for_sae_lens(about)
    assert result["hook_name"] == POINT.module
    back, _ = own_hooks(result)
    assert back == about


def test_the_card_says_hook_positions_and_that_a_model_is_local():
    about = {
        "model_name": "mine",
        "model_source": "local",
        "hook_name": "model.layers.1.mlp",
        "transformer_lens_hook_name": "blocks.1.hook_mlp_out",
        "hf_hook_name": "model.layers.1.mlp",
        "seqpos_slice": [5, None],
        "prepend_bos": True,
    }
    text = card({"name": "s"}, {"architecture": "topk", "d_in": 4, "d_sae": 8, "metadata": about}, "o/n", "s")
    for line in (
        "A sparse autoencoder on `blocks.1.hook_mlp_out` of `mine`",
        "| where the model is | `a folder on the machine that trained it` |",
        "| hook in transformers | `model.layers.1.mlp` |",
        "| positions | `those of the slice [5, None]` |",
        "| rows begin with | `BOS` |",
    ):
        assert line in text


def test_a_models_revision_is_an_argument_for_saelens_and_comes_back(bench: Bench):
    about = {**of_model("owner/gemma@step3", [POINT], []), "hook_name": POINT.name}
    exported = for_sae_lens(about)
    assert (exported["model_name"], exported["model_from_pretrained_kwargs"]) == ("owner/gemma", {"revision": "step3"})
    del exported["model_revision"]  # SAELens' own SAEs have the argument alone
    save_sae(bench.root / "theirs", trained("topk"), SCALE, exported)
    take(bench.root / "theirs", bench.root / "ours", "somewhere", {})
    back = read_config(bench.root / "ours")["metadata"]
    assert (back["model_name"], back["model_revision"]) == ("owner/gemma", "step3")
    assert back["model_from_pretrained_kwargs"] == {}
