"""The history of queues and GPUs: each row is written once, gaps are no zeros, and no job is lost for it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tasks.fleet import acl, damaged_entries, host_heartbeat
from tasks.fleet.host_heartbeat import Gpu, HostHeartbeat
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.ledger import history
from tasks.ledger.client import Ledger
from tasks.ledger.history import COARSE, FINE
from tasks.ledger.maintenance import MaintenanceSettings
from tasks.queues import QUEUE_NAMES
from tasks.redis_client.redis_connection import Client, Refused, Unable, connect
from tests.conftest import RedisServer

NOW = MaintenanceSettings(every_s=0)
GIB = 1 << 30
CARD = Gpu(0, "a card", "GPU-1", 80 * GIB, 60 * GIB, utilisation=75.0, temperature=61, power=302.6)


def rows(ledger: Ledger, part: str, resolution: history.Resolution = FINE) -> list[list[Any]]:
    return [json.loads(row) for row in ledger.client.call("LRANGE", key(part, resolution), 0, -1)]


def key(part: str, resolution: history.Resolution = FINE) -> str:
    return f"mistudio:{history.key(part, resolution)}"


def heartbeat(
    ledger: Ledger, host: str, *gpus: Gpu, age_s: float = 0.0, home: str = "/home/me", now: float | None = None
) -> None:
    now = ledger.now() if now is None else now
    host_heartbeat.send(ledger.client, HostHeartbeat(host, home, 7, now - 60, now - age_s, 0.0, gpus=gpus))


def add_row(ledger: Ledger, part: str, at: float, cells: dict[str, list[float | None]]) -> None:
    ledger.client.call("RPUSH", key(part), json.dumps([int(at), cells]))


def last_minute(ledger: Ledger) -> int:
    """The start of the minute before this one."""
    return (int(ledger.now()) // 60 - 1) * 60


def newest(values: Any) -> Any:
    return next(value for value in reversed(values) if value is not None)


def test_what_queues_and_gpus_are_like_is_written_by_whoever_maintains(ledger: Ledger) -> None:
    jobs = [ledger.submit(Job(new_job_id(), "train", "a", "training", {})) for _ in range(3)]
    assert ledger.claim(jobs[0].id, "w@lab", "lab")
    ledger.queues.pause("datasets")
    heartbeat(ledger, "lab", CARD)
    ledger.maintain(NOW)
    found = history.read(ledger.client, "queues", "15m")
    assert set(found.series) == set(QUEUE_NAMES)
    training = {what: newest(values) for what, values in found.series["training"].items()}
    assert training == {"pending": 2, "running": 1, "paused": 0}
    assert newest(found.series["datasets"]["paused"]) == 1
    found = history.read(ledger.client, "devices", "15m")
    ((name, device),) = found.devices.items()
    assert device == history.DeviceName("lab", "GPU-1", 0, None, "a card")
    card = {what: newest(values) for what, values in found.series[name].items()}
    assert card == {"utilisation": 75, "memory_used": 20 * GIB, "power": 303, "temperature": 61}


def test_two_who_maintain_at_once_write_each_slot_once(ledger: Ledger) -> None:
    heartbeat(ledger, "lab", CARD)
    began = ledger.now()
    for _ in range(20):
        ledger.maintain(NOW)
    for part in history.PARTS:
        times = [at for at, _ in rows(ledger, part)]
        assert times == sorted(set(times))
        assert all(at % FINE.step_s == 0 for at in times)
        assert began - FINE.step_s < times[0] <= times[-1] <= ledger.now()


def test_of_a_gpu_a_minute_keeps_the_mean_of_what_was_known(ledger: Ledger) -> None:
    minute = last_minute(ledger)
    for at, busy in ((0, 100), (5, 50), (55, None)):
        add_row(ledger, "devices", minute + at, {"ab": [busy, 1000 + at, None, 60]})
    ledger.maintain(NOW)
    ledger.maintain(NOW)
    assert rows(ledger, "devices", COARSE) == [[minute, {"ab": [75, 1020, None, 60]}]]


def test_of_a_queue_a_minute_keeps_the_largest_values_of_its_own_rows(ledger: Ledger) -> None:
    minute = last_minute(ledger)
    add_row(ledger, "queues", minute - 5, {"training": [1000, 9, 0]})  # of the minute before
    for at, pending in ((0, 4), (5, 90), (55, 2)):
        add_row(ledger, "queues", minute + at, {"training": [pending, 1, int(at == 5)]})
    ledger.maintain(NOW)
    ledger.maintain(NOW)  # which may be in the next minute
    written = [row for row in rows(ledger, "queues", COARSE) if row[0] <= minute]
    assert written == [[minute, {"training": [90, 1, 1]}]]


def test_what_nobody_wrote_is_a_gap_and_no_zero(ledger: Ledger) -> None:
    now = int(ledger.now()) // 5 * 5
    add_row(ledger, "queues", now - 300, {"training": [7, 1, 0]})
    ledger.maintain(NOW)
    found = history.read(ledger.client, "queues", "15m")
    pending = found.series["training"]["pending"]
    times = [found.start + step * found.step_s for step in range(len(pending))]
    values = dict(zip(times, pending, strict=True))
    assert (len(pending), values[now - 300], values[now - 295], values[now - 10]) == (180, 7, None, None)
    assert newest(pending) == 0
    assert found.series["low_priority"]["pending"].count(None) == 179  # there was no row of it before


def test_a_gpu_that_says_nothing_is_unknown_and_one_of_a_silent_host_is_left_out(ledger: Ledger) -> None:
    heartbeat(ledger, "lab", Gpu(0, "lost", "GPU-0", error="GPU is lost"))
    heartbeat(ledger, "old", Gpu(0, "older", "GPU-2", 80 * GIB, 60 * GIB))
    heartbeat(ledger, "gone", dataclasses.replace(CARD, uuid="GPU-3"), age_s=20)
    ledger.maintain(NOW)
    found = history.read(ledger.client, "devices", "1h")
    by_uuid = {found.devices[name].uuid: values for name, values in found.series.items()}
    assert set(by_uuid) == {"GPU-0", "GPU-2"}
    assert all(set(values) == {None} for values in by_uuid["GPU-0"].values())
    assert newest(by_uuid["GPU-2"]["memory_used"]) == 20 * GIB
    assert set(by_uuid["GPU-2"]["utilisation"]) == {None}


def test_a_gpu_that_several_homes_report_is_one_as_last_seen(ledger: Ledger) -> None:
    now = ledger.now()
    heartbeat(ledger, "lab", dataclasses.replace(CARD, utilisation=1.0), age_s=5, now=now)
    heartbeat(ledger, "lab", dataclasses.replace(CARD, utilisation=2.0), home="/home/you", now=now)
    heartbeat(ledger, "lab", dataclasses.replace(CARD, utilisation=3.0), age_s=3, home="/home/them", now=now)
    ledger.maintain(NOW)
    (values,) = history.read(ledger.client, "devices", "15m").series.values()
    assert newest(values["utilisation"]) == 2


def test_a_fleet_of_very_many_gpus_says_how_many_are_left_out(ledger: Ledger) -> None:
    for host in range(10):
        heartbeat(ledger, f"h{host}", *(dataclasses.replace(CARD, uuid=f"GPU-{host}-{card}") for card in range(8)))
    ledger.maintain(NOW)
    found = history.read(ledger.client, "devices", "15m")
    assert (len(found.series), found.left_out) == (history.MOST_DEVICES, 16)


def test_the_rings_are_bounded_and_go_when_nobody_writes(ledger: Ledger) -> None:
    heartbeat(ledger, "lab", CARD)
    minute = last_minute(ledger)
    for part in history.PARTS:
        for resolution in (FINE, COARSE):
            old = [json.dumps([minute - 86400, {}])] * (resolution.rows + 50)
            ledger.client.call("RPUSH", key(part, resolution), *old)
        add_row(ledger, part, minute, {"training": [1, 1, 1]})
    ledger.maintain(NOW)
    for part in history.PARTS:
        for resolution in (FINE, COARSE):
            assert ledger.client.call("LLEN", key(part, resolution)) == resolution.rows
            assert 0 < ledger.client.call("TTL", key(part, resolution)) <= resolution.rows * resolution.step_s
    assert 0 < ledger.client.call("TTL", f"mistudio:{history.NAMES_KEY}") <= 86400


def test_the_name_of_a_gpu_that_was_removed_goes_after_a_day(ledger: Ledger) -> None:
    heartbeat(ledger, "lab", CARD)
    names = f"mistudio:{history.NAMES_KEY}"
    for name, age_s in (("old", 86500), ("late", 80000)):
        ledger.client.call("HSET", names, name, json.dumps({"at": ledger.now() - age_s, "uuid": name}))
    add_row(ledger, "devices", last_minute(ledger), {"late": [1, 1, 1, 1]})
    ledger.maintain(NOW)
    known = ledger.client.call("HKEYS", names)
    assert ("late" in known, "old" in known, len(known)) == (True, False, 2)


def test_rows_of_a_time_to_come_are_dropped_when_the_clock_was_set_back(ledger: Ledger) -> None:
    add_row(ledger, "queues", ledger.now() + 3600, {"training": [9, 9, 0]})
    ledger.maintain(NOW)
    ((at, _),) = rows(ledger, "queues")
    assert at <= ledger.now()


@pytest.mark.parametrize("damage", [("SET", "text"), ("SADD", "entry")])
def test_a_damaged_key_of_the_history_stops_no_maintenance_and_doctor_names_it(
    ledger: Ledger, damage: tuple[str, str]
) -> None:
    command, value = damage
    ledger.client.call(command, key("queues"), value)
    heartbeat(ledger, "lab", CARD)
    ledger.maintain(NOW)
    assert history.read(ledger.client, "devices", "15m").series
    with pytest.raises(Refused, match="WRONGTYPE"):
        history.read(ledger.client, "queues", "15m")
    assert key("queues") in [entry.where for entry in damaged_entries.find(ledger.client)]


@pytest.mark.parametrize(
    "row", ["{", "[]", "null", '["x", {}]', '[1, {"training": "x"}]', "[NaN, {}]", "[1e999, {}]", "\x1b[31m"]
)
def test_a_row_that_others_wrote_is_left_out(ledger: Ledger, row: str) -> None:
    now = ledger.now()
    add_row(ledger, "queues", now - 60, {"training": [3, 1, 0], "datasets": [float("inf"), 1, 0]})
    ledger.client.call("RPUSH", key("queues"), row)
    ledger.maintain(NOW)
    found = history.read(ledger.client, "queues", "15m")
    assert 3 in found.series["training"]["pending"]
    assert "Infinity" not in json.dumps(found.series)


@pytest.mark.parametrize(
    "gpus", ["[1]", '["x"]', '[{"uuid": 7}]', '[{"index": {}}]', '{"a": 1}', '[{"power": 1e300}]', "[null]"]
)
def test_a_heartbeat_that_others_damaged_hides_no_other_host(ledger: Ledger, gpus: str) -> None:
    heartbeat(ledger, "lab", CARD)
    line = f'{{"host": "x", "seen_at": {ledger.now()}, "gpus": {gpus}}}'
    ledger.client.call("HSET", "mistudio:hosts", "x:/", line)
    ledger.maintain(NOW)
    found = history.read(ledger.client, "devices", "15m")
    assert "GPU-1" in [device.uuid for device in found.devices.values()]


def test_an_older_ledger_has_no_history_and_no_error(ledger: Ledger) -> None:
    for part in history.PARTS:
        for span, (resolution, count) in history.SPANS.items():
            found = history.read(ledger.client, part, span)
            assert (found.series, found.devices, found.left_out) == ({}, {}, 0)
            assert found.start + count * resolution.step_s <= found.read_at


def test_a_full_redis_loses_history_and_recovers_jobs_all_the_same(own_redis: RedisServer) -> None:
    ledger = Ledger(connect(own_redis.url))
    job = ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    assert ledger.claim(job.id, "w@lab", "lab")
    ledger.client.call("ZADD", "mistudio:leases", ledger.now() - 1, job.id)
    ledger.client.call("SET", key("queues"), "what no row can be added to")
    ledger.client.call("SET", "mistudio:reaped_at", ledger.now())  # somebody looked a moment ago
    ledger.maintain(NOW)
    assert ledger.need(job.id).state is State.QUEUED
    ledger.client.call("CONFIG", "SET", "maxmemory", "1mb")
    with pytest.raises((Refused, Unable), match="OOM"):
        ledger.maintain(NOW)
    ledger.client.call("CONFIG", "SET", "maxmemory", "0")
    ledger.client.call("DEL", key("queues"))
    ledger.maintain(NOW)
    assert rows(ledger, "queues")
    ledger.close()


def test_a_gpu_that_appears_within_a_minute_has_its_name_at_once(ledger: Ledger) -> None:
    heartbeat(ledger, "lab", CARD)
    now = int(ledger.now())
    add_row(ledger, "devices", now // 5 * 5 - 5, {"other": [1, 1, 1, 1]})
    ledger.client.call("RPUSH", key("devices", COARSE), json.dumps([now // 60 * 60, {}]))  # no minute is over
    ledger.maintain(NOW)
    assert [device.uuid for device in history.read(ledger.client, "devices", "15m").devices.values()] == ["GPU-1"]


def test_names_that_redis_evicted_are_written_again_within_a_minute(ledger: Ledger) -> None:
    heartbeat(ledger, "lab", CARD)
    ledger.maintain(NOW)
    ledger.client.call("DEL", f"mistudio:{history.NAMES_KEY}", key("devices"))
    ledger.maintain(NOW)
    found = history.read(ledger.client, "devices", "15m")
    assert [found.devices[name].uuid for name in found.series] == ["GPU-1"]


@pytest.fixture
def reader(session_redis: RedisServer, ledger: Ledger) -> Iterator[Client]:
    """A connection whose user has the role `reader`."""
    role = next(role for role in acl.ROLES if role.name == "reader")
    ledger.client.call("ACL", "SETUSER", "looks", *role.rules(ledger.client.address, "secret"))
    client = connect(session_redis.url)
    client.call("AUTH", "looks", "secret")
    yield client
    client.close()
    ledger.client.call("ACL", "DELUSER", "looks")


def test_who_may_only_read_reads_the_history_in_one_round_trip(
    ledger: Ledger, reader: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat(ledger, "lab", CARD)
    ledger.maintain(NOW)
    batches = []
    batch = Client.batch
    monkeypatch.setattr(Client, "batch", lambda self, commands: batches.append(1) or batch(self, commands))
    for part in history.PARTS:
        assert history.read(reader, part, "1h").series
    assert len(batches) == len(history.PARTS)


def test_a_day_of_six_queues_and_eight_gpus_fits_into_a_megabyte(ledger: Ledger) -> None:
    """docs/design/redis.md has the figure."""
    start = last_minute(ledger)
    for resolution in (FINE, COARSE):
        for part, cells in (
            ("queues", {name: [123, 8, 0] for name in QUEUE_NAMES}),
            ("devices", {f"{card:08x}": [87.5, 76123.4, 654.2, 64.5] for card in range(8)}),
        ):
            lines = [
                json.dumps([start - resolution.step_s * back, cells], separators=(",", ":"))
                for back in range(resolution.rows, 0, -1)
            ]
            ledger.client.call("RPUSH", key(part, resolution), *lines)
    sizes = [
        ledger.client.call("MEMORY", "USAGE", key(part, resolution), "SAMPLES", 0)
        for part in history.PARTS
        for resolution in (FINE, COARSE)
    ]
    assert 500_000 < sum(sizes) < 1_100_000, sizes
