"""Documents out of local files, as they were written, always a few MB at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.text.files.column_choice import SAMPLE_ROWS, ColumnChoice, text_columns
from tasks.text.files.columns import is_text, read_arrow, read_parquet
from tasks.text.files.corpus_files import corpus_files
from tasks.text.files.folder import why_not
from tasks.text.files.rows import Number, Row
from tasks.text.files.skipped_counts import SkippedCounts
from tasks.text.files.sources import (
    TABLES,
    is_table,
)
from tasks.text.files.text_files import count_replaced, text_documents

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import IterableDataset

#: Documents are handed on when this much text is together.
BATCH_CHARS = 4 << 20
_BATCH_ROWS = 256


def read_local(
    source: Path,
    column: str,
    pattern: str | None,
    skip: tuple[str, ...],
    counts: SkippedCounts,
    split: str | None = None,
) -> Iterator[pa.Array]:
    """Arrays of the documents below a path (see `sources`); empty ones are counted in `counts` and left out.

    Raises UserError for a file that is no valid table, a wrong column, a column that is not text.
    """
    files = corpus_files(source, pattern, skip, counts, split)
    if not files:
        raise UserError(f"There is no text left at {source}.", "Give another source")
    choice = ColumnChoice(column, counts)
    for path in _unchanged(filter(is_table, files), source):
        yield from _read_table(path, choice, counts)
    texts = _unchanged((path for path in files if not is_table(path)), source)
    yield from batches(chain.from_iterable(_texts_of(path, counts, path == source) for path in texts), counts)


def _unchanged(files: Iterable[Path], source: Path) -> Iterator[Path]:
    """These files of a folder, each looked at again before it is opened. UserError for one that is another by now."""
    root = source.resolve()
    for path in files:
        if source.is_dir() and (why := why_not(path, root)) is not None:
            raise UserError(f"{path.name} has become {why} since {source} was listed.", "Submit it again")
        yield path


def _texts_of(path: Path, counts: SkippedCounts, alone: bool) -> Iterator[str]:
    """The documents of a text file; one that is no text is counted, unless it is the only file requested."""
    counts.files += 1
    try:
        counts.replaced += count_replaced(path)
        yield from text_documents(path, counts)
    except (OSError, UserError) as error:
        if alone:
            raise UserError(f"{path.name} cannot be read: {error}") from error
        counts.refuse(path.name, error.strerror or "" if isinstance(error, OSError) else error.sentence)


def _read_table(path: Path, choice: ColumnChoice, counts: SkippedCounts) -> Iterator[pa.Array]:
    counts.files += 1
    reader = TABLES[path.suffix.lower()]
    if reader is not None:
        try:
            counts.replaced += count_replaced(path)
            yield from batches(_column(reader(path), path, choice, counts), counts)
        except OSError as error:
            raise UserError(f"{path.name} cannot be read: {error.strerror}.") from error
        return
    read = read_parquet if path.suffix.lower() == ".parquet" else read_arrow
    for values in read(path, lambda columns: choice.choose(path.name, columns)):
        yield from _kept(_strings(values, counts), counts)


def _column(rows: Iterator[Row], path: Path, choice: ColumnChoice, counts: SkippedCounts) -> Iterator[str]:
    """The texts of one column; rows without one are counted. Raises UserError for a value that is no text."""
    first = list(islice(rows, SAMPLE_ROWS))
    if not first:
        return
    chosen = choice.choose(path.name, text_columns(first))
    if path.suffix.lower() == ".csv":
        _refuse_numbers([str(row[chosen] or "") for _, row in first], chosen)
    for line, row in chain(first, rows):
        if choice.finds_late(row):
            raise choice.found_late(f"Line {line} of {path.name}")
        value = row.get(chosen)
        if value is None:
            counts.empty_rows += 1
        elif not isinstance(value, str) or isinstance(value, Number):
            kind = "number" if isinstance(value, Number) else type(value).__name__
            raise UserError(
                f"Column {chosen!r} mixes types: line {line} of {path.name} holds a {kind}, not text.",
                "Correct the file, or name another column with --column",
            )
        else:
            yield value


def _refuse_numbers(values: list[str], column: str) -> None:
    """UserError for a CSV column of which the first rows hold only numbers: it is not the one that was meant."""
    found = [value for value in values if value]
    if found and all(map(_is_number, found)):
        raise UserError(f"Column {column!r} holds numbers, not text.", "Name another column with --column")


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def batches(texts: Iterable[str], counts: SkippedCounts) -> Iterator[pa.Array]:
    """String arrays of a bounded size; empty texts are counted and left out."""
    together: list[str] = []
    size = 0
    for text in texts:
        if not text:
            counts.empty_rows += 1
            continue
        together.append(text)
        size += len(text)
        if size >= BATCH_CHARS:
            yield _array(together, counts)
            together, size = [], 0
    if together:
        yield _array(together, counts)


def _array(texts: list[str], counts: SkippedCounts) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:  # halves of a pair of surrogates, as "\\ud800" in JSON
        whole = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
        counts.replaced += sum(new.count("\ufffd") - old.count("\ufffd") for new, old in zip(whole, texts, strict=True))
        return pa.array(whole, pa.string())


def _kept(texts: pa.Array, counts: SkippedCounts) -> Iterator[pa.Array]:
    """The array without nulls and empty strings, which are counted."""
    import pyarrow.compute as pc

    kept = texts.filter(pc.greater(pc.binary_length(pc.fill_null(texts, "")), 0))
    counts.empty_rows += len(texts) - len(kept)
    if len(kept):
        yield kept


def _strings(values: pa.Array, counts: SkippedCounts) -> pa.Array:
    """A column of text, of whatever type, as strings; bytes that are no UTF-8 are replaced and counted."""
    import pyarrow as pa

    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.string())
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    try:
        values.validate(full=True)
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        raw: list[bytes | None] = values.cast(pa.large_binary()).to_pylist()
        for value in filter(None, raw):
            counts.replaced += value.decode("utf-8", "replace").count("\ufffd") - value.count(b"\xef\xbf\xbd")
        return pa.array([None if value is None else value.decode("utf-8", "replace") for value in raw], pa.string())


def text_batches(rows: IterableDataset, column: str, counts: SkippedCounts) -> Iterator[pa.Array]:
    """The texts of one column of a streamed dataset, as string arrays without nulls and empty strings."""
    choice, at = ColumnChoice(column, counts), 0
    for batch in rows.with_format("arrow").iter(batch_size=_BATCH_ROWS):
        columns = {field.name: is_text(field.type) for field in batch.schema}
        chosen = choice.choose(f"The data from row {at + 1} on", columns)
        texts = _streamed(batch.column(chosen).combine_chunks(), chosen, at)
        at += len(texts)
        yield from _kept(_strings(texts, counts), counts)


def _streamed(values: pa.Array | pa.ChunkedArray, column: str, first_row: int) -> pa.Array:
    """The values as strings or nulls; UserError naming the first row that is neither."""
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    if is_text(values.type) or pa.types.is_null(values.type):
        return values
    if isinstance(values.type, pa.JsonType):  # what `datasets` makes of rows of several types
        return pa.array(_checked(values.to_pylist(), column, first_row), pa.string())
    raise UserError(
        f"Column {column!r} holds {values.type}, not text (first seen in row {first_row + 1}).",
        "Name another column with --column",
    )


def _checked(encoded: Iterable[str | None], column: str, first_row: int) -> list[str | None]:
    decoded: list[Any] = [None if value is None else json.loads(value) for value in encoded]
    for row, value in enumerate(decoded, first_row + 1):
        if not isinstance(value, str | None):
            raise UserError(
                f"Column {column!r} mixes types: row {row} holds a {type(value).__name__}, not text.",
                "Correct the data, or name another column with --column",
            )
    return decoded
