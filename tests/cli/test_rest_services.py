"""One reader of the ledger serves all requests: each gets what was read after it asked; a hung one holds none up."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistudio_cli.rest.services import Services
from tasks.jobs.job_id import new_job_id
from tasks.jobs.kind import Job
from tasks.ledger.client import Ledger
from tasks.paths import Places
from tasks.redis_client.redis_connection import Client, Silent, Unreachable, connect
from tests.conftest import RedisServer

#: Longer than a test machine takes, so that nothing but what hangs is given up.
LONG_S = 30.0


@pytest.fixture
def client(own_redis: RedisServer) -> Iterator[Client]:
    client = connect(own_redis.url, 1.0)
    yield client
    client.close()


def services(client: Client, folder: Path, patience_s: float = 1.0) -> Services:
    return Services(lambda: Ledger(client), Places(folder, folder), patience_s)


def test_what_is_answered_was_read_after_it_was_asked(client: Client, own_redis: RedisServer, tmp_path: Path) -> None:
    reader, writer = services(client, tmp_path, LONG_S), Ledger(connect(own_redis.url))

    async def ask() -> None:
        for number in range(1, 30):
            writer.submit(Job(new_job_id(), "train", "a", "training", {}))
            assert (await reader.overview()).counts["training"].pending == number

    asyncio.run(ask())
    writer.close()


def test_a_hundred_who_ask_a_redis_that_hangs_wait_no_longer_than_one(
    client: Client, own_redis: RedisServer, tmp_path: Path
) -> None:
    reader = services(client, tmp_path)
    assert own_redis.process is not None

    async def ask() -> float:
        began = time.monotonic()
        with pytest.raises(Silent, match="does not answer"):
            await reader.overview()
        return time.monotonic() - began

    async def answers() -> bool:
        try:
            return bool(await reader.overview())
        except Unreachable:
            return False

    async def ask_all() -> list[float]:
        await reader.overview()
        own_redis.process.send_signal(signal.SIGSTOP)
        waited = sorted(await asyncio.gather(*(ask() for _ in range(100))))
        own_redis.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(LONG_S):
            while not await answers():
                await asyncio.sleep(0.02)
        return waited

    try:
        waited = asyncio.run(ask_all())
    finally:
        own_redis.process.send_signal(signal.SIGCONT)
    assert waited[-1] < 5
    assert waited[50] < 2
