"""Each key of `top` in each pane: what it does, and that it does nothing bad to an empty list."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mistudio_cli.monitor.hosts import HostRow
from mistudio_cli.monitor.snapshot import Snapshot
from mistudio_cli.top.actions import Actions
from mistudio_cli.top.controller import Controller
from mistudio_cli.top.details.lines import Details
from mistudio_cli.top.frame.overlay import HELP
from mistudio_cli.top.frame.paint import paint
from mistudio_cli.top.reading import parts_of
from mistudio_cli.top.tty.keys import Keys
from mistudio_cli.top.view import PANES, Question, View
from tasks.jobs.record import State
from tests.cli import recorded

HOSTS = tuple(HostRow(name, "running", 1, 0, 1.0, None, ()) for name in ("lab-1", "lab-2", "lab-3"))
FULL = replace(recorded.SNAPSHOT, hosts=HOSTS)
EMPTY = Snapshot(read_at=1.0, queues=(), jobs=(), workers=(), hosts=())


class Person:
    """Somebody at the keyboard of a screen, and what the keys have asked of the program."""

    def __init__(self, seen: Snapshot, pane: str = "jobs", height: int = 40) -> None:
        self.parts = parts_of(replace(seen, queued=recorded.QUEUED if seen.jobs else {}), 0.0)
        self.view, self.height = View(pane=pane), height
        self.requested: list[str] = []
        self.controller = Controller(self.view, self, Actions(lambda lasts: pytest.fail("asked"), Path("/nowhere")))
        self.paint()

    def paint(self) -> str:
        frame = paint(self.parts, 120, self.height, self.view)
        self.controller.parts, self.controller.frame = self.parts, frame
        self.view.widths, self.view.offset = frame.widths, dict(frame.offset)
        self.view.selected = dict(frame.selected)
        assert len(frame.lines) == self.height
        return "\n".join(frame.text)

    def press(self, *keys: str) -> str:
        """Press keys one after the other; what the screen shows then."""
        for key in keys:
            self.controller.press(key)
            shown = self.paint()
        return shown

    @property
    def index(self) -> int:
        return self.view.selected[self.view.pane].index

    @property
    def ids(self) -> tuple[str, ...]:
        return self.controller.frame.ids[self.view.pane]

    def quit(self) -> None:
        self.requested.append("quit")

    def redraw(self) -> None:
        self.requested.append("redraw")

    def freeze(self) -> None:
        self.requested.append("freeze")

    def open(self, pane: str, row: str) -> None:
        self.requested.append(f"open {pane} {row}")
        self.view.details = Details(pane, row, f"{pane} {row}")

    def close(self) -> None:
        self.requested.append("close")

    def perform(self, question: Question) -> None:
        self.requested.append(f"perform {question.text}")


@pytest.fixture(params=PANES)
def pane(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize(("key", "expected"), list(zip("12345", PANES, strict=True)))
def test_digits_choose_a_pane_from_any(pane: str, key: str, expected: str) -> None:
    for seen in (FULL, EMPTY):
        person = Person(seen, pane)
        shown = person.press(key)
        assert person.view.pane == expected
        title = "GPUs" if expected == "gpus" else expected
        assert f"[{key}:{title}]" in shown.splitlines()[-1]


def test_tab_goes_through_all_panes_and_back(pane: str) -> None:
    for seen in (FULL, EMPTY):
        person = Person(seen, pane)
        visited = {pane}
        for _ in range(4):
            person.press("tab")
            visited.add(person.view.pane)
        assert visited >= set(PANES if seen is FULL else PANES[:4])
        person = Person(seen, "queues")
        person.press("back tab")
        assert person.view.pane == "jobs"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("down", 1), ("j", 1), ("up", 0), ("k", 0), ("j k j", 1), ("page down page up", 0), ("end", -1),
        ("end home", 0), ("end down", -1), ("page down page down page down page down", -1),
    ],
)  # fmt: skip
def test_keys_that_move_select_another_row_and_keep_it_on_the_screen(pane: str, keys: str, expected: int) -> None:
    words = keys.replace("page down", "page_down").replace("page up", "page_up").split()
    person = Person(FULL, pane, height=24)
    shown = person.press(*(word.replace("_", " ") for word in words))
    last = len(person.ids) - 1
    assert person.index == (last if expected < 0 else min(expected, last))
    name = person.ids[person.index]
    assert pane == "gpus" or name[:14] in shown
    empty = Person(replace(EMPTY, devices=None), pane)
    empty.press(*(word.replace("_", " ") for word in words))
    assert (empty.index, empty.ids) == (0, ())


def test_the_selected_row_stays_selected_when_rows_come_before_it() -> None:
    person = Person(FULL)
    person.press("down", "down")
    chosen = person.ids[person.index]
    new = replace(recorded.RUNNING[0], id="1kg9t2tzzh7m00")
    person.parts = parts_of(replace(FULL, jobs=(new, *(FULL.jobs or ()))), 0.0)
    person.paint()
    assert person.ids[person.index] == chosen
    assert person.index == 3


def test_what_was_not_chosen_is_the_first_row_whatever_becomes_of_the_one_before() -> None:
    person = Person(FULL)
    first = recorded.RUNNING[0]
    ended = replace(first, state=State.SUCCEEDED, progress=None, finished_at=recorded.NOW)
    jobs = tuple(ended if job.id == first.id else job for job in FULL.jobs or ())
    person.parts = parts_of(replace(FULL, jobs=jobs, queued=recorded.QUEUED), 0.0)
    shown = person.paint()
    assert person.index == 0
    assert all(job.id in shown for job in recorded.RUNNING[1:])


def test_a_click_selects_the_row_under_it_and_one_more_opens_it(pane: str) -> None:
    person = Person(FULL, pane, height=50)
    shown = person.paint().splitlines()
    line = next(n for n, text in enumerate(shown) if text.startswith("worker-training@lab"))
    assert len(person.controller.frame.targets) in (len(shown), len(shown) - 1)
    person.press(f"click {line}")
    assert (person.view.pane, person.ids[person.index], person.requested) == ("workers", "worker-training@lab", [])
    person.press(f"click {line}")
    assert person.requested == ["open workers worker-training@lab"]
    person.view.details = None
    person.press("click 0", "click 49", "click 500")
    header = next(n for n, text in enumerate(person.paint().splitlines()) if text.startswith("QUEUE"))
    person.press(f"click {header}")
    assert person.view.pane == "queues"
    assert len(person.requested) == 1
    empty = Person(EMPTY, pane)
    for number in range(40):
        empty.press(f"click {number}")
    assert empty.requested == []


def test_the_wheel_moves_by_three_rows() -> None:
    person = Person(FULL)
    person.press("wheel down", "wheel down", "wheel up")
    assert person.index == 3


def test_a_filter_is_typed_kept_in_view_and_dropped(pane: str) -> None:
    words = {"jobs": "sweep", "queues": "train", "gpus": "4090", "workers": "silent", "hosts": "lab-2"}
    counts = {"jobs": 9, "queues": 1, "gpus": 2, "workers": 1, "hosts": 1}
    for seen in (FULL, EMPTY):
        person = Person(seen, pane)
        everything = len(person.ids)
        shown = person.press("/", *words[pane])
        assert f"/{words[pane]} Enter to keep" in shown
        shown = person.press("enter")
        assert f"/{words[pane]}" in shown
        if seen is FULL:
            assert len(person.ids) == counts[pane]
        person.press("/", "backspace", "ctrl-u", "enter")
        assert len(person.ids) == everything
        person.press("/", *words[pane], "esc")
        assert len(person.ids) == everything
        person.press("/", *words[pane], "enter", "esc")
        assert len(person.ids) == everything


def test_a_filter_needs_all_words_and_none_with_an_exclamation_mark() -> None:
    person = Person(FULL)
    person.press("/", *"pythia", "space", *"!sweep", "space", *"!train", "enter")
    assert set(person.ids) == {recorded.RUNNING[1].id, recorded.WAITING.id}
    person.press("/", "ctrl-u", *"nothing-like-that", "enter")
    assert person.ids == ()
    assert "no job matches" in person.press("j")
    person.press("/", "ctrl-u", *"sweep:l6", "enter")  # a tag
    assert len(person.ids) == 9


def test_s_sorts_by_the_next_column_and_marks_it_and_capital_s_reverses(pane: str) -> None:
    from mistudio_cli.top.controller import _SORTS

    for seen in (FULL, EMPTY):
        person = Person(seen, pane)
        unsorted = person.ids
        for name in _SORTS[pane]:
            person.press("s")
            assert person.view.sorts[pane] == name
            forth = person.ids
            marked = [
                span for line in person.controller.frame.lines for span in line if span.text.startswith(f"{name} ↓")
            ]
            assert all(span.style == "reverse" for span in marked)
            person.press("S")
            back = person.ids
            person.press("S")
            assert sorted(back) == sorted(forth)
        assert len(person.ids) == len(unsorted)
        person.press("s")
        assert person.ids == unsorted
        assert "press s first" in person.press("S")


def test_sorting_keeps_what_runs_before_what_waits() -> None:
    person = Person(FULL)
    person.press("s")
    names = {job.id: job.name for job in FULL.jobs or ()}
    assert [names[job] for job in person.ids[:4]] == sorted(job.name for job in recorded.RUNNING)
    person.press("S")
    assert [names[job] for job in person.ids[:4]] == sorted((job.name for job in recorded.RUNNING), reverse=True)


def test_the_sorted_column_is_marked_in_reverse_video() -> None:
    person = Person(FULL)
    person.press("s")
    (mark,) = [span for line in person.controller.frame.lines for span in line if span.text.startswith("NAME ↓")]
    assert mark.style == "reverse"


@pytest.mark.parametrize(("key", "follows"), [("enter", False), ("f", True)])
def test_enter_and_f_open_the_details_of_the_selected_row(pane: str, key: str, follows: bool) -> None:
    person = Person(FULL, pane)
    person.press("down", key)
    assert person.requested == [f"open {pane} {person.view.selected[pane].id}"]
    assert person.view.follow == follows
    for leave in ("q", "esc", "ctrl-c"):
        person.view.details = Details(pane, "x", "x")
        person.requested.clear()
        person.press(leave)
        assert person.view.details is None
        assert person.requested == ["close"], "and the panes stay"
    empty = Person(EMPTY, pane)
    assert f"no {pane} here" in empty.press(key)
    assert empty.requested == []


@pytest.mark.parametrize(
    ("key", "row", "question"),
    [
        ("c", 0, "Cancel 1kg9t2tzzh7m01 (train pythia-160m-l6-topk-k32)?"),
        ("R", -1, "Retry 1kg9t2tzzh6e01 (download NeelNanda/pile-10k)?"),
        ("+", 4, "Priority 6 instead of 5 for 1kg9t2tzzh8t00 (train pythia-160m-l6-sweep-0)?"),
        ("-", 4, "Priority 4 instead of 5 for 1kg9t2tzzh8t00 (train pythia-160m-l6-sweep-0)?"),
    ],
)
def test_what_changes_a_job_asks_first_and_only_y_does_it(pane: str, key: str, row: int, question: str) -> None:
    person = Person(FULL, pane)
    if pane != "jobs":
        assert "press 1 first" in person.press(key)
        assert person.requested == []
        assert person.view.question is None
        return
    moves = ["end"] if row < 0 else ["down"] * row
    shown = person.press(*moves, key)
    assert f"{question} y/N" in shown
    for no in ("n", "enter", "esc", "q", "ctrl-c", "space"):
        assert "Nothing was changed." in person.press(no)
        assert person.requested == []
        person.press(key)
    person.press("y")
    assert person.requested == [f"perform {question}"]
    empty = Person(EMPTY, pane)
    assert "no jobs here" in empty.press(key)
    assert empty.view.question is None


@pytest.mark.parametrize(
    ("key", "row", "said"),
    [
        ("c", -1, "1kg9t2tzzh6e01 has ended: succeeded"),
        ("R", 0, "1kg9t2tzzh7m01 is running: it has not ended"),
        ("+", 0, "1kg9t2tzzh7m01 is running: only a job that has not started has a priority to change"),
    ],
)
def test_what_cannot_be_changed_is_said_without_a_question(key: str, row: int, said: str) -> None:
    person = Person(FULL)
    assert said in person.press(*(["end"] if row < 0 else []), key)
    assert person.view.question is None


def test_a_priority_stays_on_its_scale() -> None:
    jobs = tuple(replace(job, priority=10) for job in recorded.QUEUED["training"])
    person = Person(FULL)
    person.parts = parts_of(replace(FULL, jobs=jobs, queued={"training": jobs}), 0.0)
    person.paint()
    assert "has priority 10 already" in person.press("+")


def test_p_pauses_and_resumes_the_queue_of_the_row(pane: str) -> None:
    person = Person(FULL, pane)
    shown = person.press("p")
    if pane not in ("jobs", "queues"):
        assert "press 2 first" in shown
        return
    assert f"Pause queue {'training' if pane == 'jobs' else 'high_priority'}? y/N" in shown
    person.press("n")
    if pane == "queues":
        assert "Resume queue low_priority? y/N" in person.press("end", "p")
    assert f"no {pane} here" in Person(EMPTY, pane).press("p")


def test_the_other_keys_do_the_same_in_every_pane(pane: str) -> None:
    for seen in (FULL, EMPTY):
        person = Person(seen, pane)
        shown = person.press("?")
        assert "following its log" in shown
        person.press("end")
        for leave in ("q", "?", "esc", "ctrl-c"):
            person.press(leave)
            assert not person.view.help
            person.press("?")
        person.press("q")
        assert person.requested == ["close"] * 5
        person.requested.clear()
        person.press("space", "q", "ctrl-c", "ctrl-d", "ctrl-l")
        assert person.requested == ["freeze", "quit", "quit", "quit", "redraw"]
        for key in ("x", "9", "ä", "left", "right", "backspace"):
            person.press(key)
        assert len(person.requested) == 5


def test_the_help_names_every_key() -> None:
    text = "\n".join(HELP)
    for key in ("Tab", "↑ ↓", "k j ", "PgUp PgDn", "Home End", "Enter", "f ", "/ ", "s ", "S ", "Space", "c ", "R ",
                "+ -", "p ", "q, Ctrl-C, Esc", "Ctrl-Z", "1 2 3 4 5"):  # fmt: skip
        assert key in text, key
    assert max(map(len, HELP)) <= 100


def test_details_scroll_and_follow() -> None:
    from mistudio_cli.top.details.lines import text_block

    person = Person(FULL, height=20)
    lines = [f"line {number}" for number in range(100)]
    person.view.details = Details("jobs", "x", "job x", (text_block("log", lines),))
    shown = person.paint()
    assert "line 0" in shown
    assert "line 1\n" in person.press("j")
    assert "line 99" in person.press("end")
    assert "line 99" not in person.press("k")
    assert "following" in person.press("f")
    person.view.details = Details("jobs", "x", "job x", (text_block("log", [*lines, "added"]),))
    assert "added" in person.paint()
    assert "following" not in person.press("page up")
    assert "line 0" in person.press("home")


@pytest.mark.parametrize(
    ("chunks", "keys"),
    [
        ([b"\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[H\x1b[F\x1b[1~\x1b[4~"],
         ["up", "down", "page up", "page down", "home", "end", "home", "end"]),
        ([b"\x1b", b"[A"], ["up"]),
        ([b"\x1b[", b"B"], ["down"]),
        ([b"\x1b[Z\t\r\n\x7f\x03 "], ["back tab", "tab", "enter", "enter", "backspace", "ctrl-c", "space"]),
        ([b"\x1b\x1b[A"], ["esc", "up"]),
        ([b"\x1b[200~x\x1b[1;5A"], ["x"]),
        (["ä語".encode()], ["ä", "語"]),
        ([b"\x1b[<0;5;7M\x1b[<0;5;7m\x1b[<64;1;1M\x1b[<65;1;1M\x1b[<2;1;1M"], ["click 6", "wheel up", "wheel down"]),
        (["語".encode()[:1], "語".encode()[1:]], ["語"]),
        ([b"\xff\x00\x01"], ["\ufffd"]),
    ],
)  # fmt: skip
def test_keys_are_known_by_the_sequences_of_terminals(chunks: list[bytes], keys: list[str]) -> None:
    reader = Keys()
    assert [key for chunk in chunks for key in reader.feed(chunk)] == keys
    assert not reader.is_waiting


def test_an_esc_on_its_own_is_the_key_of_that_name() -> None:
    reader = Keys()
    assert reader.feed(b"\x1b") == []
    assert reader.is_waiting
    assert reader.flush() == ["esc"]
    assert reader.feed(b"q") == ["q"]
