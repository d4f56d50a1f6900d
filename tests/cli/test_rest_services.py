"""One reader of the ledger serves all requests: each gets what was read after it asked; a hung one holds none up."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from mistudio_cli import session
from mistudio_cli.fleet import supervisor_client
from mistudio_cli.machine.background_reading import BackgroundReading
from mistudio_cli.rest import services as all_services
from mistudio_cli.rest.problem import Problem, problem_of
from mistudio_cli.rest.services import Services, SingleFlight
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.paths import Places
from tasks.redis_client.redis_connection import Client, Silent, Unreachable, connect
from tests.conftest import RedisServer, until

#: Longer than a test machine takes, so that nothing but what hangs is given up.
LONG_S = 30.0


@pytest.fixture
def client(own_redis: RedisServer) -> Iterator[Client]:
    with closing(connect(own_redis.url, LONG_S)) as client:
        yield client


@pytest.fixture
def hasty(own_redis: RedisServer) -> Iterator[Client]:
    """One that gives a Redis up which hangs."""
    with closing(connect(own_redis.url, 1.0)) as client:
        yield client


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Closes the services of a test at its end."""
    with ExitStack() as stack:
        yield stack


def services(opened: ExitStack, client: Client, folder: Path, patience_s: float = 1.0) -> Services:
    made = Services(lambda: Ledger(client), Places(folder, folder), patience_s)
    opened.callback(made.close)
    return made


def test_what_is_answered_was_read_after_it_was_asked(
    opened: ExitStack, client: Client, own_redis: RedisServer, tmp_path: Path
) -> None:
    reader, writer = services(opened, client, tmp_path, LONG_S), Ledger(connect(own_redis.url))

    async def ask() -> None:
        for number in range(1, 30):
            writer.submit(Job(new_job_id(), "train", "a", "training", {}))
            assert (await reader.overview()).counts["training"].pending == number

    asyncio.run(ask())
    writer.close()


@pytest.mark.parametrize(("fresh_s", "calls"), [(0.0, [1, 2, 3]), (3600.0, [1, 1, 1])])
def test_a_value_answers_whoever_asks_within_the_time_it_is_fresh(fresh_s: float, calls: list[int]) -> None:
    numbers = itertools.count(1)

    async def ask() -> list[int]:
        flight = SingleFlight(lambda: next(numbers), fresh_s)
        return [await flight.value() for _ in calls]

    assert asyncio.run(ask()) == calls


def test_what_failed_answers_nobody_else() -> None:
    outcomes = iter([Unreachable("gone"), "there"])

    def read() -> str:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def ask() -> str:
        flight = SingleFlight(read, 3600.0)
        with pytest.raises(Unreachable):
            await flight.value()
        return await flight.value()

    assert asyncio.run(ask()) == "there"


def test_a_hundred_who_ask_a_redis_that_hangs_wait_no_longer_than_one(
    opened: ExitStack, hasty: Client, own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share what one of them has begun, or the next one, and each of these takes no longer than the patience."""
    reader, begun, read = services(opened, hasty, tmp_path), list[None](), all_services.read_ledger
    monkeypatch.setattr(all_services, "read_ledger", lambda *words: begun.append(None) or read(*words))
    assert own_redis.process is not None

    async def ask() -> None:
        with pytest.raises(Silent, match="does not answer"):
            await reader.overview()

    async def answers() -> bool:
        try:
            return bool(await reader.overview())
        except Unreachable:
            return False

    async def until_it_answers() -> None:
        async with asyncio.timeout(LONG_S):
            while not await answers():
                await asyncio.sleep(0.02)

    async def ask_all() -> int:
        await until_it_answers()
        own_redis.process.send_signal(signal.SIGSTOP)
        begun.clear()
        async with asyncio.timeout(LONG_S):
            await asyncio.gather(*(ask() for _ in range(100)))
        count = len(begun)
        own_redis.process.send_signal(signal.SIGCONT)
        await until_it_answers()
        return count

    try:
        assert 1 <= asyncio.run(ask_all()) <= 2
    finally:
        own_redis.process.send_signal(signal.SIGCONT)


def test_a_new_snapshot_says_what_cannot_be_read_now(
    opened: ExitStack, hasty: Client, own_redis: RedisServer, tmp_path: Path
) -> None:
    reader = services(opened, hasty, tmp_path)
    assert own_redis.process is not None

    async def errors() -> set[str]:
        return {trouble.part for trouble in (await reader.new_snapshot()).errors}

    until(lambda: "ledger" not in asyncio.run(errors()), "Redis to answer within its second")
    own_redis.process.send_signal(signal.SIGSTOP)
    try:
        assert "ledger" in asyncio.run(errors())
    finally:
        own_redis.process.send_signal(signal.SIGCONT)


def test_health_is_of_the_ledger_as_it_is_and_waits_for_no_other_part(
    opened: ExitStack, client: Client, own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor answers when the test is over. No report is fresh enough for who asks next."""
    over = threading.Event()
    monkeypatch.setattr("mistudio_cli.rest.services._HEALTH_FRESH_S", 0.0)
    monkeypatch.setattr(supervisor_client, "status", lambda places: over.wait() and None)
    reader, writer = services(opened, client, tmp_path, LONG_S), Ledger(connect(own_redis.url))

    async def ask() -> None:
        for number in range(1, 4):
            writer.submit(Job(new_job_id(), "train", "a", "training", {}))
            async with asyncio.timeout(LONG_S):
                report = json.loads(await reader.health())
            assert (report["total_queued"], report["status"]) == (number, "critical")

    asyncio.run(ask())
    over.set()
    writer.close()


def test_health_of_a_machine_is_read_once_a_second_however_often_it_is_asked(
    opened: ExitStack, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock by which a second is measured stands still."""
    asked = list[Path]()
    monkeypatch.setattr(supervisor_client, "status", lambda places: asked.append(places.home))
    monkeypatch.setattr(BackgroundReading.__init__, "__defaults__", (lambda: 1000.0,))
    reader = services(opened, client, tmp_path, LONG_S)

    async def ask() -> None:
        for _ in range(20):
            await reader.health()

    asyncio.run(ask())
    assert asked == [tmp_path]


def test_a_redis_of_the_home_is_named_by_its_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    monkeypatch.setenv("MISTUDIO_HOME", str(tmp_path))
    assert session.current_address().shown == str(tmp_path / "run" / "redis.sock")


@pytest.mark.parametrize("sort", ["read_log", "change"])
def test_what_hangs_keeps_only_its_own_sort_waiting_and_accuses_no_redis(
    monkeypatch: pytest.MonkeyPatch, opened: ExitStack, client: Client, tmp_path: Path, sort: str
) -> None:
    monkeypatch.setattr("mistudio_cli.rest.services._TURN_S", 0.05)
    reader, is_over = services(opened, client, tmp_path, LONG_S), threading.Event()

    async def ask() -> None:
        run = getattr(reader, sort)
        begun: list[None] = []
        hung = [asyncio.create_task(run(lambda _: begun.append(None) or is_over.wait(LONG_S))) for _ in range(8)]
        while len(begun) < len(hung):
            await asyncio.sleep(0.01)
        with pytest.raises(Problem, match="The server is busy: 8 "):
            await run(lambda _: None)
        assert await reader.read(lambda ledger: ledger.now()) > 0
        monkeypatch.setattr("mistudio_cli.rest.services._LONG_S", 0.05)
        is_over.set()
        assert await asyncio.gather(*hung) == [True] * 8
        with pytest.raises(Problem) as late:
            await run(lambda _: time.sleep(0.5))
        assert (late.value.status, "Redis" in late.value.detail) == (503, False)
        monkeypatch.setattr("mistudio_cli.rest.services._LONG_S", LONG_S)
        assert await run(lambda ledger: ledger.now()) > 0, "other threads are free"

    asyncio.run(ask())


def test_a_disk_that_hangs_is_said_and_no_internal_error(opened: ExitStack, client: Client, tmp_path: Path) -> None:
    reader, is_over = services(opened, client, tmp_path, 0.05), threading.Event()

    async def ask() -> Problem:
        try:
            await reader.read_disk(lambda: is_over.wait(LONG_S))
        except TimeoutError as error:
            is_over.set()
            return problem_of(error)
        raise AssertionError("it hangs")

    problem = asyncio.run(ask())
    assert (problem.status, problem.detail) == (503, "The disk does not answer.")


def test_a_log_that_takes_longer_than_the_patience_is_no_silent_redis(
    opened: ExitStack, client: Client, tmp_path: Path
) -> None:
    reader, is_read = services(opened, client, tmp_path, 0.05), threading.Event()

    async def ask() -> bool:
        log = asyncio.create_task(reader.read_log(lambda _: is_read.wait(LONG_S)))
        with pytest.raises(Silent):
            await reader.read(lambda _: is_read.wait(LONG_S))
        assert not log.done()
        is_read.set()
        return await log

    assert asyncio.run(ask())
