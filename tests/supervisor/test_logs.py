"""Logs that are rotated under those who write and read them, and full disks that stop nobody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mistudio_cli.log_files import earlier, follow, last_lines, rotate
from mistudio_cli.supervisor import worker_events
from tasks.jobs.record import State
from tasks.paths import Places
from tasks.system.log_output import VARIABLE
from tests.conftest import until
from tests.supervisor.conftest import Home
from tests.supervisor.manual_supervisor import World
from tests.supervisor.test_workers import Cli

WRITERS, LINES = 4, 5000

#: Logs numbered lines as a worker and its slots do, from a parent and a forked child at once.
WRITER = """
import logging, os, sys
from tasks.system.log_output import log_to_stderr, path_from_environment
log_to_stderr(path_from_environment())
name = sys.argv[1] + ('parent' if os.fork() else 'child')
for number in range(int(sys.argv[2])):
    logging.info('%s %d %s', name, number, 'x' * (number % 300))
os.write(2, f'raw {name}\\n'.encode())
if name.endswith('parent'):
    os.wait()
"""


def files_of(path: Path) -> list[Path]:
    return [*path.parent.glob(f"{path.name}*")]


def test_no_line_is_lost_doubled_or_torn_while_the_log_is_rotated(tmp_path: Path) -> None:
    path = tmp_path / "w.log"
    with path.open("ab") as log:
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, f"w{number}-", str(LINES // 2)],
                stdout=log,
                stderr=log,
                env={**os.environ, VARIABLE: str(path)},
            )
            for number in range(WRITERS)
        ]
    rotated = 0
    while any(writer.poll() is None for writer in writers):
        if path.stat().st_size > 5_000:
            rotate(path, larger_than=5_000, kept=10_000)
            rotated += 1
    assert all(writer.returncode == 0 for writer in writers)
    assert rotated > 3, "or nothing was shown"
    lines = [line for file in files_of(path) for line in file.read_text().splitlines()]
    numbered = sorted(tuple(line.split()[4:6]) for line in lines if " root " in line)
    names = [f"w{number}-{who}" for number in range(WRITERS) for who in ("parent", "child")]
    assert numbered == sorted((name, str(number)) for name in names for number in range(LINES // 2))
    assert all(line.endswith("x" * (int(line.split()[5]) % 300)) for line in lines if " root " in line)
    assert sorted(line for line in lines if line.startswith("raw")) == sorted(f"raw {name}" for name in names)


def test_what_is_written_past_logging_follows_too(tmp_path: Path) -> None:
    path = tmp_path / "w.log"
    script = (
        "import logging, os, sys\n"
        "from tasks.system.log_output import log_to_stderr, path_from_environment\n"
        "log_to_stderr(path_from_environment())\n"
        "logging.info('first'); os.rename(sys.argv[1], sys.argv[1] + '.1')\n"
        "logging.info('second'); os.write(1, b'out\\n'); os.write(2, b'err\\n')\n"
    )
    with path.open("ab") as log:
        done = subprocess.run(
            [sys.executable, "-c", script, str(path)],
            stdout=log,
            stderr=log,
            env={**os.environ, VARIABLE: str(path)},
            check=False,
        )
    assert done.returncode == 0
    assert earlier(path, 1).read_text().endswith("INFO root first\n")
    assert path.read_text().splitlines()[0].endswith("INFO root second")
    assert path.read_text().splitlines()[1:] == ["out", "err"]


def test_only_large_logs_are_rotated_and_only_a_few_kept(tmp_path: Path) -> None:
    path = tmp_path / "w.log"
    rotate(path, larger_than=5, kept=2)
    for number in range(4):
        path.write_text(f"line {number}\n")
        rotate(path, larger_than=100, kept=2)
        assert path.exists()
        rotate(path, larger_than=5, kept=2)
    kept = {"w.log": "", "w.log.1": "line 3\n", "w.log.2": "line 2\n"}
    assert {file.name: file.read_text() for file in files_of(path)} == kept
    assert last_lines(path, 5) == ["line 3"]
    path.write_text("line 4\n")
    assert last_lines(path, 5) == ["line 3", "line 4"]
    assert last_lines(path, 1) == ["line 4"]


def test_who_follows_a_log_misses_nothing_when_it_is_rotated(tmp_path: Path) -> None:
    path = tmp_path / "w.log"
    path.write_text("old 1\nold 2\n")
    following = follow({"w": path}, 1, forever=True)
    assert next(following) == ("w", "old 2")
    old = path.open("a")
    old.write("a\n")
    old.flush()
    assert next(following) == ("w", "a")
    old.write("b\n")
    old.flush()
    rotate(path, larger_than=1)
    old.write("c, by one who has not noticed yet\n")
    old.close()
    path.write_text("d, longer than what comes\n")
    assert [next(following)[1] for _ in range(3)] == [
        "b",
        "c, by one who has not noticed yet",
        "d, longer than what comes",
    ]
    path.write_text("")  # cut short by somebody
    with path.open("a") as log:
        log.write("e\n")
    assert next(following) == ("w", "e")
    following.close()


def test_a_full_disk_under_the_log_stops_nobody(cli_of_full_logs: Cli) -> None:
    cli = cli_of_full_logs
    assert cli("workers start").returncode == 0
    done = cli.ended(cli.nap(5))
    assert (done.state, done.attempt) == (State.SUCCEEDED, 1)
    quick = cli.read_json("submit blink --note hello --json")["id"]
    assert cli.ended(quick).result == {"note": "hello"}
    assert cli("workers stop").returncode == 0
    assert cli.home.worker()["last_exit"] == "exit code 0"


@pytest.fixture
def cli_of_full_logs(home: Home) -> Cli:
    home.places.logs.mkdir(parents=True)
    for path in (home.places.worker_log("all-queues"), home.places.supervisor_log, home.places.history):
        path.symlink_to("/dev/full")  # every write to it fails as on a full disk
    return Cli(home)


def test_lines_that_a_slot_writes_at_work_name_its_job(tmp_path: Path) -> None:
    script = (
        "import logging\nfrom tasks.system.log_output import about, log_to_stderr\n"
        "log_to_stderr()\n"
        "with about('j1'):\n    logging.getLogger('mistudio.slot').warning('in')\n"
        "logging.getLogger('mistudio.slot').warning('out')\nprint('printed')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert [line.split(" ", 2)[2] for line in done.stderr.splitlines()] == [
        "WARNING mistudio.slot job=j1 in",
        "WARNING mistudio.slot out",
    ]
    assert done.stdout == "printed\n"


def test_the_history_shows_a_workers_life(home: Home) -> None:
    cli = Cli(home)
    assert cli("workers events").stderr == "Nothing has happened to workers here yet.\n"
    assert cli("workers start").returncode == 0
    first = home.worker()["pid"]
    os.kill(first, signal.SIGKILL)
    until(lambda: (result := home.worker())["state"] == "running" and result["pid"] != first)
    assert cli("workers stop").returncode == 0
    result = cli.read_json("workers events --json")["events"]
    assert [(change["before"], change["after"]) for change in result] == [
        *[("stopped", "starting"), ("starting", "running"), ("running", "backoff"), ("backoff", "starting")],
        *[("starting", "running"), ("running", "stopping"), ("stopping", "stopped")],
    ]
    assert [change["why"] for change in result[2:4]] == ["killed by SIGKILL"] * 2
    assert result[0]["pid"] == first
    table = cli("workers events -n 1").stdout.splitlines()
    assert table[0].split() == ["WHEN", "WORKER", "FROM", "TO", "PID", "WHY"]
    assert table[1].endswith("exit code 0")
    assert len(table) == 2


def test_a_line_that_a_full_disk_cut_short_is_left_out(tmp_path: Path) -> None:
    places = Places(tmp_path, tmp_path)
    places.logs.mkdir()
    worker_events.record(places, "w@h", "stopped", "starting", 1, None)
    with places.history.open("a") as file:
        file.write('{"at": "20')
    assert [change.after for change in worker_events.read(places, 10)] == ["starting"]
    assert json.loads(places.history.read_text().splitlines()[0])["worker"] == "w@h"


def test_the_logs_of_jobs_on_a_host_are_bounded_by_its_supervisor(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = world.places.job_log("any").parent
    folder.mkdir(parents=True)
    now = time.time()
    for days, name in enumerate(("today", "recent", "older", "oldest")):
        (folder / f"{name}.log").write_bytes(b"x" * 1000)
        os.utime(folder / f"{name}.log", (now - 2 * days * 86_400,) * 2)
    monkeypatch.setenv("MISTUDIO_KEEP_JOB_LOGS_GB", "0.000002")
    world.supervisor.tick()
    assert {path.stem for path in folder.iterdir()} == {"today", "recent"}
    monkeypatch.setenv("MISTUDIO_KEEP_JOB_LOGS_GB", "0")
    world.supervisor.tick()
    assert {path.stem for path in folder.iterdir()} == {"today", "recent"}, "it looks now and then"
    world.now += 601
    world.supervisor.tick()
    assert {path.stem for path in folder.iterdir()} == {"today"}, "its job may run"


def test_a_worker_started_by_an_earlier_supervisor_finds_its_log_where_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    code = "import os\nfrom tasks.system.log_output import path_from_environment\n"
    code += "print(path_from_environment(), os.environ.get('MISTUDIO_LOG'))"
    environment = {**os.environ, "MISTUDIO_LOG": str(path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{path} None\n"
