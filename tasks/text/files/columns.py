"""The text column of Parquet and Arrow files: only that column is read, a few MB or a batch of the file's at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

#: Approximate bytes of a column held at once.
_BATCH_BYTES, _BATCH_ROWS = 8 << 20, 4096

#: Chooses the column to read, from whether each holds text.
Choose = Callable[[dict[str, bool]], str]


def read_parquet(path: Path, choose: Choose) -> Iterator[pa.Array]:
    """The values of the chosen column of a Parquet file. Raises UserError for a file that is none, or is damaged."""
    import pyarrow.parquet as pq

    with _translated(path), pq.ParquetFile(path) as file:
        column = _chosen(file.schema_arrow, choose)
        size = sum(_column_bytes(file.metadata.row_group(i), column) for i in range(file.num_row_groups))
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * file.metadata.num_rows // max(1, size)))
        for batch in file.iter_batches(rows, columns=[column]):
            yield batch.column(0)


def read_arrow(path: Path, choose: Choose) -> Iterator[pa.Array]:
    """The same of an Arrow file, as `datasets` saves them (streams) or as Feather has them (files)."""
    import pyarrow as pa

    with _translated(path), pa.memory_map(str(path)) as file:
        is_file = file.read(6) == b"ARROW1"
        open_it = pa.ipc.open_file if is_file else pa.ipc.open_stream
        file.seek(0)
        schema = open_it(file).schema
        only = pa.ipc.IpcReadOptions(included_fields=[schema.names.index(_chosen(schema, choose))])
        file.seek(0)
        opened = open_it(file, options=only)
        for batch in map(opened.get_batch, range(opened.num_record_batches)) if is_file else opened:
            values = batch.column(0)
            for start in range(0, len(values), _BATCH_ROWS):
                yield values.slice(start, _BATCH_ROWS)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _chosen(schema: pa.Schema, choose: Choose) -> str:
    import pyarrow as pa

    column = choose({field.name: is_text(field.type) for field in schema})
    if schema.names.count(column) > 1:
        raise UserError(f"There are two columns {column!r}.", "Rename one of them")
    kind = schema.field(column).type
    if not is_text(kind) and not pa.types.is_null(kind):
        raise UserError(f"Column {column!r} holds {kind}, not text.", "Name another column with --column")
    return column


def _column_bytes(group: object, column: str) -> int:
    chunks = (group.column(i) for i in range(group.num_columns))  # type: ignore[attr-defined]
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises about a file into one sentence."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
        raise UserError(f"{path.name} cannot be read as {path.suffix[1:]}: {reason}.", "Get the whole file") from error
