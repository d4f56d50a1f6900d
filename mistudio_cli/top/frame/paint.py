"""The screen as lines: a pure function of what was read, the size, and what the person has chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mistudio_cli.terminal.humanize import duration
from mistudio_cli.top.alarms import Alarm, alarms
from mistudio_cli.top.frame.columns import Widths, lay_out
from mistudio_cli.top.frame.footer import KEYS, TITLES, footer_of
from mistudio_cli.top.frame.overlay import overlaid
from mistudio_cli.top.frame.solver import ONE_LINE, Form, solve, steps
from mistudio_cli.top.frame.text import Line, Span, clean, fitted, plain, styled, width
from mistudio_cli.top.panes.devices import devices_pane
from mistudio_cli.top.panes.hosts import has_others, hosts_pane
from mistudio_cli.top.panes.jobs import jobs_pane
from mistudio_cli.top.panes.pane import Pane, missing
from mistudio_cli.top.panes.queues import queues_pane
from mistudio_cli.top.panes.workers import workers_pane
from mistudio_cli.top.reading import Parts
from mistudio_cli.top.view import Selected, View
from mistudio_cli.views import tables

#: A pane and the index of its row, -1 for its other lines; None for a line of no pane.
Target = tuple[str, int] | None


@dataclass(frozen=True)
class Frame:
    """One picture: its lines, and what of it the next one and the keys start from."""

    lines: tuple[Line, ...]
    widths: Widths = field(default_factory=dict)
    offset: Mapping[str, int] = field(default_factory=dict)
    selected: Mapping[str, Selected] = field(default_factory=dict)
    ids: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of all rows of each pane
    page: Mapping[str, int] = field(default_factory=dict)  # rows of each pane that are shown
    most_scroll: int = 0  # in details and help
    targets: tuple[Target, ...] = ()  # what a click on each line means

    @property
    def text(self) -> list[str]:
        """The lines without their styles."""
        return [plain(line) for line in self.lines]


def paint(parts: Parts, columns_: int, rows: int, view: View) -> Frame:
    """The picture for a screen of that size. Never more lines than `rows`, and none longer than `columns_`."""
    if view.is_overlaid:
        lines, most_scroll = overlaid(view, columns_, max(1, rows - 1))
        footer = footer_of(view, columns_, ("Esc back", "f follow", "↑↓ PgUp PgDn scroll"))
        return Frame((*lines, footer)[: max(1, rows)], view.widths, view.offset, view.selected, most_scroll=most_scroll)
    panes = panes_of(parts, view)
    said = alarms(parts)
    plan = solve(steps(panes, len(said), view, rows), rows)
    picture = _Picture(panes, view, columns_)
    top: list[Line] = [(Span(_title(parts, view), "bold"),)] if "title" in plan else []
    top += _alarm_lines(said, plan["alarms"], columns_) if "alarms" in plan else []
    top += picture.pane("jobs", plan["jobs"]) if "jobs" in plan else []
    above = len(top) - len(picture.targets)
    bottom, targets = _bottom(picture, plan)
    last = [footer_of(view, columns_, KEYS)] if "footer" in plan else []
    blank: list[Line] = [()] * (rows - len(top) - len(bottom) - len(last))
    fitting = tuple(fitted(line, columns_) for line in (*top, *blank, *bottom, *last))
    ids = {key: pane.ids for key, pane in panes.items()}
    where = (*[None] * above, *picture.targets[: len(top) - above], *[None] * len(blank), *targets)
    return Frame(fitting[:rows], picture.widths, picture.offset, picture.selected, ids, picture.page, targets=where)


def panes_of(parts: Parts, view: View) -> dict[str, Pane]:
    """The panes that there are."""
    panes = {"jobs": jobs_pane(parts, view), "queues": queues_pane(parts, view)}
    panes["gpus"] = devices_pane(parts, view)
    panes["workers"] = workers_pane(parts, view)
    if has_others(parts) or view.pane == "hosts":
        panes["hosts"] = hosts_pane(parts, view)
    return panes


class _Picture:
    """Paints panes in their forms, and notes what the keys need to know of them."""

    def __init__(self, panes: Mapping[str, Pane], view: View, room: int) -> None:
        self._panes, self._view, self._room = panes, view, room
        self.widths, self.offset = dict(view.widths), dict(view.offset)
        self.selected = dict(view.selected)
        self.page: dict[str, int] = {}
        self.targets: list[Target] = []  # of all lines until now

    def pane(self, key: str, form: Form) -> list[Line]:
        """The lines of one pane."""
        pane = self._panes[key]
        self._select(pane)
        if not form.rows or (form == ONE_LINE and not (key == "jobs" and pane.must)):
            self.targets.append((key, -1))
            return [self._one_line(pane)]
        rows, before = self._window(pane, form)
        lines, used = lay_out(pane.table, rows, self._room, self._view.widths)
        self.widths |= used
        header, *below = lines
        self.page[key] = len(rows)
        marked = [self._marked(pane, row, line) for row, line in zip(rows, below, strict=True)]
        said: list[Line] = [(Span(pane.note, "dim"),)] if form.note else []
        head = [styled(header, "dim") if pane.is_stale else header] if form.header else []
        rest = [_more(pane, rows, before)] if form.more else []
        self.targets += [(key, row) for row in (*[-1] * len(said + head), *rows, *[-1] * len(rest))]
        return [*said, *head, *marked, *rest]

    def _one_line(self, pane: Pane) -> Line:
        filtered = self._view.filters.get(pane.key, "")
        said = f"{pane.empty} /{clean(filtered)}: Esc drops the filter"
        line = (Span(said, "dim"),) if filtered and not pane.ids else pane.summary.line(self._room)
        is_focused = self._view.has_keys and self._view.pane == pane.key and not pane.ids
        return styled(line, "reverse") if is_focused else line

    def _select(self, pane: Pane) -> None:
        """Where the selected row is now; the nearest one where it has gone."""
        before = self._view.selected.get(pane.key, Selected())
        index = pane.ids.index(before.id) if before.id in pane.ids else min(before.index, max(0, len(pane.ids) - 1))
        index = index if before.is_chosen else 0
        self.selected[pane.key] = Selected(pane.ids[index], index, before.is_chosen) if pane.ids else Selected()

    def _window(self, pane: Pane, form: Form) -> tuple[list[int], int]:
        """The rows to show, which are those around the selected one; and how many are before them."""
        is_focused = self._view.has_keys and self._view.pane == pane.key
        if form.is_compact and not is_focused:
            return list(pane.active[: form.rows]), 0
        index = self.selected[pane.key].index if is_focused else 0
        offset = min(self._view.offset.get(pane.key, 0), max(0, len(pane.ids) - form.rows)) if is_focused else 0
        offset = min(max(offset, index - form.rows + 1), index)
        self.offset[pane.key] = offset
        return list(range(offset, min(len(pane.ids), offset + form.rows))), offset

    def _marked(self, pane: Pane, row: int, line: Line) -> Line:
        is_focused = self._view.has_keys and self._view.pane == pane.key
        if is_focused and row == self.selected[pane.key].index:
            rest = self._room - width(line)
            return (*styled(line, "reverse"), Span(" " * rest, "reverse")) if rest > 0 else styled(line, "reverse")
        if pane.is_stale:
            return styled(line, "dim")
        return tuple(Span(span.text, span.style or "dim") for span in line) if row in pane.dim else line


def _more(pane: Pane, rows: Sequence[int], before: int) -> Line:
    """How many rows are not shown."""
    count = len(pane.ids) + pane.unread - len(rows)
    what = pane.key.removesuffix("s") if count == 1 else pane.key
    above = f", {before} of them above" if before else ""
    if not count:
        return (Span(f"… older ones: {pane.older}", "dim"),)
    older = f", and older ones: {pane.older}" if pane.older else ""
    return (Span(f"… {count} more {TITLES.get(what, what)}{above}{_states(pane, rows)}{older}", "dim"),)


def _states(pane: Pane, rows: Sequence[int]) -> str:
    """How many of the rows that are not shown are in each state, such as ": 1 failed, 2 queued"."""
    shown = set(rows)
    counts = Counter(state for row, state in enumerate(pane.states) if row not in shown)
    counts["queued"] += pane.unread
    failed_first = sorted(counts.items(), key=lambda item: item[0] != "failed")
    said = ", ".join(f"{count} {state}" for state, count in failed_first if count)
    return f": {said}" if said else ""


def _bottom(picture: _Picture, plan: Mapping[str, Form]) -> tuple[list[Line], list[Target]]:
    """The panes below the jobs, which stay at the lower edge; between tables a line is left empty if there is room."""
    lines: list[Line] = []
    targets: list[Target] = []
    for key in filter(plan.__contains__, ("queues", "gpus", "workers", "hosts")):
        before = len(picture.targets)
        painted = picture.pane(key, plan[key])
        if "gaps" in plan and len(painted) > 1:
            lines, targets = [*lines, ()], [*targets, None]
        lines, targets = lines + painted, targets + picture.targets[before:]
    return lines, targets


def _title(parts: Parts, view: View) -> str:
    """The machine, or that it is not known yet."""
    host = tables.host(parts.host.value) if parts.host.value is not None else missing(parts.host)
    frozen = "" if view.frozen_s is None else f"frozen for {duration(view.frozen_s)}  "
    old = f"  ({duration(parts.host.age_s)} ago)" if parts.host.is_stale else ""
    return f"{frozen}{clean(host)}{old}"


def _alarm_lines(said: Sequence[Alarm], form: Form, room: int) -> list[Line]:
    """One line with the number of alarms and as many as fit, or a line for each; commands where they fit."""
    room_of_text = room - len("! ")
    if form.rows == 1:
        count = f"{len(said)} alarms: " if len(said) > 1 else ""
        text = " · ".join(alarm.sentence for alarm in said) if count else said[0].text(room_of_text)
        return [fitted((Span(f"! {count}{text}", "alarm"),), room)]
    shown = [f"! {alarm.text(room_of_text)}" for alarm in said[: form.rows]]
    if len(said) > form.rows:
        shown[-1] = f"! … {len(said) - form.rows + 1} more alarms"
    return [(Span(line, "alarm"),) for line in shown]
