"""A worker without jobs costs its Redis little: few commands over few connections, and no wait for its jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import redis as redis_py
from redis.client import Monitor

from tasks.messaging.transport import BRIEF_WAIT_S, LONG_WAIT_S
from tests.conftest import until
from tests.fixtures.stack import Stack

#: Celery's to receive messages and to send, its heartbeats', and that of who looks at the store.
COMMANDS_PER_S, CONNECTIONS = 4, 4

#: Number of heartbeats for which commands are counted; one follows another after a second or later.
HEARTBEATS = 12


@pytest.fixture
def client(stack: Stack) -> Iterator[redis_py.Redis]:
    with closing(redis_py.Redis(unix_socket_path=str(stack.redis.socket), decode_responses=True)) as client:
        yield client


def connections(client: redis_py.Redis) -> int:
    """How many the worker has: all but the two of the test, its ledger's and this one."""
    return len(client.client_list()) - 2


def commands(monitor: Monitor, enough: Callable[[list[str]], object]) -> list[str]:
    """What clients send, scripts' own commands and the test's left out, until that is enough."""
    found: list[str] = []
    until(lambda: enough(found) or found.append(_next(monitor)), "\n".join(found))
    return [command for command in found if command]


def _next(monitor: Monitor) -> str:
    received = monitor.next_command()
    is_own = received["client_type"] == "lua" or received["command"].startswith(("CLIENT LIST", "HGETALL"))
    return "" if is_own else str(received["command"])


def test_it_sends_few_commands_over_few_connections(stack: Stack, client: redis_py.Redis) -> None:
    stack.start_worker(slots=8)
    until(lambda: connections(client) == CONNECTIONS, "what its start left is closed")
    with client.monitor() as monitor:
        found = commands(monitor, lambda found: sum(" heartbeat " in command for command in found) == HEARTBEATS)
    assert len(found) <= COMMANDS_PER_S * HEARTBEATS, "\n".join(found)
    until(lambda: connections(client) == CONNECTIONS, "it stays so")


def test_it_waits_briefly_only_while_a_queue_is_left_out(stack: Stack, client: redis_py.Redis) -> None:
    """That wait ends without a message when a job has ended, and the queue's next one must not wait for that."""
    stack.start_worker(slots=8)
    with client.monitor() as monitor:
        [*_, waits] = commands(monitor, lambda found: [word for word in found if word.startswith("BRPOP")])
        assert waits.split()[-1] == str(LONG_WAIT_S)
        nap = stack.submit("nap", ticks=100_000)
        stack.under_way(nap)
        [*_, waits] = commands(monitor, lambda found: [word for word in found if _leaves_out_training(word)])
        assert waits.split()[-1] == str(BRIEF_WAIT_S)


def _leaves_out_training(command: str) -> bool:
    return command.startswith("BRPOP") and "training" not in command
