"""The four commands of the README, typed as they stand there."""

from __future__ import annotations

import pytest

from tasks.queues import QUEUES
from tests.e2e.conftest import Home
from tests.fixtures.queue_table import workers_by_name

pytestmark = pytest.mark.timeout(1800)


def test_the_four_commands_people_type_all_day(lit_home: tuple[Home, object]) -> None:
    home, _ = lit_home
    home.type("workers start full")
    try:
        train = "submit train --model toy --dataset python-stdlib --layer 1 --arch topk --k 32"
        result = home.read(f"{train} --steps 20 --eval-tokens 4096 --name typed")
        assert (result["kind"], result["queue"], result["name"]) == ("train", "training", "typed")
        queues = {queue["name"]: queue for queue in home.read("queue ls")["queues"]}
        assert [queue["consumers"] for queue in queues.values()] == [1] * len(QUEUES)
        assert [queue["slots"] for queue in queues.values()] == [queue.concurrency for queue in QUEUES]
        home.type(f"jobs wait {result['id']}")
        everything = home.read("top --once")
        names = {worker["name"].partition("@")[0] for worker in everything["workers"]}
        assert names == set(workers_by_name())
        assert result["id"] in [job["id"] for job in everything["jobs"]]
        home.type("submit train --model toy --dataset python-stdlib --layer 4 --arch topk --k 32", code=2)
    finally:
        home.type("workers stop --all")
    assert home.processes() == []
