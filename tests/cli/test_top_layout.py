"""The screen of `top` at every size: what matters most is never lost, and nothing in a name gets out of its cell."""

from __future__ import annotations

import os
import random
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import pyte
import pytest

from mistudio_cli.monitor.celery_workers import CeleryWorker, CeleryWorkers
from mistudio_cli.monitor.health.causes import health_of
from mistudio_cli.monitor.health.disagreements import LASTING_S, Disagreements
from mistudio_cli.monitor.snapshot import Part, QueueRow, Snapshot, Trouble, WorkerRow
from mistudio_cli.terminal.layout import columns
from mistudio_cli.top.alarms import alarms
from mistudio_cli.top.frame.paint import Frame, paint
from mistudio_cli.top.frame.text import Look, clean, plain
from mistudio_cli.top.reading import Parts, parts_of
from mistudio_cli.top.tty.screen import Screen
from mistudio_cli.top.view import PANES, Selected, View
from tasks.accelerators.devices import Device, Devices
from tasks.jobs.record import Job, Progress, State
from tasks.queues import QUEUE_NAMES
from tasks.redis_client.server_state import ServerState
from tests.cli import recorded
from tests.cli.painted import frame_of

SCREENS = Path(__file__).parent / "screens"
SIZES = [(40, 10), (80, 24), (120, 40), (200, 60)]

#: Names that spoil a screen: escapes, wide letters, combining marks, right to left, joiners, and very long ones.
HOSTILE = (
    "a\x1b[2J\x1b]0;owned\x07\x9b31m",
    "\r\n\t\x00\x7f",
    "語" * 60,
    "e\u0301" * 30 + "\u0301" * 500,
    "\u0301\u0302leading marks",
    "שלום עולם" * 9,
    "مرحبا بالعالم",
    "\u202eevil\u2066\u200f\u200e",
    "👩‍👩‍👧‍👦" * 9,
    "🇩🇪🇫🇷",
    "नमस्ते" * 5,
    "한글" * 20,
    "x" * 10_000,
    "語" * 10_000,
    "",
    " ",
    "\ud800",
    "\ufeff\u200b",
)
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def hostile_snapshot(dice: random.Random) -> Snapshot:
    """A snapshot with any number of everything, and names from anywhere."""

    def name() -> str:
        return dice.choice(HOSTILE) + dice.choice(("", "", dice.choice(HOSTILE)))

    def job(number: int, state: State) -> Job:
        total = dice.choice((None, 10, 1_000_000))
        return Job(
            f"{state[0]}{number:04}", name(), name(), dice.choice((*QUEUE_NAMES, name())), {}, state=state,
            reason=name(), attempt=dice.randint(0, 3), tags=(name(),), device=dice.choice((None, "cuda:0", name())),
            progress=dice.choice((None, Progress(name(), 5, total, name(), dice.choice((None, 1e-9, 3.0, 1e12))))),
            metrics=dice.choice((None, {name(): 1.0, name(): None})), started_at=dice.choice((None, 1.0, 5e5)),
            error=dice.choice((None, {"message": name()})) if state is State.FAILED else None,
            created_at=1.0, queued_at=dice.random() * 1e6, cancel_requested=dice.random() < 0.1,
        )  # fmt: skip

    counts = {state: dice.choice((0, 1, 3, 12, 40)) for state in State}
    jobs = tuple(job(number, state) for state, count in counts.items() for number in range(count))
    queues = tuple(
        QueueRow(
            name_, dice.choice(("ok", "paused", "no worker")), dice.choice((0, 7)), 0, None, 1, 8, (0.0,) * 3, None
        )
        for name_ in QUEUE_NAMES
    )
    workers = tuple(
        WorkerRow(f"{name()}{number}", dice.choice(("running", "silent", "fatal", name())), 1, (name(),), 4, 2, 1, 1,
                  1.0, 0, 1.0, name(), 99.0, 99.0, name())
        for number in range(dice.choice((0, 1, 6, 30)))
    )  # fmt: skip
    cards = tuple(Device(i, name(), f"GPU-{i}", 1 << 34, 1 << 30, 50.0, problem=dice.choice((None, name())))
                  for i in range(dice.choice((0, 2, 8))))  # fmt: skip
    errors = tuple(Trouble(name(), name()) for _ in range(dice.choice((0, 0, 1, 3))))
    whole = Snapshot(
        read_at=1e6, queues=queues, jobs=jobs, workers=workers, devices=Devices(cards), leases={}, errors=errors
    )
    missing = dict.fromkeys(dice.sample(("queues", "workers", "devices", "leases", "host"), dice.randint(0, 3)))
    return replace(whole, **missing)


def hostile_view(dice: random.Random) -> View:
    view = View(pane=dice.choice(PANES))
    view.has_keys = dice.random() < 0.8
    view.selected = {view.pane: Selected("", dice.randint(0, 50), is_chosen=True)}
    view.sorts = {"jobs": dice.choice(("NAME", "PROGRESS", "DURATION", "DEVICE"))} if dice.random() < 0.3 else {}
    view.message = dice.choice(("", "", "", dice.choice(HOSTILE)))
    view.typing = dice.choice((None, None, None, "x"))
    return view


def sizes(dice: random.Random) -> tuple[int, int]:
    return dice.choice((20, 21, 40, 80, dice.randint(20, 300))), dice.choice((5, 6, 10, 24, dice.randint(5, 100)))


@pytest.mark.parametrize("seed", range(150))
def test_no_name_spoils_the_screen_and_no_running_job_is_lost_while_a_line_is_free(seed: int) -> None:
    dice = random.Random(seed)
    parts = parts_of(hostile_snapshot(dice), 0.0)
    for _ in range(3):
        view, (width, height) = hostile_view(dice), sizes(dice)
        frame = paint(parts, width, height, view)
        lines = frame.text
        assert len(lines) == height
        for line in frame.lines:
            assert sum(columns(span.text) for span in line) <= width, plain(line)
            assert not CONTROL.search(plain(line)), ascii(plain(line))
            assert not unicodedata.combining((plain(line) or " ")[0])
        if view.typing is not None:
            assert lines[-1].startswith("/x Enter to keep")
        elif view.message and (said := clean(view.message).strip()):
            assert lines[-1].startswith(said[:5])
        if alarms(parts):
            assert any(line.startswith("!") for line in lines), lines
        if view.pane != "jobs":
            continue
        running = sum(job.state is State.RUNNING for job in parts.jobs.value or ())
        shown = frame.page.get("jobs", 0)
        others = len([line for line in lines if line.strip()]) - shown - sum(line.startswith("!") for line in lines)
        footer, count = bool(view.message or view.typing is not None), "more jobs" in "".join(lines)
        assert shown >= running or others <= footer + count, "\n".join(lines)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_written_over_the_last_frame_is_what_a_new_terminal_would_show(seed: int) -> None:
    dice = random.Random(seed)
    width, height = dice.randint(20, 120), dice.randint(5, 40)
    screen, terminal = Screen(Look()), pyte.Screen(width, height)
    stream, view = pyte.Stream(terminal), View()
    for _ in range(6):
        parts = parts_of(tame(hostile_snapshot(dice)), 0.0)
        frame = paint(parts, width, height, view)
        view.widths = frame.widths
        stream.feed(screen.changes(frame.lines))
        fresh = pyte.Screen(width, height)
        pyte.Stream(fresh).feed(Screen(Look()).changes(frame.lines))
        assert terminal.display == fresh.display
        assert [row.rstrip() for row in fresh.display] == [plain(line) for line in frame.lines]


def tame(seen: Snapshot) -> Snapshot:
    """The same without letters whose width pyte sees otherwise than terminals do."""
    text = str.maketrans(dict.fromkeys(map(chr, range(2304, 2432)), "") | dict.fromkeys("🇩🇪🇫🇷\u0301\u0302", ""))
    jobs = tuple(replace(job, name=job.name.translate(text), kind="train", metrics=None, reason="", error=None,
                         progress=None, device=None, queue="training") for job in seen.jobs or ())  # fmt: skip
    return replace(seen, jobs=jobs, workers=(), devices=None, errors=())


def test_nothing_is_written_when_nothing_has_changed() -> None:
    screen, frame = Screen(Look()), frame_of(recorded.SNAPSHOT, 80, 24)
    assert screen.changes(frame.lines)
    assert screen.changes(frame_of(recorded.SNAPSHOT, 80, 24).lines) == ""


def test_of_a_line_only_the_cells_that_change_are_written() -> None:
    later = tuple(
        replace(job, progress=replace(job.progress, done=job.progress.done + 400)) if job.progress else job
        for job in recorded.SNAPSHOT.jobs or ()
    )
    screen = Screen(Look())
    whole = screen.changes(frame_of(recorded.SNAPSHOT, 80, 24).lines)
    changed = screen.changes(frame_of(replace(recorded.SNAPSHOT, jobs=later), 80, 24).lines)
    assert 0 < len(changed) < len(whole) / 4


def test_widths_stay_when_texts_become_shorter() -> None:
    long, short = (replace(recorded.RUNNING[0], name="n" * count) for count in (30, 3))
    first = frame_of(Snapshot(read_at=1.0, jobs=(long,)), 120, 20)
    view = View(widths=first.widths)
    second = frame_of(Snapshot(read_at=1.0, jobs=(short,)), 120, 20, view)
    (before,), (after,) = ([line.index("running") for line in frame.text if "running" in line and long.id in line]
                           for frame in (first, second))  # fmt: skip
    assert before == after


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_recorded_snapshot_looks_as_it_did(width: int, height: int) -> None:
    """To renew the screens after a change that is meant: RENEW_SCREENS=1 make test"""
    shown = "\n".join(frame_of(recorded.SNAPSHOT, width, height, waiting=recorded.QUEUED).text) + "\n"
    file = SCREENS / f"{width}x{height}.txt"
    if os.environ.get("RENEW_SCREENS"):
        file.write_text(shown, encoding="utf-8")
    assert shown == file.read_text(encoding="utf-8")


def recorded_frame(width: int, height: int) -> Frame:
    return frame_of(recorded.SNAPSHOT, width, height, waiting=recorded.QUEUED)


def test_80x24_has_every_running_job_and_five_waiting_ones() -> None:
    lines = recorded_frame(80, 24).text
    assert all(any(job.id in line and "%" in line for line in lines) for job in recorded.RUNNING)
    assert sum(any(job.id in line for line in lines) for job in recorded.QUEUED["training"]) >= 5


def test_40x10_has_alarms_running_jobs_and_a_line_for_queues_workers_and_gpus() -> None:
    lines = recorded_frame(40, 10).text
    assert lines[0].startswith("! 2 alarms: worker-datasets@lab sent no")
    assert all(any(job.id in line and "%" in line for line in lines) for job in recorded.RUNNING)
    for start in ("queues: training 9+1 ", "GPUs: 0 97 % 18/24G · 1 45 % 9/24G", "workers: 5 up, 1 sil"):
        assert any(line.startswith(start) for line in lines), "\n".join(lines)


def test_what_is_cut_is_counted() -> None:
    lines = recorded_frame(80, 24).text
    shown = sum(line.startswith("1kg9") for line in lines)
    everything = len(recorded.SNAPSHOT.jobs or ())
    assert shown == everything or f"… {everything - shown} more jobs" in "\n".join(lines)


def test_jobs_that_were_not_read_are_not_passed_over_in_silence() -> None:
    one = Snapshot(read_at=1.0, jobs=recorded.ENDED[:1])
    assert "… older ones: mistudio jobs ls" in frame_of(replace(one, next="50")).text
    assert not any("older" in line for line in frame_of(one).text)


def test_waiting_jobs_are_in_the_order_in_which_they_will_start() -> None:
    lines = [line for line in recorded_frame(120, 60).text if line.startswith("1kg") and "queued" in line]
    turns = [line.split()[0] for line in lines]
    assert turns == [job.id for job in (*recorded.QUEUED["training"], *recorded.QUEUED["low_priority"])]
    assert "#1 in training" in lines[0]
    assert "#1 in low_priority, paused" in lines[-1]


def test_the_progress_cell_shortens_in_steps_and_is_never_cut() -> None:
    seen = Snapshot(read_at=recorded.NOW, jobs=recorded.RUNNING[:1])
    said = {}
    for width in range(20, 200):
        (line,) = (line for line in frame_of(seen, width, 8).text if "running" in line)
        said[width] = re.split(r" running +(?:cuda:0 +)?(?:\d[\d a-z]*?  +)?(?:loss [\d.]+ fvu [\d.]+ +)?", line)[
            -1
        ].strip()
    forms = list(dict.fromkeys(said.values()))
    assert forms == [
        "46 %",
        "46 % 26 min left",
        "████░░░░░░ 46 % 26 min left",
        "████░░░░░░ 46 % 13.5/s 26 min 40 s left",
        "████░░░░░░ 46 % training (18,400/40,000 steps, 13.5/s, 26 min 40 s left)",
    ]


def test_before_anything_is_read_there_is_a_frame_that_says_so() -> None:
    lines = paint(Parts(), 80, 24, View()).text
    for pane in ("jobs", "queues", "GPUs", "workers"):
        assert f"{pane}: reading …" in lines
    assert "q quit" in lines[-1]


def test_what_could_not_be_read_again_is_shown_as_it_was_dimmed_and_with_its_age() -> None:
    errors = Trouble("ledger", "Redis does not answer"), Trouble("host", "the disk hangs")
    kept = {trouble.part: Part(None, None, 12.0, trouble.message) for trouble in errors}
    parts = parts_of(replace(recorded.SNAPSHOT, queued=recorded.QUEUED, errors=errors, parts=kept), 12.0).at(12.0)
    frame = paint(parts, 120, 60, View(has_keys=False))
    text = "\n".join(frame.text)
    assert "! Redis does not answer (shown as of 12 s ago) (mistudio doctor)" in text
    for said in ("jobs as of 12 s ago", "queues as of 12 s ago", "workers as of 12 s ago", "(12 s ago)"):
        assert said in text
    for job in recorded.RUNNING:
        (line,) = (line for line in frame.lines if plain(line).startswith(job.id))
        assert {span.style for span in line} == {"dim"}
    one_line = "\n".join(paint(parts, 100, 10, View()).text)
    assert "queues (12 s ago): training 9+1 low_priority 1 paused" in one_line


def test_ages_and_order_are_taken_from_a_reader_that_knows_them() -> None:
    ledger = Part(None, None, 7.0, "Redis with pid 4 does not answer")
    parts = {"ledger": ledger, "host": Part(None, None, 0.1)}
    troubles = (Trouble("ledger", str(ledger.error)),)
    seen = replace(recorded.SNAPSHOT, errors=troubles, queued=recorded.QUEUED, parts=parts)
    frame = paint(parts_of(seen, 100.0).at(101.0), 120, 60, View())
    text = "\n".join(frame.text)
    assert "! Redis with pid 4 does not answer (shown as of 8 s ago) (mistudio doctor)" in text
    assert "jobs as of 8 s ago" in text
    assert "#1 in training" in text
    assert "lab: 41 %" in frame.text[0]
    assert "ago" not in frame.text[0]


def test_a_part_that_never_was_read_says_why_and_shows_no_number() -> None:
    seen = Snapshot(errors=(Trouble("ledger", "Redis does not answer"),))
    text = "\n".join(frame_of(seen, 80, 24).text)
    assert "queues: not read: Redis does not answer" in text
    assert "jobs: not read: Redis does not answer" in text
    assert not re.search(r"\b0 (up|running)", text)


def test_a_value_that_has_not_been_read_for_long_is_old_even_without_an_error() -> None:
    assert "ago" not in "\n".join(frame_of(recorded.SNAPSHOT, 120, 50, age_s=2.0).text)
    assert "! Reading takes long (shown as of 9 s ago)" in "\n".join(
        frame_of(recorded.SNAPSHOT, 120, 50, age_s=9.0).text
    )
    assert "queues as of 9 s ago" in "\n".join(frame_of(recorded.SNAPSHOT, 120, 50, age_s=9.0).text)


def test_the_alarms_are_the_causes_of_the_health_report_the_critical_first() -> None:
    """Of everything that can be wrong at once, with the commands where there is room for them."""
    assert recorded.SNAPSHOT.host is not None
    wrong = replace(
        recorded.SNAPSHOT,
        consuming=0,
        server=ServerState(101, 100, False, False),
        devices=Devices((Device(1, problem="GPU is lost", is_lost=True),)),
        host=replace(recorded.SNAPSHOT.host, disk_free=1),
        errors=(Trouble("processes", "they hang"),),
    )
    causes = health_of(wrong).causes
    found = alarms(parts_of(wrong, 0.0))
    assert [alarm.sentence for alarm in found] == [cause.sentence for cause in causes]
    assert [cause.code for cause in causes if cause.is_critical] == ["redis_memory", "no_workers"]
    lines = frame_of(wrong, 200, 60).text
    shown = [f"! {cause.sentence} ({cause.command})" for cause in causes]
    assert lines[1 : 1 + len(shown)] == shown
    narrow = frame_of(wrong, len(shown[0]) - 1, 60).text
    assert f"! {causes[0].sentence[:-2]}… ({causes[0].command})" in narrow
    assert f"! {causes[0].sentence[:18]}" in "\n".join(frame_of(wrong, 40, 60).text)


def test_foreign_celery_workers_are_rows_and_mute_ones_an_alarm() -> None:
    replies = {
        "active": [{"name": "app.task"}],
        "stats": {"pid": 77, "pool": {"max-concurrency": 4}},
        "queues": [{"name": "emails"}],
    }
    odd = {"active": "x", "stats": [1], "queues": {"name": "x"}}
    workers = (
        CeleryWorker("celery@web", foreign=True, replies=replies),
        CeleryWorker("celery@odd", foreign=True, replies=odd),
        CeleryWorker("worker-training@lab", mute=True),
    )
    found = CeleryWorkers(recorded.NOW, 3, 0, workers)
    disagreements = Disagreements()
    for at in (0.0, LASTING_S):
        disagreements.update(replace(found, read_at=at), {})
    seen = replace(recorded.SNAPSHOT, celery=found, disagreements=disagreements.lasting)
    lines = frame_of(seen, 140, 60).text
    (web,) = (line for line in lines if line.startswith("celery@web"))
    assert web.split()[:4] == ["celery@web", "foreign", "77", "1/4"]
    assert web.endswith("emails")
    assert any(line.startswith("celery@odd") for line in lines)
    mute = "! worker-training@lab sends heartbeats but does not reply to Celery"
    assert f"{mute} (mistudio workers logs worker-training@lab)" in lines
    assert any("5 up, 2 foreign, 1 silent" in line for line in frame_of(seen, 140, 12).text)
