"""One column is read of all that is read, the result names it, and no other is taken for it on the way."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import IterableDataset

from tasks.errors import UserError
from tasks.text.files.readers import text_batches
from tasks.text.files.skipped_counts import SkippedCounts
from tests.text.test_files import documents, jsonl

TITLES = [{"title": f"title {n}"} for n in range(100)]


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_a_text_after_a_hundred_rows_without_one_is_refused_with_its_line(home, tmp_path, suffix):
    path = jsonl(tmp_path / f"late.{suffix}", *TITLES, {"title": "t", "text": "the text"})
    with pytest.raises(UserError, match=rf"^Line 101 of late\.{suffix} has a column 'text'.* 'title' was read") as late:
        documents(path)
    assert late.value.hint == "Name the column to read: --column text or --column title"
    assert len(documents(path, column="title")) == 101
    result = home.run("download", "titles", source=str(path), column="title")
    assert (result["rows"], result["column"]) == (101, "title")


def test_the_column_is_in_the_result_though_not_all_is_read(home, tmp_path):
    path = jsonl(tmp_path / "a.jsonl", *TITLES)
    assert home.run("download", "few", source=str(path), limit=3)["column"] == "title"
    (tmp_path / "a.txt").write_text("a text")
    assert home.run("download", "text", source=str(tmp_path / "a.txt"))["column"] is None


def test_files_of_a_folder_are_read_by_one_column(tmp_path):
    pq.write_table(pa.table({"title": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("title,n\nb,1\n")
    counts = SkippedCounts()
    assert (documents(tmp_path, counts), counts.column) == (["a", "b"], "title")
    jsonl(tmp_path / "c.jsonl", {"body": "c"})
    with pytest.raises(UserError, match=r"c\.jsonl has no column 'title', which is read of what comes before; .*body"):
        documents(tmp_path)
    jsonl(tmp_path / "c.jsonl", {"title": "c", "text": "d"})
    with pytest.raises(UserError, match=r"c\.jsonl has a column 'text', but what comes before has none"):
        documents(tmp_path)


def test_a_file_without_the_column_of_the_others_is_refused(tmp_path):
    jsonl(tmp_path / "a.jsonl", {"text": "a"})
    jsonl(tmp_path / "b.jsonl", {"title": "b"})
    with pytest.raises(UserError, match=r"b\.jsonl has no column 'text', which is read of what comes before"):
        documents(tmp_path)


def test_a_streamed_dataset_notes_its_column():
    rows, counts = IterableDataset.from_generator(lambda: iter(TITLES)), SkippedCounts()
    assert sum(map(len, text_batches(rows, "text", counts))) == 100
    assert counts.column == "title"
