"""A toy model learns, is an ordinary transformers model, and a resumed training equals an uninterrupted one."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.errors import UserError
from tasks.jobs.kind import Stopped, kind_named
from tasks.text.corpus import read_corpus
from tasks.text.encoding import TextEncoder
from tests.fixtures.work_folders import left_by

SMALL = {"layers": 2, "width": 32, "vocab": 512, "context": 32}


@pytest.fixture
def corpus(home) -> str:
    """A little of the Python standard library's own source text."""
    library = Path(sysconfig.get_paths()["stdlib"])
    home.run("download", "corpus", source=str(library / "json"), pattern="*.py")
    return "corpus"


def test_it_learns_more_than_how_often_tokens_occur(home, corpus):
    result = home.run("toy-model", "toy", dataset=corpus, steps=150, **SMALL)
    folder = home.path("models", "toy")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = [text for group in read_corpus(home.path("datasets", "corpus")) for text in group]
    ids = TextEncoder(tokenizer).encode(texts)
    shares = np.bincount(ids)[np.bincount(ids) > 0] / len(ids)
    entropy = float(-(shares * np.log(shares)).sum())
    assert result["mean_loss"] < entropy - 0.5
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    row = torch.from_numpy(ids[: 8 * 32].reshape(8, 32)).long()
    assert model(row, labels=row).loss.item() < entropy
    assert result["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert home.said[-1] == ("training", 150, 150, "steps")


def test_a_stopped_training_resumes_where_it_was_and_ends_the_same(home, corpus):
    home.run("toy-model", "whole", dataset=corpus, steps=24, **SMALL)
    with pytest.raises(Stopped):
        home.run("toy-model", "cut", dataset=corpus, steps=24, stop_when=lambda done: done == 9, **SMALL)
    assert kind_named("toy-model").resume_point(left_by(home.store, "job-cut")) == "step 10"
    home.said.clear()
    result = home.run("toy-model", "cut", dataset=corpus, steps=24, attempt=2, **SMALL)
    steps = [done for phase, done, _, _ in home.said if phase == "training"]
    assert steps[0] == 10
    assert steps[-1] == 24
    whole, cut = (AutoModelForCausalLM.from_pretrained(home.path("models", name)) for name in ("whole", "cut"))
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, cut.state_dict()[name], atol=1e-5), name
    assert result["mean_loss"] == pytest.approx(home.manifest("models", "whole")["result"]["mean_loss"], abs=1e-3)


def test_a_training_whose_checkpoint_was_cut_short_says_so_and_begins_again(home, corpus):
    with pytest.raises(Stopped):
        home.run("toy-model", "cut", dataset=corpus, steps=24, stop_when=lambda done: done == 9, **SMALL)
    checkpoint = left_by(home.store, "job-cut") / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    assert kind_named("toy-model").resume_point(checkpoint.parent) is None
    assert home.run("toy-model", "cut", dataset=corpus, steps=24, attempt=2, **SMALL)["steps"] == 24
    assert home.notes == ["starts from scratch: its checkpoint is damaged"]


def test_what_cannot_work_is_one_sentence(home, corpus, tmp_path):
    with pytest.raises(UserError, match="multiple of 32"):
        home.run("toy-model", "toy", dataset=corpus, width=48)
    (tmp_path / "tiny.txt").write_text("tiny")
    with pytest.raises(UserError, match="less than one row"):
        home.run("toy-model", "toy", dataset=str(tmp_path / "tiny.txt"), steps=1, **SMALL)
