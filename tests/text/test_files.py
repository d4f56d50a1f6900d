"""A file is what its name says, only what was asked for is read, and a text is read as it was written."""

from __future__ import annotations

import json
import os
import socket
from importlib import import_module
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import UserError
from tasks.kinds import download
from tasks.text import corpus
from tasks.text.dataset_hub import _refuse_form
from tasks.text.files.readers import BATCH_CHARS, read_local
from tasks.text.files.skipped_counts import SkippedCounts
from tasks.text.files.splits import split_of


def documents(
    path: Path, counts: SkippedCounts | None = None, column: str = "text", split: str | None = None
) -> list[str]:
    arrays = read_local(path, column, None, (), SkippedCounts() if counts is None else counts, split)
    return [text for array in arrays for text in array.to_pylist()]


def jsonl(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path, count: int, word: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": [f"{word} {i}" for i in range(count)]}), path)
    return path


# -- names are never patterns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["data[1].jsonl", "*.jsonl", "data?.jsonl", "{a,b}.jsonl", "a b#c%20.jsonl", "~.jsonl"]
)
def test_a_file_is_read_by_its_name_whatever_is_in_it(tmp_path, name):
    for other in ("data1.jsonl", "data.jsonl", "a.jsonl", "b.jsonl"):
        jsonl(tmp_path / other, {"text": "a neighbor's"})
    assert documents(jsonl(tmp_path / name, {"text": "its own"})) == ["its own"]


@pytest.mark.parametrize("folder", ["dir[x]", "dir*", "a::b", "https:", "x=1"])
def test_a_folder_is_read_by_its_name_too(tmp_path, folder):
    jsonl(tmp_path / "dirx" / "a.jsonl", {"text": "a neighbor's"})
    parquet(tmp_path / folder / "a.parquet", 2, "own")
    jsonl(tmp_path / folder / "b.jsonl", {"text": "own too"})
    assert documents(tmp_path / folder) == ["own 0", "own 1", "own too"]


# -- regular files inside the folder only ------------------------------------------------------------------------------


def test_links_out_fifos_sockets_and_devices_are_counted_and_never_opened(home, tmp_path):
    folder = jsonl(tmp_path / "data" / "a.jsonl", {"text": "own"}).parent
    secret = jsonl(tmp_path / "outside" / "secret.jsonl", {"text": "not mine"})
    (folder / "link.jsonl").symlink_to(secret)
    (folder / "linked").symlink_to(secret.parent)
    (folder / "nothing.jsonl").symlink_to(folder / "gone")
    (folder / "loop.jsonl").symlink_to("loop.jsonl")
    (folder / "null.jsonl").symlink_to("/dev/null")
    os.mkfifo(folder / "fifo.jsonl")
    with socket.socket(socket.AF_UNIX) as unix:
        old = os.getcwd()
        os.chdir(folder)  # a socket's path may have few bytes
        unix.bind("s.jsonl")
        os.chdir(old)
        result = home.run("download", "corpus", source=str(folder))
    assert result["rows"] == 1
    assert result["skipped_files"] == 7
    assert any("link.jsonl: a link out of the folder" in line for line in result["left_out"])
    assert any("fifo.jsonl: no regular file" in line for line in result["left_out"])


def test_a_link_to_a_hidden_file_of_the_folder_is_that_file_and_one_to_a_listed_file_is_not_read_twice(tmp_path):
    hidden = jsonl(tmp_path / ".store" / "blob", {"text": "stored"})
    (tmp_path / "a.jsonl").symlink_to(hidden)
    (tmp_path / "again.jsonl").symlink_to(hidden)
    jsonl(tmp_path / "b.jsonl", {"text": "plain"})
    (tmp_path / "c.jsonl").symlink_to("b.jsonl")
    assert documents(tmp_path) == ["stored", "plain"]


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "fifo.txt"])
def test_what_is_no_regular_file_is_refused_before_it_is_opened(home, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.txt")
    with pytest.raises(UserError, match="is no regular file"):
        download.prepare(download.Params(path), home)
    with pytest.raises(UserError, match="is no regular file"):
        documents(Path(path))


# -- only the wanted column --------------------------------------------------------------------------------------------


OTHERS = [None, {"url": "x"}, [1, {"a": [[]]}], "s", True, 10**400, -1.5e300]


def test_other_columns_may_hold_anything_come_and_go(tmp_path):
    rows = [{"text": f"d{i}", "meta": other, **({"more": i} if i % 2 else {})} for i, other in enumerate(OTHERS)]
    for i, row in enumerate(rows):
        jsonl(tmp_path / f"{i}.jsonl", row)
    assert documents(tmp_path) == [f"d{i}" for i in range(len(OTHERS))]
    whole = jsonl(tmp_path / "one" / "all.jsonl", *rows)
    assert documents(whole) == [f"d{i}" for i in range(len(OTHERS))]
    whole.write_text('{"text": "a", "n": NaN, "m": -Infinity}\n')
    assert documents(whole) == ["a"]


def test_parquet_files_may_differ_in_other_columns(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"n": [b"\xff"], "text": ["b"], "deep": [[{"x": 1}]]}), tmp_path / "b.parquet")
    assert documents(tmp_path) == ["a", "b"]


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["a", None, "", "b"], pa.large_string()),
        pa.array(["a", None, "", "b"]).dictionary_encode(),
        pa.array(["a", None, "", "b"], pa.string_view()),
    ],
)
def test_each_kind_of_text_column_is_text(tmp_path, array):
    counts = SkippedCounts()
    pq.write_table(pa.table({"text": array}), tmp_path / "a.parquet")
    assert documents(tmp_path / "a.parquet", counts) == ["a", "b"]
    assert counts.empty_rows == 2


# -- splits and saved datasets -----------------------------------------------------------------------------------------


def splits(folder: Path) -> Path:
    parquet(folder / "train-00000-of-00001.parquet", 150, "train")
    parquet(folder / "test-00000-of-00001.parquet", 50, "test")
    return folder


def test_a_split_of_a_local_folder_is_that_split(home, tmp_path):
    folder = splits(tmp_path / "data")
    assert len(documents(folder, split="test")) == 50
    assert len(documents(folder)) == 150, "train, where files say that there are several"
    assert home.run("download", "test", source=str(folder), split="test")["skipped_files"] == 1


def test_the_folder_of_the_wanted_split_is_entered_though_such_folders_are_skipped(home, tmp_path):
    for name in ("train", "test", "tests"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "0.jsonl").write_text(f'{{"text": "of {name}"}}\n')
    assert home.run("download", "of-test", source=str(tmp_path / "data"), split="test")["rows"] == 1
    assert [text for group in corpus.read_corpus(home.path("datasets", "of-test")) for text in group] == ["of test"]
    assert home.run("download", "of-train", source=str(tmp_path / "data"))["rows"] == 1


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-0.parquet", "train"),
        ("data/validation/0.parquet", "validation"),
        ("dev.jsonl", "validation"),
        ("my_test_set.csv", "test"),
        ("training/x.jsonl", "train"),
        ("latest.jsonl", None),
        ("contest/strained.parquet", None),
    ],
)
def test_splits_are_words_of_names(path, split):
    assert split_of(Path(path)) == split


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"split": "test"}, "--split does not apply to a single file"),
        ({"pattern": "*.x"}, "--pattern does not apply to a single file"),
        ({"config": "en"}, "--config does not apply to local files"),
        ({"revision": "main"}, "--revision does not apply to local files"),
    ],
)
def test_a_flag_that_means_nothing_for_a_source_is_refused(home, tmp_path, values, sentence):
    path = jsonl(tmp_path / "a.jsonl", {"text": "a"})
    with pytest.raises(UserError, match=sentence):
        download.prepare(download.Params(str(path), **values), home)
    with pytest.raises(UserError, match="--skip does not apply to a dataset of the Hub"):
        download.prepare(download.Params("owner/name", skip="x"), home)


def test_a_split_that_no_file_is_of_is_refused(tmp_path):
    parquet(tmp_path / "a.parquet", 2, "a")
    with pytest.raises(UserError, match=r"No file of .* is named as one of the split 'test'"):
        documents(tmp_path, split="test")


def test_a_folder_of_save_to_disk_is_read_as_one(tmp_path):
    from datasets import Dataset, DatasetDict

    one, two = Dataset.from_dict({"text": ["one", "two"], "n": [1, 2]}), Dataset.from_dict({"text": ["three"]})
    one.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    DatasetDict({"train": one, "test": two}).save_to_disk(str(tmp_path / "both"))
    assert documents(tmp_path / "saved") == ["one", "two"]
    assert documents(tmp_path / "both") == ["one", "two"]
    assert documents(tmp_path / "both", split="test") == ["three"]
    with pytest.raises(UserError, match="no split 'dev'; its splits are: train, test"):
        documents(tmp_path / "both", split="dev")
    next((tmp_path / "saved").glob("*.arrow")).unlink()
    with pytest.raises(UserError, match="without its file data-"):
        documents(tmp_path / "saved")


def test_what_describes_data_is_no_data(tmp_path):
    parquet(tmp_path / "a.parquet", 2, "a")
    for name in ("dataset_info.json", "README.md", "tokenizer_config.json", "metadata.json"):
        (tmp_path / name).write_text('{"text": "about the data"}')
    assert documents(tmp_path) == ["a 0", "a 1"]


# -- a text that was written is the text that is read ------------------------------------------------------------------


def test_a_byte_that_is_no_utf_8_is_replaced_and_counted_and_the_rest_is_whole(tmp_path):
    text = "plain line of words\n" * 450_000
    path, counts = tmp_path / "bad.txt", SkippedCounts()
    path.write_bytes(text.encode() + b"caf\xe9\n" + b"tail line of words\n" * 150_000)
    assert "".join(documents(path, counts)) == text + "caf\ufffd\n" + "tail line of words\n" * 150_000
    assert (counts.replaced, counts.unreadable_files) == (1, 0)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_the_same_in_tables(tmp_path, suffix):
    body = {"jsonl": b'{"text": "caf\xe9"}\n', "json": b'[{"text": "caf\xe9"}]', "csv": b"n,text\n1,caf\xe9\n"}[suffix]
    (tmp_path / f"a.{suffix}").write_bytes(body)
    counts = SkippedCounts()
    assert documents(tmp_path / f"a.{suffix}", counts) == ["caf\ufffd"]
    assert counts.replaced == 1


def test_bytes_in_a_parquet_column_and_halves_of_surrogates_are_replaced_and_counted(tmp_path):
    raw = pa.array([b"ok", b"caf\xe9", None]).view(pa.string())
    pq.write_table(pa.table({"text": raw}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text('{"text": "a\\ud800b"}\n{"text": "\\ud83e\\udd8a"}\n')
    counts = SkippedCounts()
    assert documents(tmp_path, counts) == ["ok", "caf\ufffd", "a\ufffdb", "🦊"]
    assert counts.replaced == 2


EXACT = [
    "a\r\nb",
    "NA",
    "null",
    "007",
    "1e5",
    "TRUE",
    " lead",
    "tab\tx",
    "\u2028line",
    "nul\0l",
    'q"uo"te',
    "\ufeffbom",
    "\ufffd",
]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet", "arrow", "txt"])
def test_texts_come_out_as_they_went_in(tmp_path, suffix):
    import csv

    path = tmp_path / f"a.{suffix}"
    table = pa.table({"n": list(range(len(EXACT))), "text": EXACT})
    if suffix == "jsonl":
        jsonl(path, *table.to_pylist())
    elif suffix == "json":
        path.write_text(json.dumps(table.to_pylist(), indent=1, ensure_ascii=False))
    elif suffix == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows(
                [["n", "text"], *([r["n"], r["text"]] for r in table.to_pylist())]
            )
    elif suffix == "parquet":
        pq.write_table(table, path)
    elif suffix == "arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        path.write_bytes("\r\n".join(EXACT).encode())
    counts = SkippedCounts()
    expected = ["\r\n".join(EXACT)] if suffix == "txt" else EXACT
    assert documents(path, counts) == expected
    assert counts.replaced == 0


@pytest.mark.parametrize("form", ["file", "stream"])
def test_of_a_compressed_arrow_file_only_the_text_is_unpacked(tmp_path, form):
    table = pa.table({"image": [b"\0" * (1 << 20)] * 64, "text": [f"row {n}" for n in range(64)], "n": range(64)})
    to_file = {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}[form]
    path, compressed = tmp_path / "a.arrow", pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path), "wb") as sink, to_file(sink, table.schema, options=compressed) as writer:
        writer.write_table(table)
    del table
    before, texts, held = pa.total_allocated_bytes(), [], []
    for array in read_local(path, "text", None, (), SkippedCounts(), None):
        texts += array.to_pylist()
        held.append(pa.total_allocated_bytes() - before)
    assert texts == [f"row {n}" for n in range(64)]
    assert max(held) < 1 << 16


def test_a_json_file_may_be_an_array_an_object_or_lines_of_them(tmp_path):
    for name, body in {
        "array": '[\n {"text": "a"},\n {"text": "b"}\n]\n',
        "objects": '{"text": "a"}\n{"text":\n "b"}',
        "one": '{"text": "a", "x": {"text": "no"}}',
    }.items():
        (tmp_path / f"{name}.json").write_text(body)
        assert documents(tmp_path / f"{name}.json") == (["a"] if name == "one" else ["a", "b"])


def test_a_large_array_is_read_an_object_at_a_time(tmp_path, monkeypatch):
    from tasks.text.files import rows

    monkeypatch.setattr(rows, "_BLOCK", 50)
    expected = [f'{"long " * (i % 40)}\\ "{i}" é🦊' for i in range(300)]
    (tmp_path / "a.json").write_text(
        json.dumps([{"n": [i, 1.5e3, None], "text": text} for i, text in enumerate(expected)])
    )
    assert documents(tmp_path / "a.json") == expected


WRONG = {
    "null.jsonl": ('{"text": "a"}\nnull\n', "Line 2 of null.jsonl is null, not an object"),
    "list.jsonl": ('["a"]\n', "Line 1 of list.jsonl is an array"),
    "string.jsonl": ('"a"\n', "Line 1 of string.jsonl is a string"),
    "deep.jsonl": (
        '{"text": "a"}\n' + '{"text":' * 100_000 + "\n",
        "Line 2 of deep.jsonl is not JSON: it is nested too",
    ),
    "deep.json": ("[" * 100_000, "Line 1 of deep.json is not JSON"),
    "cut.json": ('[{"text": "a"},\n{"text": "b', "Line 2 of cut.json is not JSON: Unterminated string"),
    "open.json": ('[{"text": "a"},\n', "open.json ends inside its array, on line 2"),
    "number.json": ("[1, 2]", "Element 1 of the array in number.json, on line 1, is a number"),
    "ragged.csv": ('text,n\n"a",1,2\n', "Line 2 of ragged.csv has 3 values, its header 2"),
    "quotes.csv": ('text,n\n"a,1\nb,2\n', "quotes.csv is not CSV: unexpected end of data"),
    "twice.csv": ("text,text\na,b\n", "two columns 'text'"),
    "list.parquet": (b"PAR1" + b"\0" * 40 + b"PAR1", "list.parquet cannot be read as parquet"),
    "junk.arrow": ("junk", "junk.arrow cannot be read as arrow"),
    "utf16.txt": ("text of words\n".encode("utf-16"), "utf16.txt is UTF-16 text"),
    "nul.txt": (b"\0" * 500, "nul.txt is not UTF-8 text"),
    "picture.txt": (bytes(range(256)) * 4, "picture.txt is not UTF-8 text"),
    "bytes.jsonl": (b"\xff\xfe\x00\x01" * 20, "bytes.jsonl is UTF-16 text"),
    "value.json": ('{"text": ["a", "b"]}', "holds a list, not text"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_file_is_one_sentence_with_its_line(tmp_path, name):
    body, sentence = WRONG[name]
    (tmp_path / name).write_bytes(body if isinstance(body, bytes) else body.encode())
    with pytest.raises(UserError, match=sentence):
        documents(tmp_path / name)


def test_the_store_keeps_what_was_read(home, tmp_path):
    path = jsonl(tmp_path / "a.jsonl", *({"text": text} for text in EXACT))
    home.run("download", "corpus", source=str(path))
    assert [text for group in corpus.read_corpus(home.path("datasets", "corpus")) for text in group] == EXACT


def test_a_file_that_becomes_a_link_out_of_its_folder_while_others_are_read_is_refused(tmp_path):
    (tmp_path / "secret.txt").write_text("hf_secret")
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(f"of {name} " * BATCH_CHARS)
    arrays = read_local(folder, "text", None, (), SkippedCounts())
    next(arrays)
    (folder / "b.txt").unlink()
    (folder / "b.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(UserError, match=r"b\.txt has become a link out of the folder since"):
        list(arrays)


@pytest.mark.parametrize("form", ["webdataset", "pandas", "imagefolder", "hdf5"])
def test_forms_that_decode_pickles_or_images_are_not_read_from_the_hub(form):
    builder = import_module(f"datasets.packaged_modules.{form}.{form}")
    with pytest.raises(UserError, match=f"in the form {form}, which is not read; read are arrow, csv, json, parquet"):
        _refuse_form(builder.__name__.rpartition(".")[2], "owner/name")
