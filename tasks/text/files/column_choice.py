"""Which column of tables is read: one for all files of a source. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.errors import UserError
from tasks.text.files.rows import Number, Row
from tasks.text.files.skipped_counts import SkippedCounts

DEFAULT_COLUMN = "text"
#: Rows that are looked at to choose a column.
SAMPLE_ROWS = 100


class ColumnChoice:
    """The column that is read of all files of a source, chosen in the first of them that has rows, and noted."""

    def __init__(self, wanted: str, counts: SkippedCounts) -> None:
        self._wanted, self._counts = wanted, counts

    def choose(self, where: str, is_text: Mapping[str, bool]) -> str:
        """The column to read of a file, or of another part of the data, as `choose_column` says.

        Raises UserError also for one that lacks the column that is read of those before, or has the wanted one where
        another is read in its place.
        """
        if self._counts.column is None:
            self._counts.column = choose_column(self._wanted, is_text)
        chosen = self._counts.column
        if chosen != self._wanted and self._wanted in is_text:
            raise self.found_late(where)
        if chosen not in is_text:
            raise UserError(
                f"{where} has no column {chosen!r}, which is read of what comes before; "
                f"its columns are: {', '.join(is_text) or 'none'}.",
                "Leave it out, or name a column with --column that all have",
            )
        return chosen

    def finds_late(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has a text in the wanted column, where another is read in its place."""
        return self._counts.column != self._wanted and _is_text(row.get(self._wanted))

    def found_late(self, where: str) -> UserError:
        """What is wrong with a part of the data that has the wanted column, where another is read in its place."""
        chosen = self._counts.column
        return UserError(
            f"{where} has a column {self._wanted!r}, but what comes before has none, and {chosen!r} was read.",
            f"Name the column to read: --column {self._wanted} or --column {chosen}",
        )


def choose_column(wanted: str, is_text: Mapping[str, bool]) -> str:
    """The column to read: the wanted one, or the only text column when the default name is not among them.

    `is_text` says for each column whether it holds text. Raises UserError naming the columns that exist.
    """
    if wanted in is_text:
        return wanted
    texts = [name for name, text in is_text.items() if text]
    if wanted == DEFAULT_COLUMN and len(texts) == 1:
        return texts[0]
    there = ", ".join(is_text) or "none"
    if not texts:
        raise UserError(
            f"There is no column {wanted!r}, and no other holds text; the columns are: {there}.",
            'Give rows with a text in each, as {"text": "..."} a line',
        )
    raise UserError(f"There is no column {wanted!r}; the columns are: {there}.", "Name one with --column")


def column_of(rows: list[Row], wanted: str) -> str:
    """The column to read of a table that begins with these rows. Raises UserError as `choose_column` does."""
    return choose_column(wanted, text_columns(rows))


def text_columns(rows: list[Row]) -> dict[str, bool]:
    """The columns of these rows, each with whether any holds a text there."""
    values: dict[str, list[Any]] = {}
    for _, row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return {name: any(map(_is_text, found)) for name, found in values.items()}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, Number)
