"""`mistudio saes`: what the store holds, out as files of another library and in again, by a real worker."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mistudio_cli.errors import Code
from mistudio_cli.views import sae_tables
from tasks.jobs.kind import kind_named
from tasks.sae.architectures import build
from tasks.sae.architectures.topk import TopK
from tasks.sae.coder import CoderConfig
from tasks.sae.formats.native import Scales, load_sae, save_sae
from tasks.storage.store import Store
from tests.cli.conftest import Cli
from tests.cli.test_json_contract import DOCUMENT, EXAMPLES, differences
from tests.fixtures.work_folders import next_attempt

ABOUT = {"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post", "hook_layer": 1}
DENSITIES = {"never": 12, "log10_edges": [-7 + n / 2 for n in range(15)], "counts": [0] * 8 + [4, 0, 24, 8, 0, 0]}
RESULT = {
    "l0": 4.0,
    "explained_variance": 0.8125,
    "dead_fraction": 0.25,
    "density_histogram": DENSITIES,
    "telling": ["a", "b"],
}


PLAIN = CoderConfig("topk", 16, 48, TopK.Options(k=4))


def add_sae(home: Path, name: str, config: CoderConfig = PLAIN, about: dict[str, Any] = ABOUT) -> Path:
    """A trained SAE's artifact, as a worker would have published it."""
    store = Store(home / "store")
    output = next_attempt(store, f"job-{name}") / "output"
    halves = (0.5,) * config.blocks
    save_sae(output, build(config, seed=2), Scales(halves, halves), about)
    result = {
        "job": "0123456789ab",
        "name": name,
        "kind": "train",
        "created_at": "2026-01-31T12:00:00+00:00",
        "params": {"layer": 1, "k": 4, "l1": None},
        "made_from": {"model": "models/tiny", "dataset": "tokens/words"},
        "result": {**RESULT, "d_in": config.d_in, "d_sae": config.d_sae, "hook": "gpt_neox.layers.1"},
    }
    store.seal(output, result)
    return store.publish(output, "saes", name)


@pytest.mark.parametrize("key", ["never", "counts", "log10_edges"])
@pytest.mark.parametrize("value", [None, "x", -1e308, [1e308], [-5] * 14, [-5, 0] * 7, [True], 1e999, {"a": 1}])
def test_an_odd_histogram_of_densities_hides_nothing_else(key: str, value: object) -> None:
    result = {"density_histogram": {**DENSITIES, key: value}, "l0": 4.0}
    shown = {"made_from": {}, "params": {}, "files": {}, "hooks": [], "hook_out": None, "result": result}
    nothing = dict.fromkeys(("name", "path", *sae_tables._SHAPE, "kind", "job", "created_at"))
    assert ["l0", "4"] in sae_tables.facts({**nothing, **shown})[1]


@pytest.mark.parametrize(
    ("kind", "flag"), [("train", "--batch-size"), ("of another version", "--batch"), ([], "--batch")]
)
def test_parameters_of_an_sae_are_labeled_with_the_flags_of_its_kind(kind: object, flag: str) -> None:
    shown = {"made_from": {}, "params": {"batch": 512}, "files": {}, "hooks": [], "hook_out": None, "result": {}}
    nothing = dict.fromkeys(("name", "path", *sae_tables._SHAPE, "job", "created_at"))
    assert [flag, "512"] in sae_tables.facts({**nothing, **shown, "kind": kind})[1]


def test_the_saes_of_the_store_are_listed_and_shown_as_documented(cli: Cli) -> None:
    assert cli("saes", "ls", "--json").json == {"saes": [], "errors": []}
    assert "mistudio submit train --help" in cli("saes", "ls").err
    folder = add_sae(cli.home, "mine")
    listed = cli("saes", "ls", "--json").json
    assert not list(differences(EXAMPLES["mistudio saes ls --json"], listed))
    line = listed["saes"][0]
    assert (line["name"], line["d_sae"], line["hook"], line["l0"]) == ("mine", 48, "blocks.1.hook_resid_post", 4.0)
    assert line["created_at"] == "2026-01-31T12:00:00.000Z"
    assert re.search(
        r"^mine +topk +tiny +blocks\.1\.hook_resid_post +48 +4 +0\.812 +0\.250$", cli("saes", "ls").out, re.M
    )

    shown = cli("saes", "show", "mine", "--json").json
    documented = json.loads(re.search(r"^## What `saes show --json`.*?```json\n(.*?)```", DOCUMENT, re.M | re.S)[1])
    assert not list(differences({**documented, "files": {}, "made_from": {}}, {**shown, "files": {}, "made_from": {}}))
    assert (shown["path"], shown["made_from"]["dataset"]) == (str(folder), "tokens/words")
    text = cli("saes", "show", "mine").out
    assert re.search(r"^made from dataset +tokens/words$", text, re.M)
    assert re.search(r"^--k +4$", text, re.M)
    assert re.search(r"^feature density +1e-3 ▂ █▃ 1e-1, 12 of 48 never fired$", text, re.M)
    gone = cli("saes", "show", "yours")
    assert (gone.code != 0, gone.err.splitlines()) == (
        True,
        ["The store has no saes/yours.", "  There are: mine"],
    )


def test_an_sae_that_was_trained_before_is_listed_by_its_names_and_a_mean_is_shown_with_its_error(cli: Cli) -> None:
    folder = add_sae(cli.home, "old")
    manifest = json.loads((folder / "manifest.json").read_text())
    old = {**manifest["result"], "dead_share": 0.125, "loss": 3.5, "standard_errors": {"l0": 0.0123}}
    del old["dead_fraction"]
    (folder / "manifest.json").write_text(json.dumps({**manifest, "result": old}))
    (line,) = cli("saes", "ls", "--json").json["saes"]
    assert (line["dead_fraction"], line["dead_share"]) == (0.125, 0.125)
    assert re.search(r"^old .* 0\.125$", cli("saes", "ls").out, re.M)
    shown = cli("saes", "show", "old").out
    assert re.search(r"^l0 +4 ± 0\.012$", shown, re.M)
    assert re.search(r"^loss +3\.5$", shown, re.M)


def test_a_transcoder_and_a_crosscoder_show_what_they_read_and_write(cli: Cli) -> None:
    past = {"hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    add_sae(cli.home, "past", replace(PLAIN, d_out=12, skip=True), ABOUT | past)
    layers = [f"blocks.{layer}.hook_resid_post" for layer in (0, 1)]
    add_sae(cli.home, "across", replace(PLAIN, d_in=32, blocks=2), ABOUT | {"hook_names": layers})
    result = {line["name"]: line for line in cli("saes", "ls", "--json").json["saes"]}
    assert (result["past"]["hook_out"], result["past"]["d_out"]) == ("blocks.1.hook_mlp_out", 12)
    assert (result["across"]["hooks"], result["across"]["hook_out"], result["across"]["d_out"]) == (layers, None, 32)
    read_and_written = r"blocks\.1\.mlp\.hook_in -> blocks\.1\.hook_mlp_out"
    listed = cli("saes", "ls").out
    assert re.search(rf"^past +topk skip transcoder +tiny +{read_and_written} +48 ", listed, re.M)
    assert re.search(r"^across +topk crosscoder +tiny +blocks\.0,1\.hook_resid_post +48 ", listed, re.M)
    shown = cli("saes", "show", "past").out
    assert re.findall(r"^(hook|d_in|d_sae|d_out) +(.*)", shown, re.M) == [
        ("hook", "blocks.1.mlp.hook_in -> blocks.1.hook_mlp_out"),
        ("d_in", "16"),
        ("d_out", "12"),
        ("d_sae", "48"),
    ], "each is shown once"
    assert re.search(r"^hook +blocks\.0,1\.hook_resid_post$", cli("saes", "show", "across").out, re.M)


def test_an_sae_goes_out_and_comes_in_again(world: Cli) -> None:
    folder = add_sae(world.home, "out-and-in")
    out = world("saes", "export", "out-and-in", "layers.1", "--to", "sparsify", "--wait")
    assert out.code == 0, out.err
    assert sorted(path.name for path in (world.home / "layers.1").iterdir()) == ["cfg.json", "sae.safetensors"]
    back = world("saes", "import", "layers.1", "--name", "back", "--model", "gpt2/tiny", "--wait")
    assert back.code == 0, back.err
    x = torch.randn(20, 16)
    assert torch.equal(load_sae(world.home / "store/saes/back").encode(x), load_sae(folder).encode(x))
    result = world("saes", "show", "back", "--json").json
    assert (result["kind"], result["hook"], result["model"]) == ("import", "blocks.1.hook_resid_post", "gpt2/tiny")
    again = world("saes", "export", "out-and-in", "layers.1")
    assert "layers.1 is there already." in again.err


def test_one_folder_is_not_asked_for_in_two_forms(cli: Cli) -> None:
    add_sae(cli.home, "mine")
    result = cli("saes", "export", "mine", "out", "--to", "sae-lens,sparsify")
    assert result.err.startswith("--to 'sae-lens,sparsify' is not one of: sae-lens, dictionary-learning, sparsify.")
    assert (result.code, cli.ledger.page().jobs) == (Code.USAGE, ())
    assert re.search(r"--to +sae-lens\|dictionary-learning\|sparsify$", cli("saes", "export", "--help").out, re.M)


@pytest.mark.parametrize("verb", ["import", "export", "push", "pull"])
def test_a_short_form_has_the_flags_of_its_kind(cli: Cli, verb: str) -> None:
    short, long = cli("saes", verb, "--help").out, cli("submit", verb, "--help").out
    assert short.replace("mistudio saes", "mistudio submit") == long
    assert kind_named(verb).summary in short
