"""What the tests of jobs share: the tests' own kinds beside the real ones, and a lab."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

import tasks.kinds
from tasks.jobs import kind as jobs
from tests.conftest import RedisServer
from tests.core.lab import EXTRA, Lab


@pytest.fixture
def kinds_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tasks.kinds, "__path__", [*tasks.kinds.__path__, str(EXTRA / "kinds")])
    jobs.kinds.cache_clear()
    yield
    jobs.kinds.cache_clear()


@pytest.fixture
def lab(own_redis: RedisServer, short_tmp: Path, kinds_of_the_tests: None) -> Iterator[Lab]:
    lab = Lab(own_redis, short_tmp)
    yield lab
    lab.ledger.client.close()
    lab.app.close()
    if lab.worker is not None and lab.worker.poll() is None:
        lab.stop_worker(signal.SIGQUIT)


@pytest.fixture
def stranger(lab: Lab) -> Iterator[Celery]:
    """A Celery app that knows mistudio's queues and nothing else."""
    with Celery("elsewhere", broker=lab.redis.url, backend=lab.redis.url, set_as_current=False) as app:
        yield app
