"""`GET /api/v1/devices`: each process on a card with its user, command and job, and the memory that no job holds."""

from __future__ import annotations

import getpass
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mistudio_cli.monitor.snapshot import read_all
from mistudio_cli.rest.routes import API
from mistudio_cli.top.details.processes import describe_process
from mistudio_cli.top.details.read import DetailsSource
from mistudio_cli.top.reading import parts_of
from tasks.accelerators.card_processes import CardProcess, processes_of
from tasks.accelerators.devices import Device, GpuProcess
from tasks.fleet.host_heartbeat import Gpu
from tasks.paths import Places
from tests.cli.conftest import Cli
from tests.cli.test_devices import GIB
from tests.cli.test_hosts import busy_worker, heartbeat
from tests.cli.test_rest_routes import server_of

#: More than the largest pid of Linux.
NO_PID = 1 << 22


@contextmanager
def process(*words: str) -> Iterator[int]:
    """A process with these words, the leader of its group; its pid."""
    running = subprocess.Popen([sys.executable, "-c", "input()", *words], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield running.pid
    finally:
        running.communicate(b"\n")


def card(cli: Cli, driver: Path, pid: int, **environment: str) -> Any:
    words = {"LD_LIBRARY_PATH": str(driver), "FAKE_GPUS": "1", "FAKE_PID": str(pid)}
    with server_of(cli, **words, **environment) as client:
        (found,) = client.get(f"{API}/devices").json()["devices"]
    return found


def test_a_process_of_a_job_names_the_job_and_the_rest_of_the_memory_is_of_others(cli: Cli, driver: Path) -> None:
    with process("tasks.runner", "01kg9t2v8ch7mq") as pid:
        found = card(cli, driver, pid)
    (seen,) = found["processes"]
    assert (seen["pid"], seen["memory_bytes"], seen["job"]) == (pid, 3 * GIB, "01kg9t2v8ch7mq")
    assert (seen["user"], found["others_bytes"]) == (getpass.getuser(), 2 * GIB)
    assert found["throttle_reasons"] == ["SW power cap", "HW thermal slowdown"]


@pytest.mark.parametrize(
    "words", [("--api-key", "hunter2hunter2"), ("--api-key=hunter2hunter2",), ("hf_" + "x1" * 15,)]
)
def test_a_process_of_somebody_else_shows_its_command_without_secrets(
    cli: Cli, driver: Path, words: tuple[str, ...]
) -> None:
    with process(*words, "a\nb", "long" * 200) as pid:
        found = card(cli, driver, pid)
    (seen,) = found["processes"]
    assert (seen["job"], found["others_bytes"]) == (None, 5 * GIB)
    assert "input()" in seen["command"]
    assert "***" in seen["command"]
    assert not any(secret in seen["command"] for secret in ("hunter2", "x1x1", "\n"))
    assert len(seen["command"]) < 310


def test_what_a_container_cannot_see_is_unknown_and_no_zero(cli: Cli, driver: Path) -> None:
    found = card(cli, driver, NO_PID)
    assert found["processes"] == [{"pid": NO_PID, "memory_bytes": 3 * GIB, "user": None, "command": None, "job": None}]
    assert found["others_bytes"] is None


def test_where_the_driver_says_no_memory_of_processes_that_of_others_is_unknown(cli: Cli, driver: Path) -> None:
    with process() as pid:
        assert card(cli, driver, pid, FAKE_NO_PROCESS_MEMORY="1")["others_bytes"] is None


def test_gpus_of_other_hosts_are_listed_with_who_is_on_them(cli: Cli) -> None:
    job = busy_worker(cli.ledger, "far")
    processes = CardProcess(4711, 3 * GIB, "alice", "a runner", job), CardProcess(4712, GIB, "bob", "python x.py")
    gpu = Gpu(0, "a card", "GPU-far", processes=processes, more_processes=2, others_bytes=2 * GIB)
    with server_of(cli) as client:
        heartbeat(cli.ledger, "far", gpus=(gpu,))
        heartbeat(cli.ledger, socket.gethostname())
        (found,) = client.get(f"{API}/devices").json()["remote_devices"]
    assert (found["host"], found["jobs"], found["more_processes"], found["others_bytes"]) == ("far", [job], 2, 2 * GIB)
    assert [(each["pid"], each["user"], each["job"]) for each in found["processes"]] == [
        (4711, "alice", job),
        (4712, "bob", None),
    ]


def test_details_of_a_process_on_a_gpu_have_no_secrets() -> None:
    with process("--api-key=hunter2hunter2") as pid:
        (found,) = processes_of(Device(0, processes=(GpuProcess(pid, GIB),))) or ()
    assert describe_process(found).startswith(f"pid {pid}  1.0 GiB  {getpass.getuser()}  ")
    assert "hunter2" not in describe_process(found)


def test_details_of_a_gpu_elsewhere_show_its_processes(cli: Cli) -> None:
    job = busy_worker(cli.ledger, "far")
    processes = CardProcess(4711, 3 * GIB, "alice", "a runner", job), CardProcess(4712, GIB, "bob", "python x.py")
    heartbeat(cli.ledger, "far", gpus=(Gpu(0, "a card", "GPU-far", processes=processes, more_processes=2),))
    home = Places(cli.home, cli.home / "store")
    seen = read_all(cli.ledger, home)
    found = DetailsSource(lambda _: cli.ledger, home).read("gpus", "0@far", parts_of(seen, 0.0).at(0.0))
    assert not found.error
    lines = [line for block in found.blocks for line in block.lines]
    assert job in lines
    assert "pid 4712  1.0 GiB  bob  python x.py" in lines
    assert "2 more that hold less memory" in lines
