"""Tables: whole words in a pipe, the terminal's width on a terminal, and figures that say what they mean."""

from __future__ import annotations

import dataclasses

import pytest

from mistudio_cli.terminal import humanize
from mistudio_cli.terminal.layout import lay_out
from tasks.jobs.record import Job, Progress, State

HEADERS = ["NAME", "COUNT", "NOTE"]
ROWS = [["one", "1", "x" * 60], ["seventeen", "17", "ok"]]


def test_a_pipe_gets_whole_words_and_no_colour() -> None:
    lines = lay_out(HEADERS, ROWS, width=None, colour=False).splitlines()
    assert lines == ["NAME       COUNT  NOTE", f"one            1  {'x' * 60}", "seventeen     17  ok"]


@pytest.mark.parametrize("width", [1, 40, 60])
def test_in_a_narrow_terminal_the_widest_columns_give_way_first_and_ids_never(width: int) -> None:
    rows = [["01m84tq9wz28hb", "1", "x" * 60, "y" * 50], ["second", "17", "ok", "ok"]]
    lines = lay_out(["ID", "COUNT", "NOTE", "NAME"], rows, width, colour=False).splitlines()
    assert lines[1].startswith("01m84tq9wz28hb  ")
    assert lines[1].count("…") == 2
    assert width == 1 or lines[0].split() == ["ID", "COUNT", "NOTE", "NAME"]
    notes = lines[1].split()[2:]
    assert abs(len(notes[0]) - len(notes[1])) <= 1
    assert max(map(len, lines)) <= max(width, 14 + 5 + 14 + 14 + 6)


def test_colour_does_not_shift_a_column() -> None:
    lines = lay_out(["STATE", "N"], [["ok", "1"], ["no worker", "2"]], 80, colour=True).splitlines()
    assert lines[1] == "\x1b[32mok       \x1b[0m  1"


def test_a_table_without_rows_is_its_headers() -> None:
    assert lay_out(HEADERS, [], None, colour=False) == "NAME  COUNT  NOTE"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3725, "1 h 2 min"), (90_000, "1 d 1 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert humanize.duration(seconds) == words


@pytest.mark.parametrize(
    ("amount", "words"), [(None, "n/a"), (0, "0 B"), (1500, "1.5 KiB"), (24 << 30, "24 GiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes(amount: int | None, words: str) -> None:
    assert humanize.size(amount) == words


def a_running_job(done: int, total: int | None, rate: float | None = None) -> Job:
    result = Progress("training", done, total, "steps", rate)
    return Job("id", "train", "a", "training", {}, state=State.RUNNING, progress=result, started_at=1.0)


def test_progress_is_a_hundred_percent_only_when_the_job_has_succeeded() -> None:
    almost = a_running_job(1000, 1000)
    assert humanize.percent(almost) == 99
    assert humanize.percent(dataclasses.replace(almost, state=State.SUCCEEDED)) == 100


def test_progress_reads_as_words() -> None:
    assert humanize.progress(a_running_job(450, 1000, 12.345)) == "45 % training (450/1,000 steps, 12.3/s, 44 s left)"
    assert ", 56,100/s, " in humanize.progress(a_running_job(450, 1000, 56100.4))
    assert humanize.progress(a_running_job(450, None)) == "training 450 steps"
    assert humanize.progress(a_running_job(0, None)) == "training"
    assert humanize.progress(a_running_job(0, 0)) == "training"


def test_a_job_of_another_try_shows_why() -> None:
    again = Job("id", "train", "a", "training", {}, state=State.QUEUED, attempt=2, reason="its worker\nwas lost")
    assert humanize.note(again) == "its worker was lost"


def test_what_a_job_said_steers_no_terminal() -> None:
    assert humanize.one_line("\x1b[31mRed\x1b[0m:\ta\r\nbeep\x07 \x9b2J ünïcode") == r"Red: a beep\x07 \x9b2J ünïcode"
