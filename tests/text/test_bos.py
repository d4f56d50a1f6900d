"""Rows begin with what the tokenizer itself puts before a text, and tokens and SAEs that disagree on it are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tasks.errors import UserError
from tasks.jobs.kind import kind_named
from tasks.models.loading import load_model
from tasks.sae.formats.native import read_config
from tasks.text.tokenizers import ids_before_text
from tasks.text.tokens import open_tokens, read_info
from tests.fixtures.job_home import JobContext
from tests.text.tokenizers_of import KINDS, TEXT, make_tokenizer, reordered, save_model

BOS = "<bos> $A"
SHORT = {"layer": 0, "steps": 4, "batch": 32, "width": 32, "k": 2, "evaluate": 1, "arch": "topk"}


@pytest.fixture
def corpus(home, tmp_path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXT))
    home.run("download", "corpus", source=str(path))
    return path


def model(home, name: str = "model", single: str | None = BOS, kind: str = "llama", **config) -> str:
    return str(save_model(home.root / name, make_tokenizer(single=single), kind, **config))


def tokenize(home, model: str, name: str = "tokens", **values):
    home.run("tokenize", name, dataset="corpus", model=model, context=16, **values)
    folder = home.path("tokens", name)
    return open_tokens(folder), read_info(folder)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_each_row_begins_with_bos_and_the_model_reads_the_first_row_as_it_reads_the_text(home, corpus, kind):
    folder = model(home, kind=kind)
    rows, info = tokenize(home, folder)
    tokenizer = make_tokenizer(single=BOS)
    assert (info.bos, info.bos_ids) == ("row", [tokenizer.bos_token_id])
    assert set(rows[:, 0].tolist()) == {tokenizer.bos_token_id}
    loaded, text = load_model(folder, home.store), tokenizer("".join(TEXT[:1]), return_tensors="pt")["input_ids"]
    read = torch.from_numpy(rows[:1].astype("int64"))
    assert read[0].tolist() == text[0, :16].tolist()
    torch.testing.assert_close(loaded(read).logits, loaded(text[:, :16]).logits)


def test_without_bos_in_the_template_no_row_has_one_unless_it_is_asked_for(home, corpus):
    folder = model(home, single=None)
    rows, info = tokenize(home, folder)
    assert (info.bos, info.bos_ids) == ("none", [])
    begun, info = tokenize(home, folder, "begun", bos="row")
    assert (info.bos, set(begun[:, 0].tolist())) == ("row", {info.bos_id})
    stream = rows.ravel()
    assert begun[:, 1:].ravel().tolist() == stream[: begun[:, 1:].size].tolist(), "the text is the same"


def test_each_document_can_begin_with_bos(home, corpus):
    rows, info = tokenize(home, model(home), bos="document")
    stream = rows.ravel().tolist()
    ends = [place for place, token in enumerate(stream[:-1]) if token == info.eos_id]
    assert stream[0] == info.bos_id
    assert {stream[place + 1] for place in ends} == {info.bos_id}
    assert stream.count(info.bos_id) == len(ends) + 1
    assert info.bos == "document"


def test_a_template_of_several_tokens_begins_each_row_whole(home, corpus):
    rows, info = tokenize(home, model(home, single="<bos> <pad> $A <eos>"))
    assert info.bos_ids == [info.bos_id, info.pad_id]
    assert {tuple(row) for row in rows[:, :2].tolist()} == {(info.bos_id, info.pad_id)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("single", [BOS, "<bos> $A <eos>", "$A <eos>"])
def test_what_a_tokenizer_puts_before_a_text_is_asked_of_it(kind, single):
    tokenizer = make_tokenizer(kind, single)
    expected = (tokenizer.bos_token_id,) if single.startswith("<bos>") else ()
    assert ids_before_text(tokenizer.backend_tokenizer) == expected


def test_bos_is_refused_where_there_is_none_and_where_it_leaves_no_room(home, corpus):
    tokenizer = make_tokenizer(single=None)
    tokenizer.bos_token = None
    folder = str(save_model(home.root / "without", tokenizer))
    with pytest.raises(UserError, match="has no BOS token"):
        tokenize(home, folder, bos="row")
    with pytest.raises(UserError, match="no room"):
        home.run("tokenize", "t", dataset="corpus", model=model(home, single="<bos> <eos> $A"), context=2)


def test_tokens_without_bos_are_refused_for_a_model_that_reads_it_unless_that_is_allowed(home, corpus):
    folder = model(home)
    tokenize(home, folder, bos="no")
    values = {"model": folder, "dataset": "tokens", **SHORT}
    for kind, more in (("train", {}), ("activations", {"layer": 0})):
        wanted = values if kind == "train" else {"model": folder, "dataset": "tokens", **more}
        with pytest.raises(UserError, match=r"reads texts that begin with BOS.*tokens/tokens do not"):
            home.run(kind, "made", **wanted)
    home.run("train", "sae", allow_no_bos=True, **values)
    metadata = read_config(home.path("saes", "sae"))["metadata"]
    assert (metadata["prepend_bos"], metadata["bos"]) == (False, "none")
    home.run("extract", "features", sae="sae", model=folder, tokens="tokens")  # its own tokens agree with it


def test_gemma_needs_bos_whatever_its_tokenizer_says(home, corpus):
    folder = model(home, kind="gemma2", single=None)
    tokenize(home, folder)
    with pytest.raises(UserError, match="begin with BOS"):
        home.run("train", "sae", model=folder, dataset="tokens", **SHORT)
    home.run("activations", "acts", model=folder, dataset="tokens", layer=0, allow_no_bos=True)


def test_tokens_made_before_bos_was_recorded_are_judged_by_their_tokenizer(home, corpus):
    for single, refused in ((BOS, True), (None, False)):
        name = f"model-{refused}"
        folder = model(home, name, single)
        tokenize(home, folder, name, bos="no")
        path = home.path("tokens", name) / "tokens.json"
        result = json.loads(path.read_text())
        for key in ("bos", "bos_ids", "max_id", "vocabulary_sha256", "tokenizer_sha256"):
            del result[key]
        path.write_text(json.dumps(result))
        values = {"model": folder, "dataset": name, "layer": 0}
        if refused:
            with pytest.raises(UserError, match="begin with BOS"):
                home.run("activations", "made", **values)
        else:
            home.run("activations", "made", **values)


@pytest.mark.parametrize(("trained_on", "read_on"), [("row", "no"), ("row", "document"), ("no", "row")])
def test_an_sae_and_tokens_that_disagree_are_refused(home, corpus, trained_on, read_on):
    folder = model(home)
    tokenize(home, folder, "its", bos=trained_on)
    tokenize(home, folder, "other", bos=read_on)
    home.run("train", "sae", model=folder, dataset="its", allow_no_bos=True, **SHORT)
    assert read_config(home.path("saes", "sae"))["metadata"]["prepend_bos"] == (trained_on == "row")
    values = {"sae": "sae", "tokens": "other", "model": folder}
    with pytest.raises(UserError, match="saes/sae was trained on rows"):
        home.run("extract", "features", **values)
    with pytest.raises(UserError, match=r"begin with (BOS|it)"):
        home.run(
            "train", "more", model=folder, dataset="other", init_from="sae", allow_no_bos=read_on == "row", **SHORT
        )
    if trained_on == "row":
        assert home.run("extract", "features", allow_no_bos=True, **values)["features"] == 32


def test_stored_activations_carry_it_through(home, corpus):
    folder = model(home)
    tokenize(home, folder)
    home.run("activations", "acts", model=folder, dataset="tokens", layer=0)
    home.run("train", "sae", activations="acts", **{**SHORT, "layer": None})
    assert read_config(home.path("saes", "sae"))["metadata"]["prepend_bos"] is True


def test_what_begins_a_row_is_left_out_of_training_unless_asked_for(home, corpus):
    from tasks.activations.token_mask import mask_for

    rows, info = tokenize(home, model(home, single="<bos> <pad> $A"))
    kept = mask_for(dataclasses.replace(info, pad_id=None), skip_bos=True).kept(rows)
    assert not kept[:, :2].any()
    assert kept[:, 2:].all()
    assert kind_named("tokenize").read_params({"dataset": "d", "model": "m"}).bos == "auto"


def test_tokens_of_another_tokenizer_are_refused_although_it_has_as_many_tokens(home, corpus, tmp_path):
    own, other = make_tokenizer(single=None), reordered(make_tokenizer(single=None))
    assert len(own) == len(other)
    folder, foreign = save_model(tmp_path / "own", own), save_model(tmp_path / "other", other)
    tokenize(home, str(folder))
    values = {"dataset": "tokens", "layer": 0}
    home.run("activations", "fits", model=str(folder), **values)
    with pytest.raises(UserError, match=r"tokens/tokens were made with another tokenizer than that of .*other"):
        home.run("activations", "made", model=str(foreign), **values)
    declared = kind_named("activations")
    params = declared.read_params({"model": str(foreign), **values})
    late = JobContext(home, "late", 1, lambda done: False)
    with pytest.raises(UserError, match="another tokenizer"):  # and where only the job can know it
        declared.run(params, late)


@pytest.mark.parametrize("more", [0, 3])
def test_the_same_tokenizer_fits_in_other_words_and_with_tokens_added_behind(home, corpus, tmp_path, more):
    folder = save_model(tmp_path / "own", make_tokenizer(single=None))
    tokenize(home, str(folder))
    grown = save_model(tmp_path / "grown", make_tokenizer(single=None, extra=more))
    file = grown / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=None))
    home.run("activations", "made", model=str(grown), dataset="tokens", layer=0)
