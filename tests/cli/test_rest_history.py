"""`GET /api/v1/history`: what queues and GPUs were like, from a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest

from mistudio_cli.rest.routes import API, ROUTES
from tasks.fleet.host_heartbeat import Gpu
from tasks.ledger import history
from tasks.ledger.maintenance import MaintenanceSettings
from tests.cli.conftest import Cli
from tests.cli.test_hosts import GIB, heartbeat
from tests.cli.test_rest_routes import check, server_of
from tests.conftest import until

ROUTE = next(route for route in ROUTES if route.path == f"{API}/history")
CARDS = tuple(
    Gpu(index, "a card", f"GPU-{index}", 24 * GIB, 20 * GIB, utilisation=90.0 + index, temperature=60, power=300.0)
    for index in (1, 0)
)


@pytest.fixture
def client(cli: Cli) -> Iterator[httpx.Client]:
    with server_of(cli) as client:
        yield client


def answer(client: httpx.Client, **words: str) -> Any:
    got = client.get(f"{API}/history", params=words)
    assert got.status_code == 200, got.text
    check(ROUTE, got.json())
    return got.json()


def test_queues_and_gpus_have_a_value_for_each_step_and_null_where_nobody_wrote(cli: Cli, client: httpx.Client) -> None:
    heartbeat(cli.ledger, "lab", gpus=CARDS)
    cli.ledger.maintain(MaintenanceSettings(every_s=0))
    queues = answer(client)
    assert (queues["part"], queues["span"], queues["count"], queues["step_s"]) == ("queues", "15m", 180, 5)
    training = next(queue for queue in queues["queues"] if queue["name"] == "training")
    assert training["pending"].count(None) == 179
    assert [value for value in training["paused"] if value is not None] == [False]
    devices = answer(client, part="devices", span="1h")
    first, second = devices["devices"]
    assert (first["host"], first["index"], second["index"], devices["queues"]) == ("lab", 0, 1, None)
    assert len(first["power_w"]) == devices["count"] == 720
    assert [value for value in second["memory_used_bytes"] if value is not None] == [4 * GIB]
    written = next(step for step, value in enumerate(first["utilisation_percent"]) if value is not None)
    start, read_at = (datetime.fromisoformat(devices[name]).timestamp() for name in ("start", "read_at"))
    assert 0 <= read_at - (start + written * devices["step_s"]) < 60


def test_workers_write_the_history_by_themselves(world: Cli) -> None:
    with server_of(world) as client:
        until(lambda: any(map(is_known, answer(client)["queues"])), "a worker to write a row")


def is_known(queue: dict[str, Any]) -> bool:
    return any(value is not None for value in queue["pending"])


def test_the_newest_entries_are_the_end_of_the_whole(cli: Cli, client: httpx.Client) -> None:
    now = int(cli.ledger.now()) // 5 * 5
    key = f"mistudio:{history.key('queues', history.FINE)}"
    rows = [json.dumps([now - 5 * back, {"training": [back, 0, 0]}]) for back in range(30, -1, -1)]
    cli.ledger.client.call("RPUSH", key, *rows)
    end = answer(client, newest="12")
    (training,) = end["queues"]
    first = int(datetime.fromisoformat(end["start"]).timestamp())
    back = [(now - first) // 5 - step for step in range(12)]
    assert (end["count"], back[-1] <= 0) == (12, True)
    assert training["pending"] == [steps if steps >= 0 else None for steps in back], (
        "where time has passed nobody wrote"
    )
    assert client.get(f"{API}/history", params={"newest": "0"}).status_code == 400


def test_a_day_has_a_value_a_minute(cli: Cli, client: httpx.Client) -> None:
    minute = int(cli.ledger.now()) // 60 * 60 - 600
    key = f"mistudio:{history.key('queues', history.COARSE)}"
    cli.ledger.client.call("RPUSH", key, json.dumps([minute, {"training": [7, 2, 1]}]))
    found = answer(client, span="24h")
    (training,) = found["queues"]
    place = int(minute - datetime.fromisoformat(found["start"]).timestamp()) // 60
    assert (found["step_s"], found["count"], training["running"][place]) == (60, 1440, 2)
    assert (training["paused"][place], training["paused"].count(None)) == (True, 1439)


@pytest.mark.parametrize("words", [{"part": "jobs"}, {"span": "2h"}, {"span": ""}, {"odd": "1"}])
def test_other_words_are_refused(client: httpx.Client, words: dict[str, str]) -> None:
    assert client.get(f"{API}/history", params=words).status_code == 400


def test_a_history_that_cannot_be_read_is_an_error_and_no_empty_list(cli: Cli, client: httpx.Client) -> None:
    cli.ledger.client.call("SET", f"mistudio:{history.key('queues', history.FINE)}", "text")
    got = client.get(f"{API}/history")
    assert (got.status_code, got.headers["content-type"]) == (503, "application/problem+json")
