"""Commands that run inside the test's own process, against a Redis that is empty before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mistudio_cli.app import run_command
from tasks.ledger.client import Ledger
from tasks.redis_client import redis_connection
from tests.conftest import RedisServer


@pytest.fixture
def home(
    session_redis: RedisServer, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ledger]:
    """This process's home is an empty one; its ledger."""
    monkeypatch.setenv("MISTUDIO_HOME", str(tmp_path))
    monkeypatch.setenv("CELERY_BROKER_URL", session_redis.url)
    monkeypatch.setenv("MISTUDIO_READ_PATIENCE_S", "60")  # a busy test machine is slow, and does not hang
    monkeypatch.setenv("MISTUDIO_OWNER", "")  # so that what a flag sets is gone afterwards
    with clients_closed(monkeypatch):
        yield ledger


@contextmanager
def clients_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close what commands open: a process of their own would do so when it ends."""
    opened: list[redis_connection.Client] = []
    create = redis_connection.Client.__init__

    def create_and_note(client: redis_connection.Client, *words: Any, **named: Any) -> None:
        create(client, *words, **named)
        opened.append(client)

    monkeypatch.setattr(redis_connection.Client, "__init__", create_and_note)
    yield
    for client in opened:
        client.close()


def run(*words: str) -> int:
    """Run a command as a process of its own would, which does not inherit the flags of the one before."""
    os.environ["MISTUDIO_OWNER"] = ""
    return run_command(list(words))
