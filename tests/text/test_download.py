"""Every format becomes the same corpus, and what is wrong with a source is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import UserError
from tasks.text import corpus
from tasks.text.dataset_ref import dataset_name, resolve_dataset
from tasks.text.files import text_files

DOCUMENTS = ["The first document.", 'Second, with a "comma"\nand a line.', "Dritte: äöü ∑ 🦊"]


def written(home, name: str) -> list[str]:
    return [document for group in corpus.read_corpus(home.path("datasets", name)) for document in group]


def as_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps({"n": i, "text": text}) + "\n" for i, text in enumerate(DOCUMENTS)))


def as_json(path: Path) -> None:
    path.write_text(json.dumps([{"text": text} for text in DOCUMENTS]))


def as_csv(path: Path) -> None:
    quoted = [text.replace('"', '""') for text in DOCUMENTS]
    path.write_text("n,text\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(quoted)))


def as_parquet(path: Path) -> None:
    pq.write_table(pa.table({"n": [0, 1, 2], "text": DOCUMENTS}), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.jsonl", as_jsonl), ("a.json", as_json), ("a.csv", as_csv), ("a.parquet", as_parquet)],
)
def test_each_table_format_gives_the_same_documents(home, tmp_path, name, write):
    write(tmp_path / name)
    result = home.run("download", "corpus", source=str(tmp_path / name))
    assert written(home, "corpus") == DOCUMENTS
    assert result["rows"] == 3
    assert result["bytes"] == sum(len(text.encode()) for text in DOCUMENTS)


def test_text_files_of_a_folder_are_documents_in_a_stable_order(home, tmp_path):
    for name, text in (("b.txt", "two"), ("a.md", "one"), ("sub/c.txt", "three"), ("notes.pdf", "no")):
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(text)
    home.run("download", "corpus", source=str(tmp_path / "texts"))
    assert written(home, "corpus") == ["one", "two", "three"]


def test_a_source_tree_leaves_out_tests_packages_and_what_is_not_text_and_says_so(home, tmp_path):
    tree = tmp_path / "lib"
    for name in ("a.py", "test/b.py", "site-packages/c.py", "__pycache__/d.py", "pkg/e.py", "pkg/f.txt", ".git/g.py"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(f"# {name}\n")
    (tree / "latin.py").write_bytes("# caf\xe9\n".encode("utf-16"))
    (tree / "empty.py").write_text("")
    result = home.run("download", "corpus", source=str(tree), pattern="*.py")
    assert written(home, "corpus") == ["# a.py\n", "# pkg/e.py\n"]
    assert (result["files"], result["unreadable_files"], result["empty_rows"]) == (4, 1, 1)


def test_a_readme_beside_tables_is_no_part_of_the_corpus(home, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    as_jsonl(folder / "part.jsonl")
    (folder / "README.md").write_text("About this data")
    home.run("download", "corpus", source=str(folder))
    assert written(home, "corpus") == DOCUMENTS


def test_texts_beside_tables_are_named_as_left_out(home, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    as_jsonl(folder / "part.jsonl")
    for name in ("essay1.txt", "essay2.txt", "README.md", "LICENSE.txt"):
        (folder / name).write_text("A text")
    result = home.run("download", "tables", source=str(folder))
    assert (written(home, "tables"), result["skipped_files"]) == (DOCUMENTS, 4)
    assert result["left_out"][0] == "essay1.txt: a text beside tables; --pattern '*.txt' reads such files instead"
    assert home.run("download", "texts", source=str(folder), pattern="*.txt")["rows"] == 3


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("semi.csv", "text;id\na b;1\n", r"separates its columns by semicolons, and only commas are read"),
        ("tabs.csv", "text\tid\na, b\t1\n", r"separates its columns by tabs"),
        ("nested.json", '{"data": {"rows": [{"text": "a"}]}}', r"no other holds text; the columns are: data"),
        (
            "mixed.json",
            '[{"text": "a"}, {"text": "b"}, "plain"]',
            r"Element 3 of the array in mixed.json, on line 1, is",
        ),
        ("lines.jsonl", '{"text": "a"}\n"plain"\n', r"Line 2 of lines.jsonl is a string"),
        ("bad.parquet", "PAR1xxxx", r"cannot be read as parquet: .* not a parquet file\. Get"),
    ],
)
def test_a_file_of_another_form_is_recognised_by_its_content(home, tmp_path, name, text, why):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=why) as refused:
        home.run("download", "corpus", source=str(tmp_path / name))
    assert ".." not in refused.value.sentence


def test_a_long_text_file_is_cut_at_line_ends_and_nothing_is_lost(home, tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "PIECE_CHARS", 100)
    text = "".join(f"line number {i} of a long file\n" for i in range(50)) + "no end of line " * 20
    (tmp_path / "long.txt").write_text(text)
    result = home.run("download", "corpus", source=str(tmp_path / "long.txt"))
    pieces = written(home, "corpus")
    assert "".join(pieces) == text
    assert result["split_files"] == 1
    assert max(map(len, pieces)) <= 200


def test_limits_bound_documents_and_bytes(home, tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "{i:010d}"}}\n' for i in range(1000)))
    assert home.run("download", "few", source=str(tmp_path / "a.jsonl"), limit=7)["rows"] == 7
    assert home.run("download", "short", source=str(tmp_path / "a.jsonl"), limit_bytes=95)["rows"] == 9
    assert home.run("download", "one", source=str(tmp_path / "a.jsonl"), limit_bytes=1)["rows"] == 1


def test_nulls_and_empty_texts_are_left_out_and_counted(home, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n{"text": ""}\n{"text": "b"}\n')
    assert home.run("download", "corpus", source=str(tmp_path / "a.jsonl"))["empty_rows"] == 2
    assert written(home, "corpus") == ["a", "b"]


def test_the_only_text_column_is_found_whatever_its_name(home, tmp_path):
    pq.write_table(pa.table({"n": [1, 2], "body": ["x", "y"]}), tmp_path / "a.parquet")
    home.run("download", "corpus", source=str(tmp_path / "a.parquet"))
    assert written(home, "corpus") == ["x", "y"]


def test_a_large_corpus_is_spread_over_bounded_files(tmp_path):
    writer = corpus.CorpusWriter(tmp_path, file_bytes=1000)
    documents = [f"{i:0100d}" for i in range(100)]
    for start in range(0, 100, 10):
        writer.write(pa.array(documents[start : start + 10]))
    writer.close()
    assert len(corpus.corpus_files(tmp_path)) == 10
    assert corpus.count_rows(tmp_path) == 100
    assert [document for group in corpus.read_corpus(tmp_path) for document in group] == documents


WRONG = {
    "empty.jsonl": ("", "is empty"),
    "blank.jsonl": ("\n\n", "No document was found"),
    "mixed.jsonl": ('{"text": "a"}\n{"text": 3}\n', "mixes types: line 2 of mixed.jsonl holds a number"),
    "broken.jsonl": ("not json\n", "Line 1 of broken.jsonl is not JSON"),
    "later.jsonl": ('{"text": "a"}\nnot json\n', "Line 2 of later.jsonl is not JSON"),
    "columns.jsonl": ('{"title": "a", "body": "b"}\n', "no column 'text'; the columns are: title, body"),
    "numbers.csv": ("text,n\n1,2\n3,4\n", "holds numbers, not text"),
    "columns.csv": ("title,body\na,b\n", "no column 'text'; the columns are: title, body"),
    "broken.parquet": ("junk", "cannot be read as parquet"),
    "picture.png": ("x", "no format that can be read"),
    "blank.txt": ("  \n", "No document was found"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_file_is_one_sentence(home, tmp_path, name):
    text, sentence = WRONG[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=sentence):
        home.run("download", "corpus", source=str(tmp_path / name))
    assert not home.store.names("datasets")


def test_an_empty_table_in_a_folder_is_said_and_beside_a_full_one_passed_over(home, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").write_text("")
    with pytest.raises(UserError, match="No document was found"):
        home.run("download", "corpus", source=str(folder))
    as_jsonl(folder / "b.jsonl")
    home.run("download", "corpus", source=str(folder))
    assert written(home, "corpus") == DOCUMENTS


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"source": "no/such/file.txt"}, "no file or folder 'no/such/file.txt'"),
        ({"source": "nosuchname"}, "no file or folder 'nosuchname'"),
        ({"source": ""}, "no file or folder"),
        ({"source": ".", "pattern": "*.nothing"}, "No file below"),
    ],
)
def test_a_source_that_cannot_be_is_refused_at_submit_time(home, tmp_path, monkeypatch, values, sentence):
    from tasks.kinds import download

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        download.prepare(download.Params(**values), home)


def test_a_wrong_column_is_refused_at_submit_time_naming_those_that_exist(home, tmp_path):
    from tasks.kinds import download

    as_csv(tmp_path / "a.csv")
    as_jsonl(tmp_path / "a.jsonl")
    for name in ("a.csv", "a.jsonl"):
        with pytest.raises(UserError, match="no column 'body'; the columns are: n, text"):
            download.prepare(download.Params(str(tmp_path / name), column="body"), home)


def test_a_relative_path_is_kept_as_seen_from_where_the_user_stood(home, tmp_path, monkeypatch):
    from tasks.kinds import download

    (tmp_path / "a.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    params, _ = download.prepare(download.Params("a.txt"), home)
    assert params.source == str(tmp_path / "a.txt")


def test_names_distinguish_paths_options_and_hub_ids(home, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.jsonl").write_text('{"text": "a"}\n')
    one, two = (str(tmp_path / folder / "train.jsonl") for folder in ("one", "two"))
    assert len({dataset_name(one), dataset_name(two), dataset_name(one, limit=3)}) == 3
    assert dataset_name("owner/some.name") == "owner--some.name"
    name, requests = resolve_dataset(one, home)
    assert [(request.kind, request.name, request.params) for request in requests] == [
        ("download", name, {"source": one})
    ]
    with pytest.raises(UserError, match="no dataset in the store, no file"):
        resolve_dataset("nothing", home)


def test_a_dataset_of_the_store_comes_before_a_file_of_its_name(home, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    home.run("download", "a.txt", source="a.txt")
    assert resolve_dataset("a.txt", home) == ("a.txt", [])
