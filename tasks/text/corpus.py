"""Dataset artifacts: how a corpus is stored on disk.

Parquet files `data-00000.parquet`, … with one string column `text`, one document a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

COLUMN = "text"
#: A new file begins after this many bytes of text, and a row group about this often: readers hold one group.
_FILE_BYTES = 512 << 20
_GROUP_BYTES = 8 << 20


class CorpusWriter:
    """Writes arrays of documents; memory is bounded by one array."""

    def __init__(self, folder: Path, file_bytes: int = _FILE_BYTES) -> None:
        self._folder, self._file_bytes = folder, file_bytes
        self._writer: pq.ParquetWriter | None = None
        self._files = self._in_file = 0
        self.rows = self.bytes = 0

    def write(self, documents: pa.Array) -> None:
        """Append an array of strings; nulls and empty strings must be gone."""
        groups = -(-text_bytes(documents) // _GROUP_BYTES)
        step = -(-len(documents) // max(1, groups))
        for start in range(0, len(documents), max(1, step)):
            self._write_group(documents[start : start + step])

    def _write_group(self, documents: pa.Array) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({COLUMN: documents})
        if self._writer is None:
            path = self._folder / f"data-{self._files:05d}.parquet"
            self._writer = pq.ParquetWriter(path, table.schema, compression="zstd")
            self._files += 1
        self._writer.write_table(table)
        size = text_bytes(documents)
        self.rows, self.bytes, self._in_file = self.rows + len(documents), self.bytes + size, self._in_file + size
        if self._in_file >= self._file_bytes:
            self.close()

    def close(self) -> None:
        """Finish the file being written."""
        if self._writer is not None:
            self._writer.close()
        self._writer, self._in_file = None, 0


def text_bytes(documents: pa.Array) -> int:
    """The UTF-8 bytes of all documents of an array."""
    import pyarrow.compute as pc

    return pc.sum(pc.binary_length(documents)).as_py() or 0


def corpus_files(folder: Path) -> list[Path]:
    """The data files of a dataset artifact; UserError when there are none."""
    files = sorted(folder.glob("data-*.parquet"))
    if not files:
        raise UserError(f"{folder} holds no corpus.", "Make one with: mistudio submit download SOURCE")
    return files


def count_rows(folder: Path) -> int:
    """The documents of a dataset artifact, from the files' footers."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in corpus_files(folder))


def read_corpus(folder: Path) -> Iterator[list[str]]:
    """The documents of a dataset artifact in order, one row group (a few MB of text) at a time."""
    import pyarrow.parquet as pq

    for path in corpus_files(folder):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=[COLUMN]).column(0).to_pylist()
