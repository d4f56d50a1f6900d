"""`mistudio hosts`: what is listed of each host and shown of one; what `doctor` says of clocks and versions."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
from typing import Any

import pytest

from mistudio_cli.errors import Code
from mistudio_cli.monitor.hosts import read_fleet
from mistudio_cli.monitor.snapshot import read_all
from mistudio_cli.top.frame.text import plain
from tasks.fleet import damaged_entries, host_heartbeat
from tasks.fleet.host_heartbeat import LISTED_FOR_S, Gpu, HostHeartbeat
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.ledger.device_lease import Card
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.paths import Places
from tests.cli.conftest import Cli, repeated
from tests.cli.painted import frame_of
from tests.cli.painted import painted as painted_of
from tests.cli.test_completion import offered_from_redis

GIB = 1 << 30
KEY = "mistudio:hosts"


def heartbeat(ledger: Ledger, host: str, age_s: float = 0.0, **changes: Any) -> HostHeartbeat:
    """Write the heartbeat of a host, as its supervisor would."""
    known = HostHeartbeat(
        host=host,
        home="/home/me/mistudio",
        pid=4711,
        started_at=ledger.now() - 3600,
        seen_at=ledger.now() - age_s,
        clock_offset_s=0.04,
        version="0.1.0",
        cores=16,
        memory_bytes=64 * GIB,
        load_1m=3.46,
        store="/srv/store",
        store_free_bytes=900 * GIB,
        gpus=(Gpu(0, "a card", f"GPU-{host}", 24 * GIB, 20 * GIB), Gpu(1, error="GPU is lost")),
    )
    heartbeat = dataclasses.replace(known, **changes)
    host_heartbeat.send(ledger.client, heartbeat)
    return heartbeat


def worker_heartbeat(ledger: Ledger, host: str) -> None:
    """Write the heartbeat of a worker on that host."""
    ledger.heartbeat(WorkerHeartbeat(f"w@{host}", host, 7, ("training",), 2, ledger.now() - 60, loop_at=ledger.now()))


def busy_worker(ledger: Ledger, host: str) -> str:
    """A worker on that host with a job that leases the host's first GPU; the job's id."""
    worker_heartbeat(ledger, host)
    job = ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    claim = ledger.claim(job.id, f"w@{host}", host, 7)
    assert claim is not None
    card = Card(f"GPU-{host}", "cuda:0", 24 * GIB, 4 * GIB)
    assert ledger.lease_device(claim, [card], 1) == card
    return job.id


def checks(cli: Cli, name: str) -> list[tuple[str, str]]:
    found = cli("doctor", "--json").json["checks"]
    return [(check["verdict"], check["detail"]) for check in found if check["name"] == name]


def test_every_host_is_a_line_with_its_workers_jobs_and_resources(cli: Cli) -> None:
    heartbeat(cli.ledger, "lab")
    heartbeat(cli.ledger, "nas", gpus=None, store_free_bytes=None, load_1m=None, version=None)
    busy_worker(cli.ledger, "lab")
    header, stack, nas = cli("hosts", "ls").out.splitlines()
    assert re.split(r"  +", header) == [
        *("HOST", "STATE", "WORKERS", "BUSY", "CORES", "LOAD"),
        *("MEMORY", "GPUS", "STORE FREE", "CLOCK", "VERSION"),
    ]
    values = ["lab", "running", "1", "1", "16", "3.5", "64 GiB", "2", "900 GiB", "+0.0 s", "0.1.0"]
    assert re.split(r"  +", stack) == values
    assert re.split(r"  +", nas) == ["nas", "running", "0", "0", "16", "n/a", "64 GiB", "n/a", "n/a", "+0.0 s", "n/a"]


def test_a_silent_host_is_listed_with_its_age_and_then_gone(cli: Cli) -> None:
    heartbeat(cli.ledger, "lab", age_s=70)
    heartbeat(cli.ledger, "old", age_s=LISTED_FOR_S + 60)
    (row,) = cli("hosts", "ls", "--json").json["hosts"]
    assert (row["name"], row["state"], row["seen_age_s"] >= 70) == ("lab", "silent", True)
    assert re.search(r"^lab +silent 1 min \d+ s ", cli("hosts", "ls").out, re.M)
    assert cli("hosts", "show", "old").code == Code.NOT_FOUND


def test_a_host_of_which_only_workers_send_heartbeats_is_listed_and_the_rest_is_unknown(cli: Cli) -> None:
    busy_worker(cli.ledger, "pod")
    (row,) = cli("hosts", "ls", "--json").json["hosts"]
    assert [row[key] for key in ("name", "state", "workers", "busy")] == ["pod", "workers only", 1, 1]
    unknown = {key for key, value in row.items() if value is None}
    assert unknown == set(row) - {"name", "state", "workers", "busy", "supervisors"}
    assert re.search(r"^pod +workers only +1 +1( +n/a){7}$", cli("hosts", "ls").out, re.M)


def test_one_host_is_shown_with_its_workers_and_the_jobs_on_its_devices(cli: Cli) -> None:
    def send(ledger: Ledger) -> None:
        heartbeat(ledger, "lab")
        heartbeat(ledger, "nas")
        worker_heartbeat(ledger, "lab")

    job_id = busy_worker(cli.ledger, "lab")
    with repeated(cli, send):
        done = cli("hosts", "show", "lab", "--json").json
        text = cli("hosts", "show", "lab").out
    assert done["host"]["store"] == "/srv/store"
    assert [worker["name"] for worker in done["workers"]] == ["w@lab"]
    assert [(device["jobs"], device["error"]) for device in done["devices"]] == [([job_id], None), ([], "GPU is lost")]
    for line in (r"^STORE +/srv/store$", r"^w@lab +running ", rf"^ *0 +a card .* 20 GiB of 24 GiB +{job_id}$"):
        assert re.search(line, text, re.M), text
    assert re.search(r"^SUPERVISOR +pid 4711, running, mistudio 0\.1\.0, up 1 h 0 min, ", text, re.M)


def test_two_homes_on_one_host_are_one_line_with_two_supervisors(cli: Cli) -> None:
    heartbeat(cli.ledger, "lab", home="/a", pid=1, started_at=cli.ledger.now() - 10, store="/a/store")
    heartbeat(cli.ledger, "lab", home="/b", pid=2, age_s=100, store="/b/store")
    (row,) = cli("hosts", "ls", "--json").json["hosts"]
    assert (row["state"], row["store"]) == ("running", "/a/store")
    assert [(one["home"], one["state"]) for one in row["supervisors"]] == [("/a", "running"), ("/b", "silent")]


@pytest.mark.parametrize("name", ["nowhere", "", "la", "\x1b[2J", "../lab"])
def test_a_host_that_is_not_there_is_said_with_those_that_are(cli: Cli, name: str) -> None:
    heartbeat(cli.ledger, "lab")
    heartbeat(cli.ledger, "nas")
    done = cli("hosts", "show", name)
    assert (done.code, done.out) == (Code.NOT_FOUND, "")
    assert done.err.startswith("There is no host ")
    assert done.err.endswith("  Hosts: lab, nas\n")
    assert "\x1b" not in done.err


def test_without_hosts_it_says_how_to_have_one(cli: Cli) -> None:
    assert cli("hosts", "ls", "--json").json["hosts"] == []
    done = cli("hosts", "ls")
    assert (done.code, "mistudio workers start" in done.err) == (Code.OK, True)


@pytest.mark.parametrize("words", [("hosts", "ls"), ("hosts", "show", "lab")])
def test_without_redis_nothing_is_started(cli: Cli, words: tuple[str, ...]) -> None:
    for url in ("", "redis://127.0.0.1:1/0"):
        done = cli(*words, CELERY_BROKER_URL=url)
        assert (done.code, done.out) == (Code.UNREACHABLE, "")
    assert os.listdir(cli.home) == []


@pytest.mark.parametrize(
    "line",
    [
        *("", "null", "7", "[]", "{}", "rm -rf /", "[" * 100_000),
        *(json.dumps({"host": "x", "home": "/", "pid": 1, "started_at": 1}), '{"host": "x", "pid": "y"}'),
    ],
)
def test_an_entry_that_is_no_heartbeat_hides_no_other_and_is_named(cli: Cli, line: str) -> None:
    heartbeat(cli.ledger, "lab")
    cli.ledger.client.call("HSET", KEY, "evil", line)
    assert [row.name for row in read_fleet(cli.ledger).hosts] == ["lab"]
    (found,) = damaged_entries.find(cli.ledger.client)
    assert found.where == f"{KEY} evil"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("seen_at", "now"), ("seen_at", float("nan")), ("started_at", 1e300), ("clock_offset_s", -1e12)),
        *(("pid", None), ("host", 7), ("cores", "many"), ("memory_bytes", 10**400), ("load_1m", float("inf"))),
        *(("gpus", "two"), ("gpus", [{"name": "no index"}]), ("gpus", [{"index": 0, "memory_free": "much"}])),
    ],
)
def test_a_field_of_a_wrong_type_makes_an_entry_unreadable(ledger: Ledger, field: str, value: Any) -> None:
    fields = {**dataclasses.asdict(heartbeat(ledger, "lab")), field: value}
    ledger.client.call("HSET", KEY, "lab:/home/me/mistudio", json.dumps(fields))
    assert host_heartbeat.read_all(ledger.client) == []
    assert [found.where for found in damaged_entries.find(ledger.client)] == [f"{KEY} lab:/home/me/mistudio"]


def test_heartbeats_of_older_and_newer_versions_are_read(ledger: Ledger) -> None:
    now = ledger.now()
    least = {"host": "old", "home": "/", "pid": 1, "started_at": now, "seen_at": now, "clock_offset_s": 0.0}
    newer = {**least, "host": "new", "cores": 4, "gpus": [{"index": 0, "wattage": 3}], "mood": "good"}
    for fields in (least, newer):
        ledger.client.call("HSET", KEY, str(fields["host"]), json.dumps(fields))
    new, old = host_heartbeat.read_all(ledger.client)
    assert (new.cores, new.gpus, old.cores, old.gpus) == (4, (Gpu(0),), None, None)


def test_the_key_of_another_type_is_named_by_doctor(cli: Cli) -> None:
    cli.ledger.client.call("SET", KEY, "a text")
    done = cli("hosts", "ls")
    assert (done.code, "Redis refuses" in done.err) == (Code.UNREACHABLE, True)
    assert KEY in cli("doctor").out


@pytest.mark.parametrize(
    ("offset_s", "verdict", "where"),
    [
        (4.0, "ok", ""),
        (-12.0, "warning", "12 s behind"),
        (75.0, "failed", "75 s ahead of"),
        (-7200, "failed", "7200 s"),
    ],
)
def test_a_clock_that_is_off_is_said_with_both_times(cli: Cli, offset_s: float, verdict: str, where: str) -> None:
    def send(ledger: Ledger) -> None:
        heartbeat(ledger, "nas")
        heartbeat(ledger, "lab", clock_offset_s=offset_s)

    with repeated(cli, send):
        ((found, detail),) = checks(cli, "clock")
        listed = cli("hosts", "ls")
    assert found == verdict
    if verdict == "ok":
        assert (detail, listed.err) == ("within 4.0 s of Redis's on lab, nas", "")
        return
    assert detail.startswith(f"The clock of lab is {where}")
    of_another_heartbeat = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC")
    assert len(of_another_heartbeat.findall(detail)) == 2
    assert of_another_heartbeat.sub("then", listed.err) == of_another_heartbeat.sub("then", f"{detail}\n")
    assert f" {offset_s:+.1f} s " in listed.out


def test_supervisors_of_different_versions_are_a_warning_that_names_them(cli: Cli) -> None:
    with repeated(cli, lambda ledger: heartbeat(ledger, "lab")):
        assert checks(cli, "versions") == [("ok", "mistudio 0.1.0 on lab")]
        heartbeat(cli.ledger, "gone", version="0.0.1", age_s=100)
        with repeated(cli, lambda ledger: heartbeat(ledger, "nas", version="0.2.0")):
            detail = "supervisors of different versions: mistudio 0.1.0 on lab, mistudio 0.2.0 on nas"
            assert checks(cli, "versions") == [("warning", detail)]


def test_tab_offers_names_of_hosts(cli: Cli) -> None:
    heartbeat(cli.ledger, "lab")
    heartbeat(cli.ledger, "nas")
    assert offered_from_redis(cli, "mistudio hosts show ") == ["lab", "nas"]
    assert offered_from_redis(cli, "mistudio hosts show n") == ["nas"]


def test_workers_status_and_top_have_the_same_hosts(cli: Cli) -> None:
    heartbeat(cli.ledger, "lab")
    for words in ("workers status --json", "top --once --json", "hosts ls --json"):
        (row,) = cli(*words.split()).json["hosts"]
        assert (row["name"], row["gpus"][0]["memory_free_bytes"]) == ("lab", 20 * GIB)


def painted(cli: Cli) -> list[str]:
    """What `top` shows of this fleet."""
    return painted_of(read_all(cli.ledger, Places(cli.home, cli.home / "store")), 160, 60)


def test_top_shows_the_other_hosts_and_their_gpus_with_the_jobs_that_lease_them(cli: Cli) -> None:
    heartbeat(cli.ledger, socket.gethostname(), gpus=())
    assert not any("HOST" in line for line in painted(cli)), "of this host alone everything is said already"
    heartbeat(cli.ledger, "lab")
    job = busy_worker(cli.ledger, "lab")
    lines = [re.split(r"  +", re.sub(r"\(\d+ s ago\)", "(0 s ago)", line)) for line in painted(cli)]
    assert ["lab", "running", "1", "1", "16", "3.5", "64 GiB", "2", "900 GiB", "+0.0 s", "0.1.0"] in lines
    assert ["0@lab", "a card", "n/a", "20 GiB of 24 GiB free", "n/a", "n/a", f"{job} (0 s ago)"] in lines
    assert ["1@lab", "n/a", "n/a", "n/a of n/a free", "n/a", "n/a", "GPU is lost (0 s ago)"] in lines


def test_top_dims_a_silent_host_and_says_since_when(cli: Cli) -> None:
    heartbeat(cli.ledger, "lab", age_s=70)
    heartbeat(cli.ledger, "nas")
    frame = frame_of(read_all(cli.ledger, Places(cli.home, cli.home / "store")), 160, 60)
    lines = {plain(line): {span.style for span in line if span.text.strip()} for line in frame.lines}
    (lab,) = [line for line in lines if "lab" in line and "silent 1 min" in line and line.startswith("lab")]
    (gpu,) = [line for line in lines if "0@lab" in line]
    (nas,) = [line for line in lines if "0@nas" in line]
    assert lines[lab] == {"dim", "warn"}
    assert lines[gpu] == {"dim", "warn"}
    assert "silent 1 min" in gpu
    assert "dim" not in lines[nas]
