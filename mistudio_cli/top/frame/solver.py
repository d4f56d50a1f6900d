"""Which form each pane has on a screen of N lines: the best that fit, the most important panes first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mistudio_cli.top.panes.pane import Pane
    from mistudio_cli.top.view import View

#: Waiting jobs that are shown before less important panes get more than a line, and after that.
FIRST_WAITING, THEN_WAITING = 5, 10

#: Ended jobs that are shown, or as many more waiting ones, before queues and workers without anything to do.
FIRST_ENDED = 5

#: Lines of alarms: at first, and where there is room.
_FEW_ALARMS, _MOST_ALARMS = 3, 8


@dataclass(frozen=True)
class Form:
    """How a pane is shown: on one line, or as a table of N rows with a header, a note and a count of the rest."""

    rows: int = 0
    header: bool = False
    note: bool = False
    more: bool = False
    is_compact: bool = False  # whether these are the active rows alone
    is_whole: bool = False  # whether it is of no use with fewer rows

    @property
    def lines(self) -> int:
        """The lines it takes."""
        return self.rows + self.header + self.note + self.more


ONE_LINE = Form(rows=1, is_whole=True)

#: What a pane is to become, if there is room for it.
Step = tuple[str, Form]


def solve(steps: Iterable[Step], height: int) -> dict[str, Form]:
    """Take each step that fits into the lines that are left; of a table as many rows as do."""
    plan: dict[str, Form] = {}
    left = height
    for key, form in steps:
        before = plan.get(key, Form())
        if form.lines < before.lines:
            continue
        fitting = _largest(form, before, left)
        if fitting is not None:
            left -= fitting.lines - before.lines
            plan[key] = fitting
    return plan


def _largest(form: Form, before: Form, left: int) -> Form | None:
    """The form, or the one with the most rows that fits and shows more than before; None where there is none."""
    if form.lines - before.lines <= left:
        return form
    missing = form.lines + (not form.more) - before.lines - left
    fewer = replace(form, rows=form.rows - missing, more=True)
    return fewer if not form.is_whole and fewer.rows > before.rows else None


def steps(panes: Mapping[str, Pane], alarms: int, view: View, height: int) -> Iterator[Step]:
    """What to show, the most important first."""
    jobs = panes["jobs"]
    lines = [key for key in ("queues", "gpus", "workers") if key in panes]
    if view.typing is not None or view.question or view.message:
        yield "footer", ONE_LINE
    if alarms:
        yield "alarms", ONE_LINE
    yield "jobs", Form(jobs.must) if jobs.must else ONE_LINE
    for key in lines:
        yield key, ONE_LINE
    if view.has_keys:
        yield "footer", ONE_LINE
    if jobs.ids:
        yield "jobs", _table(jobs, jobs.must, header=False)
        yield "jobs", _table(jobs, max(1, jobs.must))
        yield "jobs", _table(jobs, min(len(jobs.active), jobs.must + FIRST_WAITING) or 1)
    if view.pane in panes and view.pane != "jobs":
        yield view.pane, _table(panes[view.pane], min(len(panes[view.pane].ids), max(3, height // 3)))
    yield "title", ONE_LINE
    if "hosts" in panes:
        yield "hosts", ONE_LINE
    yield from _better(panes, alarms)


def _better(panes: Mapping[str, Pane], alarms: int) -> Iterator[Step]:
    """What there is room for once everything important has a line."""
    jobs = panes["jobs"]
    waiting = min(len(jobs.active), jobs.must + THEN_WAITING)
    if alarms > 1:
        yield "alarms", Form(min(alarms, _FEW_ALARMS), is_whole=True)
    yield from _compact(panes, "queues")
    yield from _full(panes, "gpus")
    if jobs.ids:
        yield "jobs", _table(jobs, max(1, waiting))
    yield from _compact(panes, "workers")
    if alarms > _FEW_ALARMS:
        yield "alarms", Form(min(alarms, _MOST_ALARMS), is_whole=True)
    if jobs.ids:
        yield "jobs", _table(jobs, min(len(jobs.ids), waiting + FIRST_ENDED))
    yield from _full(panes, "queues", is_whole=True)
    yield from _full(panes, "workers", is_whole=True)
    yield from _full(panes, "hosts")
    gaps = sum(bool(panes[key].ids) for key in ("queues", "gpus", "workers", "hosts") if key in panes)
    yield "gaps", Form(gaps, is_whole=True)
    if jobs.ids:
        yield "jobs", _table(jobs, len(jobs.ids))


def _table(pane: Pane, rows: int, *, header: bool = True, compact: bool = False) -> Form:
    rows = max(0, rows)
    return Form(
        rows, header, bool(pane.note) and header, len(pane.ids) + pane.unread > rows or bool(pane.older), compact
    )


def _compact(panes: Mapping[str, Pane], key: str) -> Iterator[Step]:
    if key in panes and panes[key].active:
        yield key, _table(panes[key], len(panes[key].active), compact=True)


def _full(panes: Mapping[str, Pane], key: str, *, is_whole: bool = False) -> Iterator[Step]:
    """All rows; with `is_whole` not some of them, which may be others than those that matter."""
    if key in panes and panes[key].ids:
        yield key, replace(_table(panes[key], len(panes[key].ids)), is_whole=is_whole)
