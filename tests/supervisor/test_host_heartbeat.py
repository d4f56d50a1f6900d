"""A supervisor sends heartbeats of its host: true, cheap, and whatever hangs."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest

from mistudio_cli.fleet import supervisor_client
from mistudio_cli.supervisor.heartbeats import REDIS_SILENT_PAUSE_S, HeartbeatMonitor
from mistudio_cli.supervisor.host_reporter import LONGEST_TEXT, MOST_PROCESSES, SEND_EVERY_S, HostReporter
from tasks.accelerators.card_processes import CardProcess
from tasks.fleet import host_heartbeat
from tasks.fleet.host_heartbeat import LISTED_FOR_S, Gpu, HostHeartbeat
from tasks.ledger.client import Ledger
from tasks.paths import Places
from tasks.redis_client.redis_connection import connect
from tests.cli.test_devices import GIB
from tests.cli.test_rest_devices import process
from tests.conftest import RedisServer, until
from tests.fixtures.stack import Clock
from tests.supervisor.conftest import Home
from tests.supervisor.manual_supervisor import PAIR, World
from tests.supervisor.test_workers import Cli


def newest(ledger: Ledger) -> HostHeartbeat:
    (heartbeat,) = host_heartbeat.read_all(ledger.client)
    return heartbeat


def complete(world: World) -> HostHeartbeat:
    """The heartbeat once disk and GPUs have been read."""

    def read() -> bool:
        world.supervisor.tick()
        heartbeat = newest(world.ledger)
        return heartbeat.store_free_bytes is not None and (
            heartbeat.gpus is not None or heartbeat.gpus_error is not None
        )

    until(read, "disk and GPUs to be read")
    world.supervisor.tick()
    return newest(world.ledger)


def next_heartbeat(world: World, seconds: float = SEND_EVERY_S) -> HostHeartbeat:
    world.now += seconds
    world.supervisor.tick()
    return newest(world.ledger)


def hsets(ledger: Ledger) -> int:
    """How often Redis was sent HSET since its statistics were reset."""
    lines = str(ledger.client.call("INFO", "commandstats")).splitlines()
    return sum(int(line.split("calls=")[1].split(",")[0]) for line in lines if line.startswith("cmdstat_hset:"))


def test_it_says_what_the_host_is_and_has(world: World) -> None:
    world.up(*PAIR)
    heartbeat, now = complete(world), world.ledger.now()
    assert (heartbeat.host, heartbeat.pid, heartbeat.home) == (
        socket.gethostname(),
        os.getpid(),
        str(world.places.home),
    )
    assert (heartbeat.version, heartbeat.cores) == (metadata.version("mistudio"), os.cpu_count())
    assert (heartbeat.memory_bytes, heartbeat.store) == (psutil.virtual_memory().total, str(world.places.store))
    assert heartbeat.load_1m is not None
    assert (heartbeat.store_error, abs(heartbeat.clock_offset_s) < 5) == (None, True)
    assert abs(now - heartbeat.seen_at) < 60
    assert heartbeat.started_at <= heartbeat.seen_at


def test_there_is_none_before_workers_were_started(world: World) -> None:
    world.supervisor.tick()
    assert host_heartbeat.read_all(world.ledger.client) == []


def test_one_batch_in_five_seconds_is_all_it_costs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # One whose Redis is held up looks as if its clock had jumped, and sends its next heartbeat at once.
    monkeypatch.setattr(host_heartbeat, "_clock_offset", lambda *_: 0.0)
    world.up(*PAIR)
    complete(world)
    next_heartbeat(world)
    world.ledger.client.call("CONFIG", "RESETSTAT")
    for _ in range(40):
        world.now += 0.5
        world.supervisor.tick()
    assert 20 / SEND_EVERY_S <= hsets(world.ledger) <= 20 / SEND_EVERY_S + 1  # one more where a clock was slow


def test_a_supervisor_that_ends_takes_its_heartbeat_along(world: World) -> None:
    world.up(*PAIR)
    assert newest(world.ledger)
    world.supervisor.last_will()
    assert world.ledger.client.call("HLEN", "mistudio:hosts") == 0


def test_hosts_that_are_listed_no_more_are_removed_and_others_are_not(world: World) -> None:
    now = world.ledger.now()
    for host, age_s in (("gone", LISTED_FOR_S + 60), ("silent", LISTED_FOR_S - 60)):
        heartbeat = HostHeartbeat(host, "/", 1, now - age_s, now - age_s, 0.0)
        host_heartbeat.send(world.ledger.client, heartbeat)
    world.ledger.client.call("HSET", "mistudio:hosts", "evil", "not a heartbeat")
    world.up(*PAIR)
    assert set(world.ledger.client.call("HKEYS", "mistudio:hosts")) == {"silent:/", "evil", newest_field(world)}


def newest_field(world: World) -> str:
    return host_heartbeat.field_of(socket.gethostname(), str(world.places.home))


def test_a_clock_that_is_wrong_is_measured_and_the_times_are_right_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 75)
    world.up(*PAIR)
    heartbeat = newest(world.ledger)
    assert 70 < heartbeat.clock_offset_s < 80
    assert abs(world.ledger.now() - heartbeat.seen_at) < 60


def test_a_clock_that_jumps_spoils_one_heartbeat_at_most(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.up(*PAIR)
    complete(world)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() - 7200)
    world.now += SEND_EVERY_S
    world.supervisor.tick()
    world.supervisor.tick()  # no time has passed
    heartbeat = newest(world.ledger)
    assert -7205 < heartbeat.clock_offset_s < -7195
    assert abs(world.ledger.now() - heartbeat.seen_at) < 60


@pytest.fixture
def dead_mount(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """A disk whose usage is not returned until the server is back."""
    back, usage = threading.Event(), shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: back.wait(60) and usage(path))
    yield back.set
    back.set()


def test_a_disk_that_hangs_is_a_sentence_and_delays_no_heartbeat(world: World, dead_mount: Callable[[], Any]) -> None:
    world.up(*PAIR)
    first = newest(world.ledger)
    assert (first.store_free_bytes, first.store_error) == (None, None)
    for _ in range(3):
        heartbeat = next_heartbeat(world)
    assert (heartbeat.store_free_bytes, heartbeat.store_error) == (None, "the disk of the store does not answer")
    reading = [thread for thread in threading.enumerate() if thread.name == "reads the disk of the store"]
    assert len(reading) == 1
    dead_mount()
    until(lambda: next_heartbeat(world).store_free_bytes, "the disk to be read again")
    assert newest(world.ledger).store_error is None


def test_a_redis_that_does_not_answer_costs_one_timeout_for_all_questions(tmp_path: Path) -> None:
    clock = Clock()
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        black_hole.setblocking(False)
        heartbeat_monitor = HeartbeatMonitor(clock)
        heartbeat_monitor.connect_to(f"redis://127.0.0.1:{black_hole.getsockname()[1]}/0")
        reporter = HostReporter(Places(tmp_path, tmp_path), heartbeat_monitor, dict, clock)
        for _ in range(10):
            reporter.tick()
            assert heartbeat_monitor.ask(lambda ledger: ledger.now()) is None
        assert attempts(black_hole) == 1
        clock.now += REDIS_SILENT_PAUSE_S
        reporter.tick()
        assert attempts(black_hole) == 1
        reporter.leave()
        assert attempts(black_hole) == 0
        heartbeat_monitor.close()


def attempts(listener: socket.socket) -> int:
    """How many connections have been opened since this was last asked."""
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_a_key_of_another_type_keeps_no_worker_from_being_known(world: World) -> None:
    world.ledger.client.call("SET", "mistudio:hosts", "a text")
    world.up(*PAIR)


def test_a_driver_that_hangs_is_a_sentence_and_the_supervisor_answers_and_ends_in_good_order(
    home: Home, own_redis: RedisServer, driver: Path
) -> None:
    cli = Cli(home)
    cli.environment |= {"LD_LIBRARY_PATH": str(driver), "FAKE_Init": "666", "CELERY_BROKER_URL": own_redis.url}
    assert cli("workers start").returncode == 0
    row = until(lambda: (row := host_of(cli))["gpus_error"] and row, "the driver to be given up")
    assert (row["gpus_error"], row["gpus"]) == ("NVML cannot be read: NVML does not answer", None)
    assert (row["state"], row["workers"]) == ("running", 1)
    assert supervisor_client.status(home.places) is not None
    assert cli("workers stop --all").returncode == 0
    with closing(connect(own_redis.url)) as client:
        assert client.call("HLEN", "mistudio:hosts") == 0


def host_of(cli: Cli) -> dict[str, Any]:
    (row,) = cli.read_json("hosts ls --json")["hosts"]
    return row


def test_gpus_are_listed_with_their_memory(home: Home, driver: Path) -> None:
    cli = Cli(home)
    cli.environment |= {"LD_LIBRARY_PATH": str(driver), "FAKE_LOST": "1"}
    assert cli("workers start").returncode == 0
    first, lost = until(lambda: host_of(cli)["gpus"], "the GPUs to be read")
    assert (first["uuid"], first["name"], first["error"]) == ("GPU-fake-0", "Fake GPU 0", None)
    assert first["memory_total_bytes"] > first["memory_free_bytes"] > 0
    assert 0 <= first["utilisation_percent"] <= 100
    assert first["temperature_c"] > 0 < first["power_w"]
    assert (lost["memory_free_bytes"], lost["error"]) == (None, "GPU is lost")
    assert (lost["utilisation_percent"], lost["power_w"], lost["temperature_c"]) == (None, None, None)
    show = f"hosts show {socket.gethostname()}"
    text = until(lambda: "Fake GPU 0" in (text := cli(show).stdout) and text, "them to be shown")
    assert "GPU is lost" in text


def test_the_processes_on_a_gpu_are_sent_without_secrets_and_no_more_than_have_room(
    home: Home, own_redis: RedisServer, driver: Path
) -> None:
    cli, job = Cli(home), "01kg9t2v8ch7mq"
    with ExitStack() as running:
        pids = [running.enter_context(process("tasks.runner", job))]
        pids += [running.enter_context(process("--api-key=hunter2hunter2", "word " * 200)) for _ in range(10)]
        cli.environment |= {"LD_LIBRARY_PATH": str(driver), "FAKE_GPUS": "1", "CELERY_BROKER_URL": own_redis.url}
        cli.environment |= {"FAKE_PROCESSES": "11", **{f"FAKE_PID_{place}": str(pid) for place, pid in enumerate(pids)}}
        assert cli("workers start").returncode == 0
        (gpu,) = until(lambda: host_of(cli)["gpus"], "the GPUs to be read")
    assert [found["pid"] for found in gpu["processes"]] == [pids[0], *pids[:3:-1]], "those with most memory"
    assert [found["job"] for found in gpu["processes"]] == [job, *[None] * 7]
    assert {found["user"] for found in gpu["processes"]} == {getpass.getuser()}
    assert (gpu["more_processes"], gpu["others_bytes"]) == (3, 2 * GIB), "of 5 GiB in use the job holds 3"
    assert all("***" in found["command"] and len(found["command"]) <= 120 for found in gpu["processes"][1:])
    with closing(connect(own_redis.url)) as client:
        (line,) = client.call("HVALS", "mistudio:hosts")
    assert "hunter2" not in line
    assert len(line) < 3000


def test_a_heartbeat_of_eight_full_gpus_is_bounded(ledger: Ledger) -> None:
    words = "w" * LONGEST_TEXT
    processes = tuple(CardProcess(4_194_304, 80 * GIB, words, words, words) for _ in range(MOST_PROCESSES))
    gpus = tuple(Gpu(index, "a card", f"GPU-{index}", 80 * GIB, GIB, processes=processes) for index in range(8))
    sent = HostHeartbeat("h", "/", 1, ledger.now(), ledger.now(), 0.0, gpus=gpus)
    host_heartbeat.send(ledger.client, sent)
    assert host_heartbeat.read_all(ledger.client) == [sent]
    assert int(ledger.client.call("HSTRLEN", "mistudio:hosts", sent.field)) < 32_000


@pytest.mark.parametrize("broken", ["x", [{}], [{"pid": "x", "memory": 1}], [{"pid": 1, "memory": 1, "user": 7}]])
def test_processes_that_are_none_make_no_heartbeat(ledger: Ledger, broken: Any) -> None:
    sent = HostHeartbeat("h", "/", 1, ledger.now(), ledger.now(), 0.0, gpus=(Gpu(0),))
    host_heartbeat.send(ledger.client, sent)
    line = json.loads(ledger.client.call("HGET", "mistudio:hosts", sent.field))
    line["gpus"][0]["processes"] = broken
    ledger.client.call("HSET", "mistudio:hosts", sent.field, json.dumps(line))
    assert host_heartbeat.read_all(ledger.client) == []
