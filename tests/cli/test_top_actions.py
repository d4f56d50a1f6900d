"""What the keys of `top` do to real jobs and queues, and the details that they open, in a real terminal."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tests.cli.conftest import Cli
from tests.cli.terminal import Terminal, terminal
from tests.conftest import until


@pytest.fixture
def shown(world: Cli) -> Iterator[Terminal]:
    with terminal(world, "top", "--interval", "0.2", rows=50, columns=130) as screen:
        screen.until("all-queues@")
        yield screen
        screen.press("\x1b")
        screen.gone("y/N")


def nap(world: Cli, name: str, *more: str) -> str:
    return world("submit", "nap", "--name", name, "--ticks", "100000", *more, "--json").json["id"]


def only(shown: Terminal, job_id: str) -> None:
    """Filter the jobs until that one is selected."""
    shown.press(f"/{job_id}\r")
    shown.until(f"jobs that match /{job_id}: 1 of ")


@pytest.fixture
def napping(world: Cli) -> Iterator[str]:
    job_id = nap(world, "snoring")
    until(lambda: len(world.ledger.series([job_id])[0]) > 2, what="the job to measure something")
    yield job_id
    world("jobs", "cancel", job_id)


@pytest.fixture
def paused(world: Cli) -> Iterator[None]:
    world("queue", "pause", "training")
    yield
    world("queue", "resume", "training")


def test_c_cancels_a_job_after_y_and_says_what_became_of_it(world: Cli, shown: Terminal, napping: str) -> None:
    only(shown, napping)
    shown.press("c")
    shown.until(f"Cancel {napping} (nap snoring)? y/N")
    shown.press("n")
    shown.until("Nothing was changed.")
    assert world.ledger.need(napping).state is State.RUNNING
    shown.press("c")
    shown.until("y/N")
    shown.press("y")
    shown.until(f"{napping} is running: its worker stops it after a checkpoint")
    until(lambda: world.ledger.need(napping).state is State.CANCELLED, what="the job to stop")
    shown.until("cancelled")


def test_capital_r_retries_a_job_that_has_ended(world: Cli, shown: Terminal) -> None:
    ended = nap(world, "retried-by-key")
    world("jobs", "cancel", ended)
    only(shown, ended)
    shown.until("cancelled")
    shown.press("R")
    shown.until(f"Retry {ended} (nap retried-by-key)? y/N")
    shown.press("y")
    shown.until(f"another try of {ended}")
    (again,) = [job for job in world.ledger.page(limit=20).jobs if job.retry_of == ended]
    world("jobs", "cancel", again.id)


def test_p_pauses_a_queue_and_resumes_it(world: Cli, shown: Terminal) -> None:
    shown.press("2")
    shown.until("[2:queues]")
    shown.press("/low\r")
    shown.until("queues that match /low: 1 of 6")
    shown.press("p")
    shown.until("Pause queue low_priority? y/N")
    shown.press("y")
    shown.until("low_priority is paused; 0 jobs queued")
    assert world.ledger.queues.counts()["low_priority"].paused_at is not None
    shown.until(lambda: re.search(r"low_priority +paused", shown.text))
    shown.press("p")
    shown.until("Resume queue low_priority? y/N")
    shown.press("y")
    shown.until("low_priority is resumed")
    assert world.ledger.queues.counts()["low_priority"].paused_at is None


def test_plus_and_minus_change_the_priority_and_with_it_the_order(world: Cli, shown: Terminal, paused: None) -> None:
    first, second = nap(world, "to-start-first"), nap(world, "to-start-second")
    try:
        shown.until("#2 in training, paused")
        only(shown, second)
        shown.press("+")
        shown.until(f"Priority 6 instead of 5 for {second}")
        shown.press("y")
        shown.until(f"{second} has priority 6 now; it had 5.")
        shown.press("\x1b")
        shown.until(lambda: 0 < shown.text.find(second) < shown.text.find(first))
        shown.press(f"/{second}\r-")
        shown.until(f"Priority 5 instead of 6 for {second}")
        shown.press("y")
        shown.until(f"{second} has priority 5 now; it had 6.")
        shown.press("\x1b")
        shown.until(lambda: 0 < shown.text.find(first) < shown.text.find(second))
    finally:
        world("jobs", "cancel", "--no-wait", first, second)


def test_an_action_that_fails_says_why(world: Cli, shown: Terminal, paused: None) -> None:
    job_id = nap(world, "gone-meanwhile")
    only(shown, job_id)
    shown.press("+")
    shown.until("y/N")
    world("jobs", "cancel", job_id)
    shown.press("y")
    shown.until(f"Job {job_id} is cancelled: only jobs that have not started can be moved.")


def test_enter_shows_all_of_a_job_with_its_curves_and_its_log(world: Cli, shown: Terminal, napping: str) -> None:
    only(shown, napping)
    shown.press("\r")
    for said in (f"job {napping}", "why", "has been running it", "curves", "depth", "│", "└", "record", "snoring"):
        shown.until(said)
    assert re.search("[⠁-⣿]", shown.text), "a curve is drawn with dots"
    shown.press("f")
    shown.until("following")
    shown.until("log, the last")
    shown.until(f"tasks.runner {napping}")
    shown.press("k")
    shown.gone("following")
    shown.press("g")
    shown.press("\x1b[H")
    shown.until("has been running it")
    shown.press("q")
    shown.until("[1:jobs]")


def test_f_follows_what_a_job_adds_to_its_log(world: Cli, shown: Terminal) -> None:
    flag = world.home / "continue"
    job_id = world("submit", "chatter", "--name", "chatty", "--until", str(flag), "--json").json["id"]
    only(shown, job_id)
    shown.press("f")
    shown.until("following")
    shown.until("has printed")
    assert "begins to print" in shown.text
    flag.touch()
    until(lambda: world.ledger.need(job_id).state.ended, what="the job to end")
    shown.press("\x1b[H")
    shown.until("It succeeded")


def test_enter_on_a_queue_lists_its_jobs_in_the_order_served(world: Cli, shown: Terminal, paused: None) -> None:
    jobs = [nap(world, f"peeked-{priority}", "--priority", str(priority)) for priority in (3, 9)]
    try:
        shown.press("2/training\r")
        shown.until("queues that match /training: 1 of 6")
        shown.press("\r")
        shown.until("queued jobs, in the order in which they will start")
        shown.until("peeked-3")
        assert shown.text.find("peeked-9") < shown.text.find("peeked-3")
        shown.press("\x1b")
        shown.until("[2:queues]")
    finally:
        world("jobs", "cancel", "--no-wait", *jobs)


def test_enter_on_a_worker_shows_its_slots(world: Cli, shown: Terminal, napping: str) -> None:
    shown.press("4\r")
    for said in ("worker all-queues@", "slots", f"{napping}  nap snoring", "free", "log, the last"):
        shown.until(said)
    shown.press("\x03")
    shown.until("[4:workers]")


def test_space_freezes_the_screen_and_lets_it_continue(world: Cli, shown: Terminal, napping: str) -> None:
    only(shown, napping)
    shown.press(" ")
    shown.until("frozen for ")
    frozen = [line for line in shown.text.splitlines() if napping in line]
    world("jobs", "cancel", napping)
    ages = [re.findall("frozen for .+? s", shown.text)]
    for _ in range(3):  # each of these frames is of later than the one before
        shown.until(lambda: re.findall("frozen for .+? s", shown.text) not in [[], *ages])
        ages.append(re.findall("frozen for .+? s", shown.text))
        assert [line for line in shown.text.splitlines() if napping in line] == frozen
    shown.press(" ")
    shown.until("cancelled")
    shown.gone("frozen")


def test_the_help_is_there_and_q_leaves_it(shown: Terminal) -> None:
    shown.press("?")
    shown.until("raise or lower the priority")
    shown.press("q")
    shown.until("[1:jobs]")
    shown.press("q")
    assert shown.end() == 0
    shown.press = lambda keys: None  # type: ignore[method-assign]


def test_enter_on_a_gpu_shows_its_jobs_and_processes(cli: Cli, driver: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        fake = {"LD_LIBRARY_PATH": str(driver), "FAKE_GPUS": "1", "FAKE_PID": str(process.pid)}
        try:
            with terminal(cli, "top", **fake) as shown:
                shown.until("Fake GPU 0")
                shown.press("3\r")
                for said in ("GPU-fake-0", "jobs", "none", "processes", f"pid {process.pid}", "3.0 GiB", "sleep 600"):
                    shown.until(said)
                shown.press("qq")
                assert shown.end() == 0
        finally:
            process.kill()


def test_details_of_what_is_empty_or_gone_say_so(cli: Cli) -> None:
    job = cli.ledger.submit(Job(new_job_id(), "train", "removed", "training", {}))
    with terminal(cli, "top", "--interval", "0.2") as shown:
        shown.until(job.id)
        shown.press("\r")
        shown.until("No worker consumes")
        shown.until("nothing is logged yet")
        cli.ledger.request_cancel(job.id)
        cli.ledger.remove(job.id)
        shown.until(f"There is no job {job.id}")
        shown.press("q2\r")
        shown.until("queue high_priority")
        shown.until("none")
        shown.press("q5\r")
        shown.until("no hosts here")
        shown.press("q")
        assert shown.end() == 0
