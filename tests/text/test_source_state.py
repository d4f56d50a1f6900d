"""Files that changed since a dataset was made of them are never replaced by what they were, without a word."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tasks.activations.token_source import find_tokens
from tasks.errors import UserError
from tasks.storage.store import remove
from tasks.text.dataset_ref import dataset_name, resolve_dataset
from tests.text.test_tokenize import DOCUMENTS, make_model


@pytest.fixture
def corpus(home, tmp_path) -> Path:
    """A folder of which a dataset and tokens were made by their default names."""
    make_model(home.store)
    path = write(tmp_path / "corpus" / "a.jsonl", DOCUMENTS)
    home.run("tokenize", tokens_of(home, path.parent), dataset=str(path.parent), model="small", context=64)
    return path.parent


def write(path: Path, documents: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def tokens_of(home, dataset: Path | str) -> str:
    return find_tokens(str(dataset), "small", {"context": 64}, home)[0]


def test_a_folder_that_did_not_change_is_used_as_it_was_read(home, corpus):
    (corpus / "README.md").write_text("about the data")
    assert resolve_dataset(str(corpus), home)[0] == dataset_name(str(corpus))
    assert find_tokens(str(corpus), "small", {"context": 64}, home)[1] == []


@pytest.mark.parametrize("change", ["longer", "touched", "another", "fewer"])
def test_a_folder_that_changed_since_its_first_use_is_refused(home, corpus, change):
    name = dataset_name(str(corpus))
    if change == "longer":
        write(corpus / "a.jsonl", [*DOCUMENTS, "one more"])
    elif change == "touched":
        os.utime(corpus / "a.jsonl", ns=(0, 12345))
    elif change == "another":
        write(corpus / "b.jsonl", ["one more"])
    else:
        (corpus / "a.jsonl").unlink()
    with pytest.raises(UserError, match=rf"{corpus} has changed since datasets/{name} was made from it") as refused:
        tokens_of(home, corpus)
    assert f"mistudio submit download {corpus} --name NAME" in (refused.value.hint or "")
    assert resolve_dataset(name, home) == (name, []), "what was read before can still be named"


def test_tokens_that_outlive_their_dataset_are_not_taken_for_those_of_a_changed_file(home, corpus):
    tokens, name = tokens_of(home, corpus), dataset_name(str(corpus))
    write(corpus / "a.jsonl", [*DOCUMENTS, "one more"])
    remove(home.path("datasets", name))
    with pytest.raises(UserError, match=rf"has changed since tokens/{tokens} was made"):
        tokens_of(home, corpus)
    home.run("download", name, source=str(corpus))
    with pytest.raises(UserError, match=rf"tokens/{tokens} were made from an earlier datasets/{name}"):
        tokens_of(home, name)
    remove(home.path("tokens", tokens))
    assert [request.kind for request in find_tokens(name, "small", {"context": 64}, home)[1]] == ["tokenize"]


def test_a_dataset_made_before_the_state_was_recorded_is_used(home, corpus):
    for family, name in (("datasets", dataset_name(str(corpus))), ("tokens", tokens_of(home, corpus))):
        path = home.path(family, name) / "manifest.json"
        manifest = json.loads(path.read_text())
        del manifest["result"]["source_state"]
        path.write_text(json.dumps(manifest))
    write(corpus / "a.jsonl", [*DOCUMENTS, "one more"])
    assert find_tokens(str(corpus), "small", {"context": 64}, home)[1] == []
