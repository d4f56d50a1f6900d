"""Documents out of local files: text files whole, tables through the `datasets` library, always a few MB at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.problem import Problem
from tasks.text.sources import choose_column, find_files, split_formats

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import IterableDataset

#: A longer text file becomes several documents, cut at line ends; documents are handed on when this much is together.
PIECE_CHARS = 4 << 20
_BATCH_ROWS = 256


@dataclass
class Tally:
    """What was left out of a corpus or cut on the way, to be told in the result."""

    files: int = 0
    unreadable_files: int = 0
    split_files: int = 0
    empty_rows: int = 0


def read_local(
    source: Path, column: str, pattern: str | None, skip: tuple[str, ...], tally: Tally
) -> Iterator[pa.Array]:
    """Arrays of the documents below a path (see `sources`); empty ones are counted in `tally` and left out.

    Raises Problem for a file that is no valid table, a wrong column, a column that is not text.
    """
    tables, texts = split_formats(list(find_files(source, pattern, skip)), pattern)
    if not tables and not texts:
        raise Problem(f"There is no text left at {source}.", "Give another source")
    for builder, paths in tables.items():
        tally.files += len(paths)
        yield from _read_tables(builder, paths, column, tally)
    yield from _read_texts(texts, tally)


def _read_texts(paths: list[Path], tally: Tally) -> Iterator[pa.Array]:
    import pyarrow as pa

    together: list[str] = []
    size = 0
    for path in paths:
        for piece in _pieces(path, tally):
            together.append(piece)
            size += len(piece)
            if size >= PIECE_CHARS:
                yield pa.array(together, pa.string())
                together, size = [], 0
    if together:
        yield pa.array(together, pa.string())


def _pieces(path: Path, tally: Tally) -> Iterator[str]:
    """A text file's document, or its pieces when it is long. What is not UTF-8 is counted and left out."""
    tally.files += 1
    rest, pieces = "", 0
    try:
        with path.open(encoding="utf-8") as file:
            while chunk := file.read(PIECE_CHARS):
                chunk = rest + chunk
                rest = ""
                if len(chunk) >= PIECE_CHARS:
                    cut = chunk.rfind("\n") + 1 or len(chunk)
                    chunk, rest = chunk[:cut], chunk[cut:]
                if chunk.strip():
                    pieces += 1
                    yield chunk
    except (UnicodeDecodeError, OSError):
        tally.unreadable_files += 1
        return
    if rest.strip():
        pieces += 1
        yield rest
    tally.empty_rows += pieces == 0
    tally.split_files += pieces > 1


def _read_tables(builder: str, paths: list[Path], column: str, tally: Tally) -> Iterator[pa.Array]:
    from datasets import load_dataset

    names = ", ".join(path.name for path in paths[:3]) + (", …" if len(paths) > 3 else "")
    try:
        rows = load_dataset(builder, data_files=[str(path) for path in paths], split="train", streaming=True)
        yield from text_batches(rows, column, tally)
    except StopIteration:
        raise Problem(f"There is no row in {names}.") from None
    except (ValueError, RuntimeError) as error:  # pyarrow, pandas and datasets errors about the content are ValueErrors
        raise Problem(f"{names} cannot be read as {builder}: {_first_line(error)}") from error


def text_batches(rows: IterableDataset, column: str, tally: Tally) -> Iterator[pa.Array]:
    """The texts of one column of a streamed dataset, as string arrays without nulls and empty strings."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chosen, at = "", 0
    for batch in rows.with_format("arrow").iter(batch_size=_BATCH_ROWS):
        if not chosen:
            chosen = choose_column(column, {field.name: _is_text(field.type) for field in batch.schema})
        texts = _strings(batch.column(chosen).combine_chunks(), chosen, at)
        at += len(texts)
        kept = texts.filter(pc.greater(pc.binary_length(pc.fill_null(texts, "")), 0))
        tally.empty_rows += len(texts) - len(kept)
        if len(kept):
            yield kept.cast(pa.string())


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _strings(values: pa.Array | pa.ChunkedArray, column: str, first_row: int) -> pa.Array:
    """The values as strings or nulls; Problem naming the first row that is neither."""
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    if _is_text(values.type):
        return values
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.string())
    if isinstance(values.type, pa.JsonType):  # what `datasets` makes of rows of several types
        return pa.array(_checked(values.to_pylist(), column, first_row), pa.string())
    raise Problem(
        f"Column {column!r} holds {values.type}, not text (first seen in row {first_row + 1}).",
        "Name another column with --column",
    )


def _checked(encoded: Iterable[str | None], column: str, first_row: int) -> list[str | None]:
    decoded: list[Any] = [None if value is None else json.loads(value) for value in encoded]
    for row, value in enumerate(decoded, first_row + 1):
        if not isinstance(value, str | None):
            raise Problem(
                f"Column {column!r} mixes types: row {row} holds a {type(value).__name__}, not text.",
                "Mend the file, or name another column with --column",
            )
    return decoded


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
