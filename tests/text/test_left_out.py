"""What a folder has and a download does not read is counted, with its reason, and never replaced by a README."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.kinds import download
from tasks.text import corpus
from tests.text.test_files import jsonl, parquet


def packed(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(b'{"text": "packed"}\n'))
    return path


def texts(home, name: str) -> list[str]:
    return [text for group in corpus.read_corpus(home.path("datasets", name)) for text in group]


def test_every_file_that_is_not_read_is_counted_with_its_reason(home, tmp_path):
    folder = jsonl(tmp_path / "data" / "part3.jsonl", {"text": "read"}).parent
    for part in range(3):
        packed(folder / f"part{part}.jsonl.gz")
    (folder / "README.md").write_text("about the data")
    (folder / "picture.png").write_bytes(b"png")
    (folder / ".hidden").write_text("hidden")
    result = home.run("download", "corpus", source=str(folder))
    assert (result["rows"], result["skipped_files"], texts(home, "corpus")) == (1, 5, ["read"])
    assert "part0.jsonl.gz: compressed; it is read once it is unpacked" in result["left_out"]
    assert "picture.png: no known extension" in result["left_out"]
    assert "README.md: describes data" in result["left_out"]


def test_what_does_not_match_the_pattern_is_counted(home, tmp_path):
    for name in ("a.md", "b.md", "c.rst"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_text(name)
    result = home.run("download", "corpus", source=str(tmp_path / "data"), pattern="*.md")
    assert (result["rows"], result["left_out"]) == (2, ["c.rst: does not match --pattern *.md"])


def test_a_readme_beside_data_that_is_not_read_is_refused_at_submit_time(home, tmp_path):
    packed(tmp_path / "data" / "train.jsonl.gz")
    (tmp_path / "README.md").write_text("about the data")
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match=r"only README\.md can be read, .* and not: data/train\.jsonl\.gz\. "):
        download.prepare(download.Params(str(tmp_path)), home)
    packed(tmp_path / "one.zst")
    with pytest.raises(UserError, match=r"and not: one\.zst, data/train\.jsonl\.gz\. "):
        home.run("download", "corpus", source=str(tmp_path))
    assert home.run("download", "readme", source=str(tmp_path), pattern="README*")["rows"] == 1


def test_a_readme_among_texts_or_alone_is_a_text(home, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "README.md").write_text("a text")
    assert home.run("download", "one", source=str(tmp_path / "one"))["rows"] == 1
    (tmp_path / "one" / "guide.md").write_text("a text")
    packed(tmp_path / "one" / "more.md.gz")
    assert home.run("download", "two", source=str(tmp_path / "one"))["rows"] == 2


def test_what_is_wrong_in_a_folder_of_texts_and_tables_is_seen_in_the_first_table(home, tmp_path):
    (tmp_path / "a.md").write_text("a text")
    parquet(tmp_path / "c.parquet", 1, "c")
    jsonl(tmp_path / "b.jsonl", {"title": "a", "body": "b"})
    with pytest.raises(UserError, match="no column 'text'; the columns are: title, body"):
        download.prepare(download.Params(str(tmp_path)), home)
