"""The real Hub client against a loopback server: an SAE is pushed with its card, and comes back as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from tasks.errors import UserError
from tasks.sae.architectures import build
from tasks.sae.architectures.topk import TopK
from tasks.sae.coder import CoderConfig
from tasks.sae.formats.model_card import card
from tasks.sae.formats.native import Scales, load_sae, save_density, save_sae
from tests.conftest import PATIENCE_S
from tests.fixtures.job_home import Home
from tests.fixtures.work_folders import next_attempt
from tests.hub.repositories import READER, WRITER, Repos, serve_repos
from tests.hub.server import COMMIT, asked_with

_RUN = """
import json, sys
from pathlib import Path
from tests.fixtures.job_home import Home
from tasks.errors import UserError
from tasks.storage.store import Store
kind, name, root, values = sys.argv[1:]
home = Home(Path(root) / "home", Store(Path(root) / "store"))
try:
    print(json.dumps(home.run(kind, name, **json.loads(values))))
except UserError as problem:
    print(problem)
"""
RESULT = {
    "explained_variance": 0.81234,
    "l0": 31.6,
    "dead_share": 0.0625,
    "pca_explained_variance": 0.5,
    "random_explained_variance": 0.25,
    "held_out_tokens": 4096,
}
ABOUT = {
    "model_name": "EleutherAI/pythia-70m",
    "hook_name": "blocks.3.hook_resid_post",
    "hook_layer": 3,
    "training_tokens": 10_000_000,
    "seqpos_slice": [1, None],
}

_GONE = {"X-Error-Code": "EntryNotFound"}


@pytest.fixture
def hub():
    with serve_repos() as served:
        yield served


def run(home: Home, address: str, kind: str, name: str, token: str | None = WRITER, **values: Any) -> Any:
    """What a job says in a process of its own: the client reads its settings when it is imported."""
    environment = {
        **{key: value for key, value in os.environ.items() if key not in ("HF_TOKEN", "HF_HUB_OFFLINE")},
        "HF_ENDPOINT": address,
        "HF_HOME": str(home.root / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        **({"HF_TOKEN": token} if token else {}),
    }
    command = [sys.executable, "-c", _RUN, kind, name, str(home.root.parent), json.dumps(values)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()[-1]
    return json.loads(said) if said.startswith("{") else said


def add(home: Home, family: str, name: str, kind: str, params: dict[str, Any], made_from: dict[str, str]) -> Path:
    output = next_attempt(home.store, name) / "output"
    if family == "saes":
        save_sae(output, build(CoderConfig("topk", 16, 48, TopK.Options(k=4)), seed=2), Scales((0.5,), (0.5,)), ABOUT)
        save_density(output, torch.linspace(0, 1, 48))
    result = {"job": name, "name": name, "kind": kind, "params": params, "made_from": made_from, "result": RESULT}
    home.store.seal(output, result)
    return home.store.publish(output, family, name)


@pytest.fixture
def mine(home: Home) -> Home:
    """A home with an SAE, the tokens and the dataset it is from."""
    add(home, "datasets", "books", "download", {"source": "owner/books", "limit": None}, {})
    add(home, "tokens", "packed", "tokenize", {"context": 128}, {"dataset": "datasets/books"})
    params = {"model": "/home/me/models/pythia-70m", "layer": 3, "k": 4}
    made_from = {"model": "models//home/me/models/pythia-70m", "dataset": "tokens/packed"}
    add(home, "saes", "mine", "train", params, made_from)
    return home


def test_an_sae_is_pushed_and_comes_back_as_it_was(mine: Home, hub: tuple[str, type[Repos]]):
    address, repos = hub
    result = run(mine, address, "push", "mine", sae="mine", repo="owner/saes", private=True)
    assert result["commit"].startswith(f"{address}/owner/saes/commit/")
    names = ["README.md", "cfg.json", "mistudio.json", "sae_weights.safetensors", "sparsity.safetensors"]
    assert sorted(repos.held["owner/saes"]) == ["README.md", *(f"mine/{name}" for name in names)]
    assert (repos.private, repos.commits) == ({"owner/saes"}, ["Add mine"])

    result = run(mine, address, "pull", "again", token=None, repo="owner/saes")
    assert (result["hook"], result["model"]) == ("blocks.3.hook_resid_post", "EleutherAI/pythia-70m")
    assert result["commit"] == COMMIT
    first, again = mine.store.path("saes", "mine"), mine.store.path("saes", "again")
    for file in ("sae_weights.safetensors", "sparsity.safetensors"):
        assert (again / file).read_bytes() == (first / file).read_bytes()
    x = torch.randn(20, 16)
    assert torch.equal(load_sae(again).encode(x), load_sae(first).encode(x))
    assert json.loads((again / "mistudio.json").read_text())["result"] == RESULT


def test_the_card_has_data_model_metrics_lineage_and_how_to_load(mine: Home, hub: tuple[str, type[Repos]]):
    address, repos = hub
    run(mine, address, "push", "mine", sae="mine", repo="owner/saes")
    card = repos.held["owner/saes"]["README.md"].decode()
    front = card.split("---")[1]
    assert "library_name: saelens" in front
    assert "base_model: EleutherAI/pythia-70m" in front
    assert "datasets:\n- owner/books" in front
    for line in (
        "| hook | `blocks.3.hook_resid_post` |",
        "| this SAE | 0.8123 | 31.6 |",
        "| PCA | 0.5000 | 32 |",
        "6.25% of the features were never active on 4096 held-out tokens.",
        'sae = SAE.from_pretrained("owner/saes", "mine")',
        "mistudio saes pull owner/saes --path mine",
        "| `k` | `4` |",
        "| `datasets/books` | download | source `owner/books` |",
        "| `tokens/packed` | tokenize | context `128` |",
    ):
        assert line in card
    everything = b"".join(repos.held["owner/saes"].values()).decode(errors="replace")
    assert "/home/me" not in everything


@pytest.mark.parametrize("architecture", ["topk_skip_transcoder", "standard_crosscoder"])
def test_a_card_promises_nothing_that_saelens_cannot_do(architecture: str):
    text = card({"name": "mine"}, {"architecture": architecture, "d_in": 4, "d_sae": 8}, "owner/saes", "mine")
    assert f"SAELens has no class for a {architecture}." in text
    assert "sae_lens" not in text
    assert "mistudio saes pull owner/saes --path mine" in text


def test_a_second_sae_joins_the_first_and_one_of_two_must_be_chosen(mine: Home, hub: tuple[str, type[Repos]]):
    address, repos = hub
    add(mine, "saes", "other", "train", {"layer": 4}, {})
    run(mine, address, "push", "mine", sae="mine", repo="owner/saes")
    run(mine, address, "push", "other", sae="other", repo="owner/saes", path="layers/4")
    assert "- [`mine`](./mine)" in repos.held["owner/saes"]["README.md"].decode()
    assert run(mine, address, "pull", "again", repo="owner/saes") == (
        "owner/saes holds 2 SAEs. Choose one with --path: layers/4, mine"
    )
    assert run(mine, address, "import", "again", source="owner/saes", path="layers/4")["form"] == "SAELens"
    assert run(mine, address, "pull", "third", repo="owner/saes", path="layers/5").startswith(
        "owner/saes has no SAE at layers/5. There are: layers/4, mine"
    )
    for file in [file for file in repos.held["owner/saes"] if file.startswith("mine/")]:
        repos.held["owner/saes"][file.removeprefix("mine/")] = repos.held["owner/saes"].pop(file)
    assert run(mine, address, "pull", "third", repo="owner/saes") == (
        "owner/saes holds 2 SAEs. Choose one with --path: ., layers/4"
    )
    assert run(mine, address, "import", "third", source="owner/saes", path=".")["form"] == "SAELens"
    assert run(mine, address, "import", "fourth", source="owner/saes", path="./layers/4/")["form"] == "SAELens"


def test_one_sae_of_gemma_scope_2_comes_without_the_files_beside_it(
    home: Home, hub: tuple[str, type[Repos]], monkeypatch: pytest.MonkeyPatch
):
    (address, repos), given = hub, set()

    def give(self: Repos, held: dict[str, bytes], name: str) -> None:
        given.add(name)
        Repos._give(self, held, name)

    monkeypatch.setattr(repos, "_give", give)
    shapes = {"w_enc": (8, 24), "w_dec": (24, 8), "b_enc": (24,), "b_dec": (8,), "threshold": (24,)}
    params = save({name: torch.rand(shape) for name, shape in shapes.items()})
    point = "model.layers.9.output"
    result = {"hf_hook_point_in": point, "hf_hook_point_out": point, "model_name": "google/gemma-3-4b-it"}
    config = json.dumps({**result, "width": 24, "architecture": "jump_relu", "l0": 60, "type": "sae"}).encode()
    repo, path = "google/gemma-scope-2-4b-it", "resid_post/layer_9_width_16k_l0_medium"
    beside = {"examples.safetensors": params, "config.json": config, "params.safetensors": params}
    others = {f"clt/width_262k_l0_big/params_layer_{layer}.safetensors": params for layer in range(2)}
    repos.held[repo] = {**{f"{path}/{name}": held for name, held in beside.items()}, **others, "README.md": b""}
    found = run(home, address, "import", "g", source=repo, path=path)
    assert (found["form"], found["hook"], found["model"]) == (
        "Gemma Scope 2",
        "blocks.9.hook_resid_post",
        "google/gemma-3-4b-it",
    )
    assert given == {f"{path}/config.json", f"{path}/params.safetensors"}
    assert load_sae(home.store.path("saes", "g")).config.d_sae == 24
    assert run(home, address, "import", "h", source=repo, path="clt/width_262k_l0_big").startswith(
        f"{repo} has no SAE at clt/width_262k_l0_big. There are: {path}"
    )


@pytest.mark.parametrize(
    ("token", "sentence"),
    [(None, "Nothing can be pushed to the Hub without a token."), (READER, "The Hub does not let this token write to")],
)
def test_without_the_right_to_write_it_says_so(mine: Home, hub: tuple[str, type[Repos]], token: str, sentence: str):
    assert run(mine, hub[0], "push", "mine", token=token, sae="mine", repo="owner/saes").startswith(sentence)
    assert not hub[1].held


def test_what_is_not_there_is_one_sentence(mine: Home, hub: tuple[str, type[Repos]]):
    assert run(mine, hub[0], "pull", "x", repo="owner/nothing").startswith("The Hub has no SAE owner/nothing")
    hub[1].held["owner/pickled"] = {"ae.pt": b"", "config.json": b"{}"}
    assert run(mine, hub[0], "pull", "x", repo="owner/pickled").startswith(
        "owner/pickled holds no SAE that can be read"
    )
    with pytest.raises(UserError, match="no saes/yours"):
        mine.run("push", "yours", sae="yours", repo="owner/saes")
    with pytest.raises(UserError, match="cannot be a repository of the Hub"):
        mine.run("pull", "x", repo="./folder")


def test_the_token_goes_in_the_header_and_nowhere_else(mine: Home, hub: tuple[str, type[Repos]]):
    run(mine, hub[0], "push", "mine", sae="mine", repo="owner/saes")
    assert f"Bearer {WRITER}" in asked_with
    kept = [path for path in mine.root.parent.rglob("*") if path.is_file() and "cache" not in path.parts]
    assert kept
    assert not [path for path in kept if WRITER.encode() in path.read_bytes()]


def test_a_broken_sae_on_the_hub_is_refused_and_nothing_of_it_kept(home: Home, hub: tuple[str, type[Repos]]):
    weights = {"W_enc": torch.rand(4, 8), "W_dec": torch.tensor(1.0), "b_enc": torch.rand(8), "b_dec": torch.rand(4)}
    result = {"architecture": "standard", "d_in": 4, "d_sae": 8, "metadata": {}}
    files = {"cfg.json": json.dumps(result).encode(), "sae_weights.safetensors": save(weights)}
    hub[1].held["owner/broken"] = files
    said = run(home, hub[0], "pull", "x", repo="owner/broken")
    assert said.endswith("sae_weights.safetensors: tensor W_dec has shape (), expected (8, 4).")
    files["cfg.json"] = b'{"architecture": NaN}'
    assert "cfg.json: not valid JSON: NaN is no JSON number." in run(home, hub[0], "pull", "y", repo="owner/broken")
    assert home.store.names("saes") == []


def test_a_revision_or_a_file_that_the_hub_does_not_have_is_one_sentence(
    home: Home, hub: tuple[str, type[Repos]], monkeypatch: pytest.MonkeyPatch
):
    address, repos = hub
    files = {"cfg.json": b"{}", "sae_weights.safetensors": b""}
    repos.held["owner/sae"] = files
    serve = repos._serve

    def without(self: Repos) -> None:
        if "/nosuch" in self.path:
            return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        return serve(self)

    monkeypatch.setattr(repos, "_serve", without)
    said = run(home, address, "pull", "x", repo="owner/sae", revision="nosuch")
    assert said == "owner/sae has no revision 'nosuch'. Check --revision: a branch, tag or commit"
    monkeypatch.setattr(repos, "_give", lambda self, held, name: Repos._answer(self, 404, b"", _GONE))
    assert run(home, address, "pull", "x", repo="owner/sae").startswith("A file of owner/sae is gone")
