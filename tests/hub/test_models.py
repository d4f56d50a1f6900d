"""The real Hub client against a loopback server: a model is read at the revision that was asked for, and no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.storage.store import Store
from tests.conftest import PATIENCE_S
from tests.fixtures.bench import Bench, tiny_model
from tests.fixtures.work_folders import left_by
from tests.hub.models import Repo, as_files, serve_models

_RUN = """
import json, sys
from pathlib import Path
from tests.fixtures.job_home import Home
from tasks.errors import UserError
from tasks.storage.store import Store
root, *jobs = sys.argv[1:]
home = Home(Path(root) / "home", Store(Path(root) / "store"))
for job in jobs:
    kind, name, values = json.loads(job)
    try:
        print(json.dumps(home.run(kind, name, **values)))
    except UserError as problem:
        print(problem)
"""
TRAINING = {"steps": 3, "batch": 64, "k": 4, "width": 32, "evaluate": 0}


@dataclass
class HubBench:
    """A home with tokens whose jobs ask a Hub of its own."""

    root: Path
    address: str
    repos: dict[str, Repo]

    def commit(self, repo: str, layers: int = 3, ref: str = "main") -> str:
        """Commit a tiny model of `layers` layers; returns the commit's id."""
        folder = self.root / f"{repo.replace('/', '-')}-{layers}-{ref}"
        tiny_model(layers=layers).save_pretrained(folder)
        return self.repos.setdefault(repo, Repo()).commit(as_files(folder), ref)

    def run(self, *jobs: tuple[str, str, dict[str, Any]]) -> list[str]:
        """What the jobs answer, one after another, in a process of their own: the client reads its settings once."""
        settings = {"HF_ENDPOINT": self.address, "HF_HOME": str(self.root / "cache"), "HF_HUB_DISABLE_XET": "1"}
        settings |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", _RUN, str(self.root), *map(json.dumps, jobs)]
        done = subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, timeout=2 * PATIENCE_S
        )
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if line]

    def ask(self, *models: str) -> list[str]:
        """What `activations` jobs on those models answer."""
        values = {"dataset": "words", "layer": 1, "max_tokens": 100}
        jobs = [("activations", f"a{place}", {"model": model, **values}) for place, model in enumerate(models)]
        return self.run(*jobs)

    def commits(self, *models: str) -> list[str]:
        """The commits that such jobs have recorded."""
        return [json.loads(answer)["model_commit"] for answer in self.ask(*models)]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubBench]:
    Bench(tmp_path, Store(tmp_path / "store")).add_tokens("words", rows=40)
    with serve_models({"gpt2": "openai-community/gpt2"}) as (address, repos):
        yield HubBench(tmp_path, address, repos)


def test_a_branch_a_tag_and_a_commit_are_read_and_the_commit_is_recorded(hub: HubBench):
    first = hub.commit("owner/name", layers=3)
    other = hub.commit("owner/name", layers=2, ref="v2.0")
    request = hub.commit("owner/name", layers=4, ref="refs/pr/1")
    oldest = hub.commit("openai-community/gpt2")
    expected = {
        "owner/name": first,
        "owner/name@main": first,
        f"owner/name@{first}": first,
        f"owner/name@{first[:8]}": first,
        "owner/name@v2.0": other,
        "owner/name@refs/pr/1": request,
        "gpt2": oldest,
    }
    assert dict(zip(expected, hub.commits(*expected), strict=True)) == expected


def test_features_are_read_with_the_weights_that_the_sae_was_trained_on(hub: HubBench):
    text = hub.root / "text.jsonl"
    text.write_text("".join(json.dumps({"text": "a b a b b a"}) + "\n" for _ in range(200)))
    some_tokenizer(hub.root / "tokenizer")
    words = hub.repos.setdefault("owner/words", Repo()).commit(as_files(hub.root / "tokenizer"))
    before = hub.commit("owner/name")
    answers = hub.run(
        ("tokenize", "t", {"dataset": str(text), "model": "owner/words@main", "context": 8}),
        ("train", "s", {"model": "owner/name", "dataset": "t", "layer": 1, **TRAINING}),
    )
    assert [json.loads(answer)["model_commit"] for answer in answers] == [words, before]
    after = hub.commit("owner/name", layers=4)
    answers = hub.run(
        ("extract", "f", {"sae": "s", "tokens": "t"}),
        ("activations", "a", {"model": "owner/name", "dataset": "t", "layer": 1}),
        ("train", "from-a", {"activations": "a", **TRAINING}),
    )
    assert [json.loads(answer)["model_commit"] for answer in answers] == [before, after, after]


def test_a_later_attempt_reads_the_commit_of_the_first_one(tmp_path: Path, hub: HubBench):
    from tasks.models.model_commit import pinned

    (tmp_path / "model-commit.txt").write_text("0123456789" * 4)
    for reference in ("owner/name", "owner/name@main"):
        assert pinned(reference, tmp_path) == f"owner/name@{'0123456789' * 4}"
    assert pinned("/a/folder", tmp_path) == "/a/folder"
    first = hub.commit("owner/name")
    assert hub.commits("owner/name") == [first]
    assert (left_by(Store(tmp_path / "store"), "job-a0") / "model-commit.txt").read_text() == first


def test_what_the_hub_refuses_is_one_sentence(hub: HubBench):
    hub.commit("owner/name")
    hub.repos["owner/gated"] = Repo(gated=True)
    hub.repos["owner/gated"].commit({"config.json": b"{}", "model.safetensors": b""})
    hub.repos["owner/pickled"] = Repo()
    hub.repos["owner/pickled"].commit({"config.json": b'{"model_type": "gpt2"}', "pytorch_model.bin": b"\x80"})
    hub.repos["owner/broken"] = Repo()
    hub.repos["owner/broken"].commit({"config.json": b"[]"})
    result = {
        "owner/name@nowhere": "The Hub's owner/name has no revision nowhere.",
        "owner/nothing": "The Hub has no model owner/nothing",
        "owner/gated": "The model owner/gated is gated",
        "owner/pickled": "owner/pickled has no weights as safetensors",
        "owner/broken": "The config.json of model 'owner/broken' cannot be read: a JSON object was expected",
    }
    for answer, sentence in zip(hub.ask(*result), result.values(), strict=True):
        assert answer.startswith(sentence)


def some_tokenizer(folder: Path) -> None:
    """Save a tokenizer of two words, as a model of the Hub has one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "a": 2, "b": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
