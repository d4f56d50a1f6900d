"""A pane: its rows as a table, the same on one line, and what of it matters most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mistudio_cli.terminal.humanize import duration
from mistudio_cli.terminal.layout import COLOURS, columns
from mistudio_cli.top.frame.columns import Cell, Table
from mistudio_cli.top.frame.text import Line, Span, clean, fitted
from mistudio_cli.top.reading import Part
from mistudio_cli.top.view import View

T = TypeVar("T")

_STYLES = {"31": "bad", "32": "good", "33": "warn", "36": "info"}


@dataclass(frozen=True)
class Summary:
    """A pane on one line: items after a title. What does not fit is counted."""

    title: str
    items: tuple[str, ...]
    separator: str = ", "
    style: str = ""

    def line(self, room: int) -> Line:
        """The line, at most so wide."""
        text = ""
        for count in range(len(self.items), 0, -1):
            more = f" +{len(self.items) - count} more" if count < len(self.items) else ""
            text = f" {self.separator.join(self.items[:count])}{more}"
            if count == 1 or columns(self.title) + columns(text) <= room:
                break
        return fitted((Span(self.title, self.style or "bold"), Span(text, self.style)), room)


@dataclass(frozen=True)
class Pane:
    """What a pane shows. `summary` is its one-line form, `active` the rows of its compact form.

    `states` of the rows say what is counted of those that are not shown.
    The first `must` rows come before all else on the screen. `unread` counts rows that there are beside these.
    """

    key: str
    summary: Summary
    table: Table
    ids: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    must: int = 0
    active: tuple[int, ...] = ()
    unread: int = 0
    older: str = ""  # the command that lists what is beyond these
    note: str = ""
    is_stale: bool = False
    dim: frozenset[int] = frozenset()
    empty: str = ""


def note_of(part: Part[Any], title: str, filtered: str, shown: int, total: int) -> str:
    """The line above a pane's table: how old it is, and by what it is filtered."""
    said = []
    if part.is_stale:
        said.append(f"{title} as of {duration(part.age_s)} ago")
    if filtered:
        said.append(f"{title} that match /{clean(filtered)}: {shown} of {total}")
    return " · ".join(said)


def summary_of(part: Part[Any], title: str, items: Sequence[str], separator: str = ", ") -> Summary:
    """The one-line form: never blank, and with the age of what is old."""
    if part.value is None:
        return Summary(f"{title}:", (missing(part),), style="dim")
    shown = tuple(map(clean, items))
    if part.is_stale:
        return Summary(f"{title} ({duration(part.age_s)} ago):", shown, separator, "dim")
    return Summary(f"{title}:", shown, separator)


def missing(part: Part[Any]) -> str:
    """What to say of a part without a value."""
    return f"not read: {clean(part.error)}" if part.error else "reading …"


def chosen(records: Sequence[T], words_of: Callable[[T], str], text: str) -> list[T]:
    """The records that have all words of a filter, and none of those with a `!` before them."""
    wanted = text.lower().split()
    if not wanted:
        return list(records)
    found = [(record, words_of(record).lower()) for record in records]
    return [record for record, words in found if all(_matches(word, words) for word in wanted)]


def _matches(word: str, words: str) -> bool:
    return word[1:] not in words if word.startswith("!") and len(word) > 1 else word in words


def ordered(records: Sequence[T], keys: Mapping[str, Callable[[T], Any]], view: View, pane: str) -> list[T]:
    """The records by the column that the pane is sorted by; as they come where it is by none."""
    by = keys.get(view.sorts.get(pane, ""))
    if by is None:
        return list(records)
    known = [record for record in records if by(record) is not None]
    unknown = [record for record in records if by(record) is None]
    return [*sorted(known, key=by, reverse=pane in view.reversed), *unknown]


def cells(rows: Sequence[Sequence[str]]) -> tuple[tuple[Cell, ...], ...]:
    """Rows of words as cells, in the colors of their states."""
    return tuple(tuple((Span(text := clean(word), style_of(text)),) for word in row) for row in rows)


def style_of(word: str) -> str:
    """The style of a cell that is exactly this word; that of a silent worker or host also with its age."""
    return _STYLES.get(COLOURS.get("silent" if word.startswith("silent ") else word, ""), "")


def silent_rows(rows: Sequence[Sequence[str]]) -> frozenset[int]:
    """The rows that were read long ago, of somebody who is silent since: they are dimmed."""
    return frozenset(number for number, row in enumerate(rows) if any(cell.startswith("silent") for cell in row))


def sorting(view: View, pane: str) -> dict[str, Any]:
    """What a table says of its sorting."""
    return {"sorted_by": view.sorts.get(pane), "reverse": pane in view.reversed}
