"""`top` as a person sees it: in a terminal that is started, read, resized and quit."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import termios
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from mistudio_cli.errors import Code
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.ledger.device_lease import Card
from tasks.queues import QUEUE_NAMES
from tasks.redis_client.redis_connection import connect
from tasks.system.process_identity import is_alive
from tests.cli.conftest import Cli
from tests.cli.terminal import Terminal, terminal
from tests.conftest import RedisServer, until
from tests.fixtures.proxy import proxied


def test_it_shows_the_queues_and_q_quits(world: Cli) -> None:
    with terminal(world, "top") as shown:
        for name in QUEUE_NAMES:
            shown.until(name)
        shown.until("all-queues@")
        shown.child.send("q")
        assert shown.end() == 0
        assert b"\x1b[?1049h" in shown.bytes, "it paints beside the scrollback"
        assert b"\x1b[?1049l" in shown.bytes, "and gives it back"
        assert b"\x1b[?25h" in shown.bytes, "with the cursor"
        assert b"Traceback" not in shown.bytes


def test_ctrl_c_quits_too(world: Cli) -> None:
    with terminal(world, "top") as shown:
        shown.until("training")
        shown.child.sendintr()
        assert shown.end() == 0
        assert b"Traceback" not in shown.bytes


def percent(shown: Terminal, job_id: str, above: int) -> int:
    """How much of a job is done by its line of the screen, once that is more."""
    line = re.compile(rf"{job_id} .* running .*[█░]{{10}} (\d+) %")
    shown.until(lambda: (found := line.search(shown.text)) and int(found[1]) > above)
    found = line.search(shown.text)
    assert found is not None
    return int(found[1])


def test_a_running_job_is_seen_to_move(world: Cli) -> None:
    job_id = world("submit", "nap", "--name", "seen", "--ticks", "4000", "--json").json["id"]
    try:
        with terminal(world, "top") as shown:
            first = percent(shown, job_id, above=-1)
            percent(shown, job_id, above=first)
            shown.child.send("q")
            assert shown.end() == 0
    finally:
        world("jobs", "cancel", job_id)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_the_terminal_as_it_was(world: Cli, number: int) -> None:
    with terminal(world, "top") as shown:
        before = termios.tcgetattr(shown.child.child_fd)
        shown.until("training")
        assert termios.tcgetattr(shown.child.child_fd) != before, "it reads single keys"
        shown.child.kill(number)
        shown.bytes += shown.child.read()
        assert termios.tcgetattr(shown.child.child_fd) == before
        assert shown.end() == 128 + number
        for given_back in (b"\x1b[?1049l", b"\x1b[?25h"):
            assert given_back in shown.bytes
        assert b"Traceback" not in shown.bytes


def test_it_ends_with_its_window(world: Cli) -> None:
    with terminal(world, "top") as shown:
        shown.until("training")
        process = psutil.Process(shown.child.pid)
        shown.child.ptyproc.fileobj.close()
        until(lambda: not is_alive(process), "it to end")


def test_a_narrow_terminal_still_shows_how_far_jobs_are(world: Cli) -> None:
    job_id = world("submit", "nap", "--name", "narrow", "--ticks", "10000", "--json").json["id"]
    try:
        with terminal(world, "top", rows=30, columns=40) as shown:
            for what in ("q quit", "training", "all-queues@", job_id, "PRO", "running", " %"):
                shown.until(what)
            shown.child.send("q")
            assert shown.end() == 0
    finally:
        world("jobs", "cancel", job_id)


@pytest.mark.parametrize(("rows", "columns"), [(5, 20), (1, 1), (24, 40)])
def test_a_tiny_terminal_is_no_reason_to_crash(world: Cli, rows: int, columns: int) -> None:
    with terminal(world, "top", rows=rows, columns=columns) as shown:
        while b"\x1b[?1049h" not in shown.bytes:
            shown.read()
        shown.child.send("q")
        assert shown.end() == 0
        assert b"Traceback" not in shown.bytes


def test_it_follows_a_change_of_size(world: Cli) -> None:
    with terminal(world, "top") as shown:
        shown.until("low_priority")
        shown.resize(12, 60)
        shown.screen.reset()
        shown.until("queues: empty")
        shown.resize(40, 120)
        shown.until("all-queues@")
        shown.child.send("q")
        assert shown.end() == 0


def test_a_broker_that_is_away_is_shown_as_an_error_and_not_as_zeros(cli: Cli) -> None:
    with terminal(cli, "--broker-url", "redis://127.0.0.1:1/0", "top") as shown:
        shown.until("! redis://127.0.0.1:1/0: Connection refused")
        assert "PENDING" not in shown.text
        shown.child.send("q")
        assert shown.end() == 0


def test_without_a_terminal_it_prints_once(world: Cli) -> None:
    result = world("top")
    assert result.code == Code.OK
    assert all(name in result.out for name in QUEUE_NAMES)
    assert "cores, load" in result.out
    assert "\x1b" not in result.out


def test_once_prints_the_alarms_below_the_tables(cli: Cli) -> None:
    cli.ledger.submit(Job(new_job_id(), "nap", "a", "training", {}))
    shown = cli("top", "--once")
    assert shown.code == Code.OK
    assert "! No worker consumes any queue: 1 pending (mistudio workers start" in shown.err


def test_once_as_json_is_everything_in_one_object(world: Cli) -> None:
    result = world("top", "--once", "--json").json
    assert {"read_at", "queues", "jobs", "next", "supervisor", "workers", "devices", "host", "errors"} <= set(result)
    assert result["errors"] == []
    assert [worker["name"].partition("@")[0] for worker in result["workers"]] == ["all-queues"]
    assert result["devices"] is not None or result["devices_reason"].startswith("no NVIDIA ")
    assert result["host"]["memory_total_bytes"] > 0


def test_a_process_of_another_user_on_a_gpu_is_shown(cli: Cli, driver: Path) -> None:
    other = "nobody" if os.geteuid() == 0 else None
    user = other or psutil.Process().username()
    with subprocess.Popen(["sleep", "600"], user=other, cwd="/") as process:
        try:
            for memory, result in (({}, "3.0 GiB"), ({"FAKE_NO_PROCESS_MEMORY": "1"}, "n/a")):
                fake = {"LD_LIBRARY_PATH": str(driver), "FAKE_GPUS": "1", "FAKE_PID": str(process.pid), **memory}
                shown = cli("top", "--once", COLUMNS="200", **fake).out
                assert f"pid {process.pid} of {user} ({result})" in shown
        finally:
            process.kill()


def test_devices_are_reported_with_the_jobs_that_lease_them(cli: Cli, driver: Path) -> None:
    here = socket.gethostname()
    job = cli.ledger.submit(Job("a-job", "train", "a", "training", {}))
    cli.ledger.lease_device(cli.ledger.claim(job.id, f"w@{here}", here), [Card("GPU-fake-1", "cuda:1")], 1)
    result = cli("top", "--json", LD_LIBRARY_PATH=str(driver)).json
    assert [(device["name"], device["jobs"]) for device in result["devices"]] == [
        ("Fake GPU 0", []),
        ("Fake GPU 1", ["a-job"]),
    ]
    assert "24 GiB" in cli("top", "--once", LD_LIBRARY_PATH=str(driver)).out
    with terminal(cli, "top", LD_LIBRARY_PATH=str(driver)) as shown:
        shown.until("Fake GPU 1")
        shown.child.send("q")
        assert shown.end() == 0


def test_a_device_names_the_memory_of_its_jobs_as_held_where_it_can_be_seen_else_as_expected(
    cli: Cli, driver: Path
) -> None:
    code = "import time; print(flush=True); time.sleep(600)"
    for name in ("one", "two"):  # two containers of one machine
        cli.ledger.submit(Job(name, "train", "a", "training", {}))
        cli.ledger.lease_device(cli.ledger.claim(name, "w@c", f"c-{name}"), [Card("GPU-fake-0", "cuda:0")], 2, 8 << 30)
    runner = [sys.executable, "-c", code, "-m", "tasks.runner", "one"]
    with subprocess.Popen(runner, stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        process.stdout.readline()
        fake = {"LD_LIBRARY_PATH": str(driver), "FAKE_GPUS": "1", "FAKE_PID": str(process.pid)}
        (device,) = cli("top", "--json", **fake).json["devices"]
        shown = cli("top", "--once", **fake).out
        process.kill()
    assert device["jobs"] == ["one", "two"]
    assert device["leases"] == [
        {"job": "one", "memory_bytes": 3 << 30, "expected_bytes": 8 << 30},
        {"job": "two", "memory_bytes": None, "expected_bytes": 8 << 30},
    ]
    assert "one (3.0 GiB), two (about 8.0 GiB)" in shown


def test_a_driver_that_cannot_be_read_is_an_error(cli: Cli, driver: Path) -> None:
    result = cli("top", "--json", LD_LIBRARY_PATH=str(driver), FAKE_Init="999").json
    assert result["devices"] is None
    assert result["errors"] == [{"part": "devices", "message": "NVML cannot be read: Unknown Error", "age_s": None}]


def test_once_waits_for_redis_as_long_as_the_setting_says(own_redis: RedisServer, tmp_path: Path) -> None:
    with proxied(own_redis.socket) as proxy, closing(connect(own_redis.url)) as client:
        far = Cli(tmp_path, f"redis://127.0.0.1:{proxy.port}/0", Ledger(client))
        proxy.delay_s = 1.2  # more than a second, which the screen waits
        result = far("top", "--json")
    assert (result.code, result.json["errors"]) == (Code.OK, [])


def test_once_shows_what_it_can_when_the_broker_is_away(cli: Cli) -> None:
    result = cli("--broker-url", "redis://127.0.0.1:1/0", "top", "--json")
    assert result.code == Code.UNREACHABLE
    assert (result.json["queues"], result.json["jobs"], result.json["workers"]) == (None, None, None)
    assert [error["part"] for error in result.json["errors"]] == ["ledger"]
    assert result.json["host"]["cpus"] >= 1
