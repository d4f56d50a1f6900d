"""What each key does to the view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mistudio_cli.top.actions import Actions, Refused
from mistudio_cli.top.frame.paint import Frame
from mistudio_cli.top.panes import devices, hosts, jobs, queues, workers
from mistudio_cli.top.reading import Parts
from mistudio_cli.top.view import PANES, Question, Selected, View
from mistudio_cli.top.waiting_order import waiting_jobs
from tasks.jobs.record import Job

_SORTS = {"jobs": jobs.KEYS, "queues": queues.KEYS, "gpus": devices.KEYS, "workers": workers.KEYS, "hosts": hosts.KEYS}
_PAGE, _ALL, _WHEEL = 10, 1_000_000, 3

#: Steps of the keys that move, in rows; None is a page.
_MOVES: dict[str, tuple[int, int | None]] = {
    "up": (-1, 1),
    "k": (-1, 1),
    "down": (1, 1),
    "j": (1, 1),
    "page up": (-1, None),
    "page down": (1, None),
    "wheel up": (-1, _WHEEL),
    "wheel down": (1, _WHEEL),
    "home": (-1, _ALL),
    "end": (1, _ALL),
}


class Host(Protocol):
    """What the keys ask of the loop."""

    def quit(self) -> None:
        """End."""

    def redraw(self) -> None:
        """Write the whole screen."""

    def freeze(self) -> None:
        """Show what was read until now, or what is read from now on."""

    def open(self, pane: str, row: str) -> None:
        """Read and show the details of a row."""

    def close(self) -> None:
        """Read no more details."""

    def perform(self, question: Question) -> None:
        """Do what was asked for, beside the screen."""


class Controller:
    """Keys of the panes, of details and help, of the filter that is typed and of questions."""

    def __init__(self, view: View, host: Host, actions: Actions) -> None:
        self._view, self._host, self._actions = view, host, actions
        self.parts, self.frame = Parts(), Frame(())
        self._keys: dict[str, Callable[[], None]] = {
            "q": host.quit,
            "ctrl-c": host.quit,
            "ctrl-d": host.quit,
            "esc": self._reset,
            "?": self._help,
            "tab": lambda: self._go(1),
            "back tab": lambda: self._go(-1),
            "/": self._type,
            "s": self._sort,
            "S": self._reverse,
            "enter": self._open,
            "f": lambda: self._open(follow=True),
            "space": host.freeze,
            "c": lambda: self._ask_of_job("cancel", self._actions.cancel),
            "R": lambda: self._ask_of_job("retry", self._actions.retry),
            "+": lambda: self._ask_of_job("raise", lambda job: self._actions.change_priority(job, 1)),
            "=": lambda: self._ask_of_job("raise", lambda job: self._actions.change_priority(job, 1)),
            "-": lambda: self._ask_of_job("lower", lambda job: self._actions.change_priority(job, -1)),
            "p": self._ask_of_queue,
        }

    def press(self, key: str) -> None:
        """Do what a key does."""
        view = self._view
        if key == "ctrl-l":
            self._host.redraw()
        elif view.question is not None:
            self._answer(key, view.question)
        elif view.typing is not None:
            self._edit(key, view.typing)
        else:
            view.message = ""
            if view.is_overlaid:
                self._in_overlay(key)
            elif key in _MOVES:
                self._move(key)
            elif key.startswith("click "):
                self._click(int(key.split()[-1]))
            elif key in "12345":
                view.pane = PANES[int(key) - 1]
            elif key in self._keys:
                self._keys[key]()

    def _answer(self, key: str, question: Question) -> None:
        self._view.question = None
        if key in ("y", "Y"):
            self._view.message = "…"
            self._host.perform(question)
        else:
            self._view.message = "Nothing was changed."

    def _edit(self, key: str, text: str) -> None:
        """The filter takes effect as it is typed; Esc drops it."""
        view = self._view
        if key in ("enter", "tab"):
            view.typing = None
            return
        if key in ("esc", "ctrl-c"):
            view.typing, text = None, ""
        elif key == "backspace":
            view.typing = text = text[:-1]
        elif key == "ctrl-u":
            view.typing = text = ""
        elif key == "space" or len(key) == 1:
            view.typing = text = text + (" " if key == "space" else key)
        view.filters[view.pane] = text.strip()

    def _in_overlay(self, key: str) -> None:
        view = self._view
        if key in ("q", "esc", "ctrl-c", "ctrl-d", "?", "left"):
            view.help, view.details, view.follow, view.scroll = False, None, False, 0
            self._host.close()
        elif key == "f":
            view.follow = not view.follow and view.details is not None
            view.scroll = self.frame.most_scroll
        elif key == "space":
            self._scroll(1, len(self.frame.lines) - 2)
        elif key in _MOVES:
            direction, rows = _MOVES[key]
            self._scroll(direction, len(self.frame.lines) - 2 if rows is None else rows)

    def _scroll(self, direction: int, rows: int) -> None:
        view, most = self._view, self.frame.most_scroll
        start = most if view.follow else min(view.scroll, most)
        view.scroll, view.follow = max(0, min(most, start + direction * max(1, rows))), False

    def _move(self, key: str) -> None:
        view, (direction, rows) = self._view, _MOVES[key]
        ids = self.frame.ids.get(view.pane, ())
        at = self.frame.selected.get(view.pane, Selected()).index
        step = self.frame.page.get(view.pane, _PAGE) if rows is None else rows
        if ids:
            index = max(0, min(len(ids) - 1, at + direction * step))
            view.selected[view.pane] = Selected(ids[index], index, is_chosen=index > 0)

    def _click(self, line: int) -> None:
        """Select the row on a line, or open its details where it is selected."""
        view = self._view
        target = self.frame.targets[line] if 0 <= line < len(self.frame.targets) else None
        if target is None:
            return
        pane, row = target
        was_selected = pane == view.pane and row == self.frame.selected.get(pane, Selected()).index
        view.pane = pane
        if row >= 0:
            view.selected[pane] = Selected(self.frame.ids[pane][row], row, is_chosen=True)
            if was_selected:
                self._open()

    def _go(self, step: int) -> None:
        panes = [pane for pane in PANES if pane in self.frame.ids] or list(PANES)
        at = panes.index(self._view.pane) if self._view.pane in panes else 0
        self._view.pane = panes[(at + step) % len(panes)]

    def _reset(self) -> None:
        """Esc on the panes: drop the filter."""
        self._view.filters.pop(self._view.pane, None)

    def _help(self) -> None:
        self._view.help, self._view.scroll = True, 0

    def _type(self) -> None:
        self._view.typing = self._view.filters.get(self._view.pane, "")

    def _sort(self) -> None:
        """The next column; after the last the order in which things are read."""
        view, names = self._view, [None, *_SORTS[self._view.pane]]
        following = names[(names.index(view.sorts.get(view.pane)) + 1) % len(names)]
        view.sorts.pop(view.pane, None)
        if following is not None:
            view.sorts[view.pane] = following
        view.message = f"sorted by {following}" if following else "not sorted"

    def _reverse(self) -> None:
        view = self._view
        if view.pane not in view.sorts:
            view.message = "not sorted: press s first"
        else:
            view.reversed ^= {view.pane}

    def _open(self, *, follow: bool = False) -> None:
        row = self._row()
        if row is not None:
            self._view.follow, self._view.scroll = follow, 0
            self._host.open(self._view.pane, row)

    def _row(self) -> str | None:
        """The selected row's id; says so where there is none."""
        row = self.frame.selected.get(self._view.pane, Selected()).id
        if not row:
            self._view.message = f"no {self._view.pane} here"
        return row or None

    def _job(self) -> Job | None:
        wanted = self.frame.selected.get("jobs", Selected()).id
        known = [*waiting_jobs(self.parts), *(self.parts.jobs.value or ())]  # what waits is read last
        return next((job for job in known if job.id == wanted), None)

    def _ask_of_job(self, verb: str, ask: Callable[[Job], Question]) -> None:
        view = self._view
        if view.pane != "jobs":
            view.message = f"only jobs can be changed so ({verb}): press 1 first"
        elif self._row() is not None and (job := self._job()) is not None:
            self._ask(lambda: ask(job))

    def _ask_of_queue(self) -> None:
        view = self._view
        if view.pane not in ("jobs", "queues"):
            view.message = "only queues can be paused: press 2 first"
            return
        row, job = self._row(), self._job()
        name = row if view.pane == "queues" else job.queue if job else None
        if row is None or name is None:
            return
        states = {queue.name: queue.state for queue in self.parts.queues.value or ()}
        self._ask(lambda: self._actions.pause_or_resume(name, is_paused=states.get(name) == "paused"))

    def _ask(self, question: Callable[[], Question]) -> None:
        try:
            self._view.question = question()
        except Refused as refused:
            self._view.message = str(refused)
