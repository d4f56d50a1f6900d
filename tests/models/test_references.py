"""References to models and files of tokens: what they mean, and a sentence when they mean nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import UserError
from tasks.models.loading import describe_config, is_hub_id, load_model, look_up, model_slug, resolve, split_revision
from tasks.text.tokens import TokenWriter, open_tokens, read_info
from tests.fixtures.bench import Bench, Catalog


def test_a_reference_is_a_store_name_a_folder_or_a_hub_id(bench: Bench):
    folder = bench.store.path("models", "tiny")
    assert resolve("tiny", bench.store) == str(folder)
    assert resolve(str(folder), bench.store) == str(folder)
    assert resolve("EleutherAI/pythia-70m", bench.store) == "EleutherAI/pythia-70m"
    for nothing in ("tinny", "", "a/b/c", "../tiny", "https://example.org/a"):
        with pytest.raises(UserError, match="is not a model"):
            resolve(nothing, bench.store)
    with pytest.raises(UserError, match=r"no config\.json"):
        resolve(str(bench.root), bench.store)


@pytest.mark.parametrize(
    "reference",
    [
        *("owner/name", "owner/name@main", "owner/name@v1.0", "owner/name@refs/pr/3", f"owner/name@{'0a' * 20}"),
        *("gpt2", "gpt2-medium", "bert-base-uncased", "openai-gpt", "xlm-roberta-base", "t5-small", "gpt2@main"),
        *("anything@main", "models/nosuch@main"),
    ],
)
def test_a_hub_id_may_have_a_revision_and_the_oldest_have_no_owner(bench: Bench, reference: str):
    assert resolve(reference, bench.store) == reference
    assert look_up(reference, bench.known) == (reference, None)
    assert is_hub_id(reference)
    repo, _, revision = reference.partition("@")
    assert split_revision(reference) == (repo, revision or None)
    assert re.fullmatch(r"[A-Za-z0-9][\w.-]*", model_slug(reference))


@pytest.mark.parametrize(
    "reference",
    [
        *("models/nosuch", "./nosuch", "~/nosuch", "/nosuch", "here/nosuch", "datasets/name", "tinny", "file.bin"),
        *("owner/name@", "owner/name@../x", "owner/name@a..b", "@main", "owner/name@a b", "owner/na me", "a/b/c@main"),
        *("here/file.bin", "owner/name@-x"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_at_submit(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file.bin").touch()
    with pytest.raises(UserError, match="is not a model: tried the store, a local folder, and the Hub"):
        look_up(reference, bench.known)


def test_a_store_model_and_a_folder_come_before_the_hub(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    bench.add_model("gpt2")
    assert look_up("gpt2", bench.known)[0] == "gpt2"
    assert resolve("gpt2", bench.store) == str(bench.store.path("models", "gpt2"))
    folder = tmp_path / "owner" / "name@main"
    shutil.copytree(bench.store.path("models", "tiny"), folder)
    assert look_up("owner/name@main", bench.known)[0] == str(folder)


def test_a_configuration_is_described_without_torch(bench: Bench):
    result = {"n_layers": 3, "d_model": 16, "vocab_size": 97, "context": 64, "model_type": "gpt_neox"}
    assert describe_config("tiny", bench.store) == result
    assert describe_config("EleutherAI/pythia-70m", bench.store) is None
    assert look_up("tiny", bench.known) == ("tiny", result)
    assert look_up("later", Catalog(bench.store, {"models/later"})) == ("later", None)
    imported = "import sys, tasks.models.loading, tasks.kinds.train"
    code = f"{imported}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_gpt2_style_names_are_understood(bench: Bench):
    folder = bench.store.path("models", "tiny")
    (folder / "config.json").write_text(json.dumps({"n_layer": 12, "n_embd": 768, "n_positions": 1024}))
    result = describe_config("tiny", bench.store)
    assert (result["n_layers"], result["d_model"], result["context"], result["vocab_size"]) == (12, 768, 1024, None)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json of model 'tiny' cannot be read"):
        describe_config("tiny", bench.store)


def test_an_unreachable_hub_is_one_sentence(bench: Bench):
    # The client library reads its settings once, when it is imported: so in a process of its own.
    code = (
        "from pathlib import Path; from tasks.models.loading import load_model; from tasks.errors import UserError;"
        f"from tasks.storage.store import Store\n"
        f"try: load_model('owner/model', Store(Path({str(bench.root)!r})))\n"
        "except UserError as problem: print(problem)"
    )
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(bench.root / "hf"), "PATH": ""}
    result = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, check=True)
    assert "owner/model is not on this machine and the Hub cannot be reached" in result.stdout


def test_a_broken_model_is_one_sentence(bench: Bench):
    (bench.store.path("models", "tiny") / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="The model tiny cannot be loaded"):
        load_model("tiny", bench.store)


def test_slugs_distinguish_folders_of_the_same_name(tmp_path: Path):
    for place in ("a", "b"):
        (tmp_path / place / "model").mkdir(parents=True)
    slugs = {model_slug(str(tmp_path / place / "model")) for place in ("a", "b")}
    assert len(slugs) == 2
    assert all(slug.startswith("model-") for slug in slugs)
    assert model_slug("owner/name") == "owner--name"


@pytest.mark.parametrize(("vocabulary", "dtype"), [(65536, "uint16"), (65537, "uint32")])
def test_tokens_are_written_row_by_row_and_read_from_disk(tmp_path: Path, vocabulary: int, dtype: str):
    with TokenWriter(tmp_path, context=4, vocab_size=vocabulary, eos_id=2) as writer:
        writer.append([[1, 2, 3, vocabulary - 1], [4, 5, 6, 7]])
        writer.append([8, 9, 10, 11])
        writer.append(np.zeros((0, 4), dtype=np.int64))
    assert open_tokens(tmp_path).tolist() == [[1, 2, 3, vocabulary - 1], [4, 5, 6, 7], [8, 9, 10, 11]]
    result = json.loads((tmp_path / "tokens.json").read_text())
    special = {"eos_id": 2, "bos_id": None, "pad_id": None, "bos": "none", "bos_ids": None}
    special |= {"max_id": vocabulary - 1, "vocabulary_sha256": None, "tokenizer_sha256": None}
    assert result == {"dtype": dtype, "rows": 3, "context": 4, "vocab_size": vocabulary, **special}
    assert read_info(tmp_path).rows == 3


def test_wrong_rows_and_unfinished_files_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="rows of 3"), TokenWriter(tmp_path, 4, 100) as writer:
        writer.append([1, 2, 3])
    with pytest.raises(UserError, match="no finished tokens"):
        open_tokens(tmp_path)
    with pytest.raises(ValueError, match="vocabulary of 100"), TokenWriter(tmp_path, 4, 100) as writer:
        writer.append([1, 2, 3, 100])
    with TokenWriter(tmp_path, 4, 100) as writer:
        writer.append([1, 2, 3, 4])
    (tmp_path / "tokens.bin").write_bytes(b"\0\0")
    with pytest.raises(UserError, match="incomplete: 2 bytes of 8"):
        open_tokens(tmp_path)
