"""What a job needs first is used where it is there, and only where it is what is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.jobs.kind import kind_named
from tasks.ledger.client import Ledger
from tasks.storage.store import Store, write_json
from tasks.submission.plan import ArtifactCatalog, plan
from tasks.text.dataset_ref import dataset_name

LONG = "a_corpus_whose_name_is_as_long_as_the_name_of_a_corpus_can_become_in_years.txt"


@pytest.fixture
def known(ledger: Ledger, tmp_path: Path, kinds_of_the_tests: None) -> ArtifactCatalog:
    return ArtifactCatalog(ledger, Store(tmp_path / "store"))


def text_file(path: Path) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"the text of {path.parent.name}\n")
    return str(path)


def trained(known: ArtifactCatalog, dataset: str, name: str) -> dict[str, Any]:
    """The parameters of a training planned on that dataset."""
    return plan(known, "train", {"model": "m", "dataset": dataset, "layer": 0}, name=name)[-1].params


def test_corpora_of_the_same_long_name_in_two_folders_are_two_tokenizations(known, tmp_path):
    one, two = (text_file(tmp_path / folder / LONG) for folder in ("one", "two"))
    plan(known, "toy-model", {"dataset": one}, name="m")
    tokens = [trained(known, path, f"sae-{path.split('/')[-2]}")["dataset"] for path in (one, two)]
    assert tokens[0] != tokens[1]
    made = [known.planned[f"tokens/{name}"].params["dataset"] for name in tokens]
    assert made == [dataset_name(one), dataset_name(two)]


@pytest.mark.parametrize("kind", ["tokenize", "activations"])
def test_a_shortened_name_still_distinguishes_datasets_and_models(kind):
    declared, name = kind_named(kind), "x" * 70
    values = {"layer": 3} if kind == "activations" else {"bos": "document"}
    names = {
        declared.default_name(declared.read_params({"dataset": name + data, "model": name + model, **values}))
        for data in ("-a", "-b")
        for model in ("-a", "-b")
    }
    assert len(names) == 4
    assert max(map(len, names)) <= 100


def test_a_name_that_is_short_enough_stays_as_it_is():
    tokenize = kind_named("tokenize")
    params = tokenize.read_params({"dataset": "books-12ab34", "model": "EleutherAI/pythia-70m"})
    assert tokenize.default_name(params) == "books-12ab34-EleutherAI--pythia-70m-128"
    assert dataset_name("owner/" + "n" * 70) == "owner--" + "n" * 70
    assert dataset_name("owner/" + "n" * 90) != dataset_name("owner/" + "n" * 89)


def test_tokens_of_another_dataset_are_refused_though_they_have_the_name(known, tmp_path):
    source = text_file(tmp_path / "a.txt")
    plan(known, "toy-model", {"dataset": source}, name="m")
    name = trained(known, source, "before")["dataset"]
    del known.planned[f"tokens/{name}"]
    plan(known, "tokenize", {"dataset": source, "model": "m", "context": 64}, name=name)
    with pytest.raises(UserError, match=rf"tokens/{name} was made with context-length 64, and is needed with context"):
        trained(known, source, "after")
    assert trained(known, name, "on-purpose")["dataset"] == name


def test_a_dataset_that_was_made_otherwise_is_refused_though_it_has_the_name(known, tmp_path):
    source = text_file(tmp_path / "a.txt")
    folder = known.path("datasets", dataset_name(source))
    folder.mkdir(parents=True)
    write_json(folder / "manifest.json", {"kind": "download", "params": {"source": source, "limit": 3}})
    with pytest.raises(UserError, match=r"was made with limit 3, and is needed without --limit") as refused:
        plan(known, "toy-model", {"dataset": source})
    assert f"Give {folder.name} as the dataset to use it" in (refused.value.hint or "")


def test_what_a_job_made_since_it_was_seen_to_be_pending_is_described_as_it_was(known):
    folder = known.path("datasets", "books")
    folder.mkdir(parents=True)
    write_json(folder / "manifest.json", {"kind": "download", "params": {"source": "owner/books"}})
    assert known.pending_params("datasets", "books") == ("download", {"source": "owner/books"})
