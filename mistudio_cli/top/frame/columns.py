"""Tables that fit a width: columns are shortened and dropped in a fixed order, and keep their widths between frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mistudio_cli.terminal.layout import columns, cut
from mistudio_cli.top.frame.text import Line, Span, fitted

T = TypeVar("T")

#: A cell in its forms, the longest first; most have one.
Cell = tuple[Span, ...]

#: Widths by column and form that earlier frames used: a column never becomes narrower because its texts did.
Widths = Mapping[tuple[str, str, int], int]

_LEAST_GAP, _GAP = 1, 2

#: Columns left to the sentences of the last column, and those without which another column is dropped.
_SENTENCE, _LEAST_SENTENCE = 24, 16


@dataclass(frozen=True)
class Drop:
    """Go without a column."""

    name: str


@dataclass(frozen=True)
class Shrink:
    """Take from a column what is missing, down to `least`."""

    name: str
    least: int


@dataclass(frozen=True)
class Shorten:
    """Use the next shorter form of a column's cells."""

    name: str


Step = Drop | Shrink | Shorten


class LazyRows(Sequence[tuple[Cell, ...]]):
    """Rows that are made when they are shown: of a thousand records a screen has room for some dozens."""

    def __init__(self, records: Sequence[T], make: Callable[[T], tuple[Cell, ...]]) -> None:
        self._records, self._make = records, make

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: Any) -> Any:
        return self._make(self._records[number])


@dataclass(frozen=True)
class Table:
    """Rows under headers. `steps` say what a narrow screen gives up, in that order; the first column is kept.

    The last column extends to the edge of the screen. Its texts in `loose` rows (None: in all) do not count for its
    width: they are sentences, which are cut at their end.
    """

    name: str
    headers: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    steps: tuple[Step, ...] = ()
    right: frozenset[str] = frozenset()
    loose: frozenset[int] | None = frozenset()
    sorted_by: str | None = None
    reverse: bool = False


@dataclass
class _Fit:
    """The columns that are left, with the form and the width of each."""

    wide: dict[str, int]
    form: dict[str, int]
    gap: int = _GAP
    used: dict[tuple[str, str, int], int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.wide.values()) + self.gap * (len(self.wide) - 1)


def lay_out(table: Table, rows: Sequence[int], room: int, remembered: Widths) -> tuple[list[Line], Widths]:
    """The header and these rows, each at most `room` columns wide; and the widths to remember.

    Only rows that are shown are measured.
    """
    shown = [table.rows[number] for number in rows]
    is_loose = [table.loose is None or number in table.loose for number in rows]
    tight = [row for row, loose in zip(shown, is_loose, strict=True) if not loose]
    fit = _fitting(table, shown, tight, room, remembered)
    at = {name: table.headers.index(name) for name in fit.wide}
    header = [_header(table, name) for name in fit.wide]
    lines = [_line(header, fit, table.right)]
    last = list(fit.wide)[-1]
    for row, loose in zip(shown, is_loose, strict=True):
        cells = {name: row[at[name]][_form(row[at[name]], fit.form[name])] for name in fit.wide}
        if loose:
            cells[last] = _longest_that_fits(row[at[last]], fit.wide[last])
        lines.append(_line(list(cells.values()), fit, table.right))
    return [fitted(line, room) for line in lines], fit.used


Rows = Sequence[tuple[Cell, ...]]


def _fitting(table: Table, shown: Rows, tight: Rows, room: int, remembered: Widths) -> _Fit:
    """Go down the table's steps until it fits; `tight` are the rows that count for the width of the last column."""
    fit = _Fit({}, dict.fromkeys(table.headers, 0))

    def measure(name: str) -> None:
        is_last = name == table.headers[-1]
        _measure(table, tight if is_last else shown, fit, name, remembered)
        if is_last:
            fit.wide[name] = max(fit.wide[name], _room_of_sentences(shown, fit.form[name]))

    for name in table.headers:
        measure(name)
    for step in table.steps:
        if fit.total <= room:
            break
        if step.name in fit.wide:
            _apply(step, fit, room, measure)
    if fit.total > room:
        fit.gap = _LEAST_GAP
    # Also where no row has a sentence now: widths would jump with the first that has one.
    has_sentences = table.loose is None or any(isinstance(step, Shorten) for step in table.steps)
    _restore(table, fit, room - max(0, _LEAST_SENTENCE - list(fit.wide.values())[-1]) * has_sentences)
    _widen(table, fit, room - _SENTENCE * has_sentences)
    first, last = table.headers[0], list(fit.wide)[-1]
    fit.wide[first] = max(1, fit.wide[first] - max(0, fit.total - room))
    fit.wide[last] = max(fit.wide[last], room - (fit.total - fit.wide[last]))
    return fit


def _restore(table: Table, fit: _Fit, room: int) -> None:
    """Show dropped columns again for which a later step has left room, those that were dropped last first."""
    for step in reversed(table.steps):
        if isinstance(step, Drop) and step.name not in fit.wide and step.name in table.headers:
            width = fit.used[table.name, step.name, fit.form[step.name]]
            if fit.total + fit.gap + width <= room:
                kept = {**fit.wide, step.name: width}
                fit.wide = {name: kept[name] for name in table.headers if name in kept}


def _room_of_sentences(shown: Rows, form: int) -> int:
    """What the last column needs for the beginnings of its sentences; nothing once it is in its shortest form."""
    longest = max((columns(row[-1][0].text) for row in shown if form == 0 or form < len(row[-1]) - 1), default=0)
    return min(longest, _LEAST_SENTENCE)


def _widen(table: Table, fit: _Fit, room: int) -> None:
    """Give shortened columns back what dropping another one has left over."""
    for name in [step.name for step in table.steps if isinstance(step, Shrink)]:
        if name in fit.wide and fit.total < room:
            fit.wide[name] = min(fit.used[table.name, name, 0], fit.wide[name] + room - fit.total)


def _apply(step: Step, fit: _Fit, room: int, measure: Callable[[str], None]) -> None:
    match step:
        case Drop(name):
            del fit.wide[name]
        case Shrink(name, least):
            fit.wide[name] = max(min(least, fit.wide[name]), fit.wide[name] - (fit.total - room))
        case Shorten(name):
            fit.form[name] += 1
            measure(name)


def _measure(table: Table, shown: Rows, fit: _Fit, name: str, remembered: Widths) -> None:
    """Set the width of a column to what its header, its cells and earlier frames need."""
    at, form = table.headers.index(name), fit.form[name]
    cells = [row[at][_form(row[at], form)].text for row in shown]
    key = (table.name, name, form)
    header = columns(name) + (2 if table.sorted_by == name else 0)
    fit.used[key] = fit.wide[name] = max(header if form == 0 else 4, remembered.get(key, 0), *map(columns, cells), 0)


def _longest_that_fits(cell: Cell, room: int) -> Span:
    """The longest form of a sentence that fits; where none does, its beginning says more than nothing."""
    said = [span for span in cell if span.text or not cell[0].text]
    return next((span for span in said if columns(span.text) <= room), said[-1])


def _form(cell: Cell, form: int) -> int:
    return min(form, len(cell) - 1)


def _header(table: Table, name: str) -> Span:
    if table.sorted_by != name:
        return Span(name, "bold")
    return Span(f"{name} {'↑' if table.reverse else '↓'}", "reverse")


def _line(cells: Sequence[Span], fit: _Fit, right: frozenset[str]) -> Line:
    spans = []
    for number, (name, cell) in enumerate(zip(fit.wide, cells, strict=True)):
        room = fit.wide[name]
        text = cut(cell.text, room)
        gap, is_last = " " * (room - columns(text)), number == len(cells) - 1
        end = "" if is_last else " " * fit.gap
        padded = text if is_last else gap + text if name in right else text + gap
        spans += [Span(padded, cell.style), Span(end)] if end else [Span(padded, cell.style)]
    return tuple(spans)
