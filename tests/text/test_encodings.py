"""A file that is compressed, or text but not UTF-8, is called that at submit time, and not a damaged table."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable

import pyarrow as pa
import pytest

from tasks.errors import UserError
from tasks.kinds import download
from tests.text.test_files import documents, jsonl

TABLES = {"jsonl": '{"text": "a"}\n', "json": '[{"text": "a"}]', "csv": "n,text\n1,a\n", "txt": "a\n"}


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", data)
    return file.getvalue()


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


PACKERS = [
    (gzip.compress, "gunzip"),
    (bz2.compress, "bunzip2"),
    (lzma.compress, "unxz"),
    (zipped, "unzip"),
    (zstd, "unzstd"),
]


@pytest.mark.parametrize("suffix", TABLES)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_text_in_another_encoding_is_called_by_it(home, tmp_path, suffix, encoding):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes((TABLES[suffix] * 20).encode(encoding))
    named = {"utf-16": "is UTF-16 text, and only UTF-8", "utf-32": "is UTF-32 text, and only UTF-8"}
    with pytest.raises(UserError, match=rf"^a\.{suffix} {named.get(encoding, 'is not UTF-8 text')}") as refused:
        download.prepare(download.Params(str(path)), home)
    assert "onvert it to UTF-8" in (refused.value.hint or "")
    with pytest.raises(UserError, match=r"UTF-8"):
        documents(path)


@pytest.mark.parametrize("suffix", TABLES)
@pytest.mark.parametrize(("pack", "tool"), PACKERS)
def test_a_compressed_file_is_called_that_whatever_its_extension(
    home, tmp_path, suffix, pack: Callable[[bytes], bytes], tool: str
):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(pack(TABLES[suffix].encode()))
    with pytest.raises(UserError, match=rf"^a\.{suffix} is compressed, and is not unpacked") as refused:
        download.prepare(download.Params(str(path)), home)
    assert refused.value.hint == f"Unpack it first, as with {tool}"
    with pytest.raises(UserError, match="is compressed"):
        documents(path)


def test_a_compressed_text_among_others_is_counted_with_the_reason(home, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.txt").write_text("a text")
    (folder / "b.txt").write_bytes(gzip.compress(b"b"))
    result = home.run("download", "texts", source=str(folder))
    assert (result["rows"], result["left_out"]) == (1, ["b.txt: b.txt is compressed, and is not unpacked."])


def test_a_mark_of_utf_8_and_a_rare_nul_are_read(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", *({"text": f"row {n}"} for n in range(20)))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(documents(path)) == 20
    (tmp_path / "b.csv").write_text("text\nmany words and one\0nul among them\n")
    assert documents(tmp_path / "b.csv") == ["many words and one\0nul among them"]
