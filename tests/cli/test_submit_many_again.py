"""`submit many` when Redis fails midway: the count is exact, and the same command again submits no line twice."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from mistudio_cli.errors import Code
from mistudio_cli.submission.bulk import plan_lines, submit_lines
from tasks.jobs.job_id import later_id, new_job_id
from tasks.redis_client.redis_connection import Client, Command, Unreachable, connect
from tasks.storage.store import Store
from tasks.submission.fixed_ids import first_id
from tasks.submission.plan import ArtifactCatalog, SubmitOptions
from tests.cli.conftest import Cli, Ended
from tests.conftest import RedisServer

COUNT = 1600


@pytest.fixture
def full(cli: Cli, own_redis: RedisServer) -> Iterator[Cli]:
    """A Redis with room for some of the jobs."""
    client = connect(own_redis.url)
    here = dataclasses.replace(cli, broker_url=own_redis.url, ledger=type(cli.ledger)(client))
    used = re.search(r"used_memory:(\d+)", client.call("INFO", "memory"))
    assert used is not None
    client.call("CONFIG", "SET", "maxmemory", int(used[1]) + 1_500_000)
    yield here
    client.close()


def many(cli: Cli, *words: str) -> Ended:
    path = cli.home / "jobs.jsonl"
    path.write_text("\n".join(json.dumps({"kind": "blink", "note": str(n)}) for n in range(COUNT)))
    return cli("submit", "many", str(path), *words)


def records(cli: Cli) -> int:
    return cli.ledger.client.call("ZCARD", "mistudio:by:all")


def test_the_count_is_exact_and_a_repeat_submits_the_rest_once(full: Cli) -> None:
    first = many(full)
    accepted = records(full)
    assert first.code == Code.UNREACHABLE
    assert 0 < accepted < COUNT
    assert len(first.out.splitlines()) == accepted
    count, failure, *_ = first.err.splitlines()
    assert count == f"{accepted} of {COUNT} lines were submitted. The same command submits the rest, and no line twice."
    assert failure.startswith("Redis cannot serve this now: ")
    full.ledger.client.call("CONFIG", "SET", "maxmemory", 0)
    second = many(full)
    assert (second.code, records(full)) == (Code.OK, COUNT)
    assert set(first.out.splitlines()) <= set(second.out.splitlines()), "the same lines are the same jobs"
    assert [full.ledger.need(line.split()[0]).params["note"] for line in second.out.splitlines()[-3:]] == [
        str(n) for n in range(COUNT - 3, COUNT)
    ]
    third = many(full)
    assert (third.code, third.out, records(full)) == (Code.OK, second.out, COUNT)
    assert f"{COUNT} of them had been before; --again submits them once more." in third.err
    planned = many(full, "--dry-run", "--json")
    assert (planned.code, planned.json["jobs"] if isinstance(planned.json, dict) else planned.json) == (Code.OK, [])
    assert f"{COUNT} of them had been before" in planned.err
    assert many(full, "--again").code == Code.OK
    assert records(full) == 2 * COUNT


def test_other_lines_or_other_options_are_another_list(cli: Cli) -> None:
    ledger = cli.ledger
    same = first_id(ledger, ["a"], SubmitOptions(5))
    assert first_id(ledger, ["a"], SubmitOptions(5)) == same
    assert len({same, first_id(ledger, ["b"], SubmitOptions(5)), first_id(ledger, ["a"], SubmitOptions(6))}) == 3
    assert first_id(ledger, ["a"], SubmitOptions(5), again=True) != same


def test_ids_that_are_known_before_sort_as_their_lines_and_are_like_all_others() -> None:
    ids = [later_id(new_job_id(), 0), *(later_id("1m8jmtgdd2jvma", n) for n in range(1000))]
    assert ids[1:] == sorted(set(ids[1:]))
    assert {len(job_id) for job_id in ids} == {14}
    assert ids[1] == "1m8jmtgdd2jvma"


@pytest.mark.parametrize("is_done", [True, False])
def test_where_the_answer_is_lost_the_ledger_is_asked(cli: Cli, monkeypatch: pytest.MonkeyPatch, is_done: bool) -> None:
    known = ArtifactCatalog(cli.ledger, Store(cli.home / "store"))
    result = [json.dumps({"kind": "cleanup"})] * 5
    lines, faults = plan_lines(known, result, "f", SubmitOptions(), first_id(cli.ledger, result, SubmitOptions()))
    assert faults == []
    real, lost = Client.try_all, []

    def losing(self: Client, commands: Iterable[Command]) -> list[Any]:
        commands = list(commands)
        if not lost and commands[0][0] == "EVALSHA":
            lost.append(real(self, commands) if is_done else None)
            raise Unreachable("the answer was lost")
        return real(self, commands)

    cli.ledger.try_write()  # so that the script is loaded
    monkeypatch.setattr(Client, "try_all", losing)
    (batch,) = submit_lines(known, lines)
    assert [outcome is None for _, outcome in batch] == [is_done] * 5
    assert records(cli) == (5 if is_done else 0)
