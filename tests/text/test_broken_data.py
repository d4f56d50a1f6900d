"""Broken data files, drawn from one seed: each is one sentence, or exactly what an independent reading of it gives."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import UserError
from tasks.text import corpus
from tests.conftest import deadline

SEED, CASES, DEADLINE_S = 20261129, 240, 20
TEXTS = [f"Document {i} says “{'word ' * (i % 9)}”, and\nends, é🦊." for i in range(30)]


def whole(suffix: str, folder: Path) -> bytes:
    """A good file of that format."""
    rows = [{"n": i, "text": text} for i, text in enumerate(TEXTS)]
    if suffix == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if suffix == "json":
        return json.dumps(rows, ensure_ascii=False, indent=1).encode()
    if suffix == "csv":
        text = io.StringIO()
        csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["n", "text"], *([row["n"], row["text"]] for row in rows)])
        return text.getvalue().encode()
    if suffix == "txt":
        return "\n".join(TEXTS).encode()
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows)
    if suffix == "parquet":
        pq.write_table(table, sink, row_group_size=7)
    else:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    return sink.getvalue().to_pybytes()


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def nul(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + b"\0" * draw.choice((1, 8, 400)) + data[at:]


def flip(data: bytes, draw: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(draw.choice((1, 3, 40))):
        made[draw.randrange(len(made))] ^= 1 << draw.randrange(8)
    return bytes(made)


def junk(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + draw.randbytes(draw.choice((1, 20, 3000))) + data[at:]


def swap(data: bytes, draw: random.Random) -> bytes:
    """Two halves in the wrong order."""
    at = draw.randrange(len(data))
    return data[at:] + data[:at]


def mixed(data: bytes, draw: random.Random) -> bytes:
    """Rows of other types, for the formats made of lines."""
    lines = data.split(b"\n")
    odd = [b"null", b"3", b'{"text": 3}', b'{"text": {"a": []}}', b"[1]", b'{"other": "x"}', b'"text"', b"NaN", b"{}"]
    lines.insert(draw.randrange(len(lines)), draw.choice(odd))
    return b"\n".join(lines)


def bomb(data: bytes, draw: random.Random) -> bytes:
    """Something very deep, or a number of very many digits."""
    deep = draw.choice((b"[" * 200_000, b'{"a":' * 200_000, b'{"text": ' + b"9" * 100_000 + b"}", b'"' * 300_000))
    return deep + b"\n" + data if draw.random() < 0.5 else data + b"\n" + deep


def nothing(data: bytes, draw: random.Random) -> bytes:
    return draw.choice((b"", b"\n", b"\xef\xbb\xbf", b"\xff\xfe", b" " * 5000))


MUTATIONS = (cut, nul, flip, junk, swap, mixed, bomb, nothing)
SUFFIXES = ("jsonl", "json", "csv", "txt", "parquet", "arrow")


class Broken(Exception):
    """An independent reader cannot read it."""


def independent(path: Path) -> list[str]:
    """The documents of a file by the plainest reading, all in memory. Raises Broken where there is none."""
    suffix = path.suffix[1:]
    try:
        if suffix == "parquet":
            return _decoded(pq.read_table(path).column("text"))
        if suffix == "arrow":
            with pa.memory_map(str(path)) as file:
                return _decoded(pa.ipc.open_stream(file).read_all().column("text"))
        text = path.read_bytes().decode("utf-8-sig", "replace")
        if suffix == "txt":
            return [text] if text.strip() else []
        if suffix == "csv":
            return _texts(list(csv.DictReader(io.StringIO(text, newline=""), strict=True)))
        limit = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        try:
            rows = (
                [json.loads(line) for line in text.split("\n") if line.strip()]
                if suffix == "jsonl"
                else json.loads(text)
            )
        finally:
            sys.set_int_max_str_digits(limit)
        return _texts(rows)
    except Broken:
        raise
    except (Exception, RecursionError) as error:
        raise Broken(str(error)) from error


def _decoded(column: pa.ChunkedArray) -> list[str]:
    column.validate()
    return [raw.decode("utf-8", "replace") for raw in column.cast(pa.large_binary()).to_pylist() if raw]


def _texts(rows: Any) -> list[str]:
    if not isinstance(rows, list) or any(not isinstance(row, dict) or None in row for row in rows):
        raise Broken("rows that are no objects")
    values = [row.get("text") for row in rows]
    if any(not isinstance(value, str | None) for value in values):
        raise Broken("not text")
    return [value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for value in values if value]


def read(home: Any, name: str, source: Path) -> list[str] | UserError:
    """The documents of the dataset that a download makes, or what it says; what fails leaves nothing."""
    try:
        with deadline(DEADLINE_S, source.name):
            home.run("download", name, source=str(source))
    except UserError as problem:
        said = problem
    else:
        return [text for group in corpus.read_corpus(home.path("datasets", name)) for text in group]
    assert not home.path("datasets", name).exists()
    assert len(said.sentence.splitlines()) == 1, said.sentence
    assert len(said.sentence) < 600
    return said


def test_broken_files_are_refused_or_read_as_any_reader_would(home, tmp_path):
    draw, refused = random.Random(SEED), 0
    for case in range(CASES):
        suffix, mutation = draw.choice(SUFFIXES), draw.choice(MUTATIONS)
        path = tmp_path / f"case-{case}.{suffix}"
        path.write_bytes(mutation(whole(suffix, tmp_path), draw))
        found, where = read(home, f"d{case}", path), f"case {case}: {mutation.__name__} of {suffix}"
        try:
            expected: list[str] | None = independent(path)
        except Broken:
            expected = None
        if isinstance(found, UserError):
            refused += 1
        else:
            assert expected is not None, f"{where} was accepted: {found[:3]}"
            assert found == expected, where
    assert CASES * 0.3 < refused < CASES * 0.9, "some of each kind"


def _link_out(folder: Path) -> None:
    (folder / "out.jsonl").symlink_to("/etc/passwd")


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "fifo.txt")


def _folder(folder: Path) -> None:
    (folder / "folder.parquet").mkdir()


def _loop(folder: Path) -> None:
    (folder / "self").symlink_to(folder)


def _device(folder: Path) -> None:
    (folder / "zero.csv").symlink_to("/dev/zero")


@pytest.mark.parametrize("odd", [_link_out, _fifo, _folder, _loop, _device])
def test_odd_things_in_a_folder_change_nothing_of_the_rest(home, tmp_path, odd: Callable[[Path], None]):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_bytes(whole("jsonl", tmp_path))
    odd(tmp_path / "data")
    assert read(home, "corpus", tmp_path / "data") == TEXTS
