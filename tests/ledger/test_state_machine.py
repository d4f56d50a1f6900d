"""Every state that two jobs can reach is visited, with the real script in a real Redis.

None has two owners, none is a dead end, and what has ended stays so.

A state is what matters of it: two that look the same are visited once. From each, every step is tried; each state is
reached again by the shortest way to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.jobs.record import ENDED, Job, State
from tasks.ledger.client import Claim, Ledger
from tasks.ledger.maintenance import MaintenanceSettings
from tasks.queues import SEPARATOR, redis_lists, wire_priority

FIRST, SECOND = JOBS = ("first", "second")
NOW = MaintenanceSettings(every_s=0, message_patience_s=-1, served_within_s=1e9)

#: How many steps further than in every run; each makes it several times as long.
DEEPER = int(os.environ.get("MISTUDIO_TEST_DEEPER", "0"))

Step = tuple[str, str]


class World:
    """Two jobs in a ledger, those who hold them or held them, and all that can happen to them."""

    def __init__(self, ledger: Ledger, *, related: bool) -> None:
        self.ledger = ledger
        self.holders: dict[str, list[Claim]] = {job: [] for job in JOBS}
        ledger.client.call("FLUSHDB")
        parents = (FIRST,) if related else ()
        first = Job(FIRST, "train", "a", "training", {}, max_attempts=2, artifact="saes/a")
        ledger.submit_all([first, Job(SECOND, "train", "b", "training", {}, max_attempts=2, parents=parents)])

    def take(self, step: Step) -> None:
        """One step; what cannot be done now is refused, and changes nothing."""
        what, job = step
        try:
            getattr(self, what)(job)
        except UserError:
            return

    # -- what holders do; the last of them holds the job, if anybody does

    def claim(self, job: str) -> None:
        record = self.ledger.get(job)
        queue, priority = (record.queue, record.priority) if record else ("training", 5)
        raised = self.ledger.client.call("HGET", f"mistudio:job:{job}", "raised") == "1"
        step = 0 if raised else wire_priority(priority)
        claim = self.ledger.claim(job, "w@h", "h", 1, queue=queue, step=step)
        if claim is not None:
            assert not self.ledger.client.call("HEXISTS", "mistudio:paused", queue), "nothing of it may start"
            self.holders[job] = [*self.holders[job], claim][-2:]

    def succeed(self, job: str) -> None:
        self._by_holder(job, lambda claim: self.ledger.finish(claim, State.SUCCEEDED, "done"))

    def fail(self, job: str) -> None:
        self._by_holder(job, lambda claim: self.ledger.finish(claim, State.FAILED, "broke"))

    def lose(self, job: str) -> None:
        self._by_holder(job, lambda claim: self.ledger.put_back(claim, "its runner died", loss=True))

    def yield_(self, job: str) -> None:
        self._by_holder(job, lambda claim: self.ledger.put_back(claim, "shutdown", loss=False))

    def renew(self, job: str) -> None:
        self._by_holder(job, self.ledger.renew)

    def write_late(self, job: str) -> None:
        """One who held the job before writes all he can: nothing may change."""
        for claim in self.holders[job][:-1]:
            before = self.picture(), self.ledger.get(job)
            for write in (
                self.ledger.renew,
                lambda claim: self.ledger.finish(claim, State.SUCCEEDED, "late"),
                lambda claim: self.ledger.finish(claim, State.FAILED, "late"),
                lambda claim: self.ledger.put_back(claim, "late", loss=True),
                lambda claim: self.ledger.use_device(claim, "cpu"),
            ):
                write(claim)
            if self.ledger.need(job).state not in ENDED:  # the same end reported twice is no change
                assert (self.picture(), self.ledger.get(job)) == before

    def _by_holder(self, job: str, act: Callable[[Claim], object]) -> None:
        if self.holders[job]:
            act(self.holders[job][-1])

    # -- what happens to jobs, queues and messages

    def cancel(self, job: str) -> None:
        self.ledger.request_cancel(job)

    def forget(self, job: str) -> None:
        self.ledger.remove(job)

    def die(self, job: str) -> None:
        """Its holder stops renewing, and somebody looks."""
        if self.ledger.client.call("ZSCORE", "mistudio:leases", job) is not None:
            self.ledger.client.call("ZADD", "mistudio:leases", 1, job)
        self.ledger.client.call("SET", "mistudio:reaped_at", self.ledger.now())
        self.ledger.maintain(NOW)

    def jump(self, _: str) -> None:
        """The clock was set back: whoever holds a job gets time, nobody loses one."""
        held = {job for job in JOBS if (record := self.ledger.get(job)) and record.state is State.RUNNING}
        self.ledger.client.call("SET", "mistudio:reaped_at", self.ledger.now() + 3600)
        self.ledger.client.call("SET", "mistudio:upkeep_at", self.ledger.now() + 3600)
        for job in held:
            self.ledger.client.call("ZADD", "mistudio:leases", 1, job)
        self.ledger.maintain(NOW)
        assert all(self.ledger.need(job).state is State.RUNNING for job in held)

    def lose_messages(self, _: str) -> None:
        for queue in ("training", "extraction"):
            self.ledger.client.call(
                "DEL", *redis_lists(queue), *(f"mistudio:held:{name}" for name in redis_lists(queue))
            )

    def maintain(self, _: str) -> None:
        self.ledger.maintain(NOW)

    def pause(self, _: str) -> None:
        self.ledger.queues.pause("training")

    def resume(self, _: str) -> None:
        self.ledger.queues.resume("training")

    def raise_(self, job: str) -> None:
        self.ledger.queues.set_priority(job, 9)

    def lower(self, job: str) -> None:
        self.ledger.queues.set_priority(job, 5)

    def top(self, job: str) -> None:
        self.ledger.queues.move(job, top=True)

    def move(self, job: str) -> None:
        self.ledger.queues.move(job, "extraction")

    def purge(self, _: str) -> None:
        self.ledger.queues.purge("training")

    # -- what there is

    def picture(self) -> tuple[Any, ...]:
        """What matters of the present state."""
        result: list[Any] = []
        for job in JOBS:
            fields = ("state", "losses", "cancel_requested", "priority", "queue", "raised")
            result.append(tuple(self.ledger.client.call("HMGET", f"mistudio:job:{job}", *fields)))
            record = self.ledger.get(job)
            result.append(bool(self.holders[job]) and bool(record) and self._holds(job))
            result.append(len(self.holders[job]))
        result.append(tuple(self.ledger.client.call("HKEYS", "mistudio:paused")))
        result.append(tuple(tuple(self.ledger.queues.order(queue, 9)) for queue in ("training", "extraction")))
        result.append(tuple(sorted(set(self.messages()))))
        return tuple(result)

    def _holds(self, job: str) -> bool:
        token = self.ledger.client.call("HGET", f"mistudio:job:{job}", "token")
        return self.holders[job][-1].token == token

    def messages(self, *, held: bool = True) -> Iterator[tuple[str, str]]:
        """Which job's messages are in which lists."""
        for queue in ("training", "extraction"):
            for name in (*redis_lists(queue), *(f"mistudio:held:{name}" for name in redis_lists(queue) if held)):
                for message in self.ledger.client.call("LRANGE", name, 0, -1):
                    yield name, json.loads(message)["headers"]["id"]

    def _taken_messages(self) -> Iterator[tuple[str, str]]:
        """As a worker takes them: the list, and the job."""
        for queue in ("training", "extraction"):
            for name in redis_lists(queue):
                while message := self.ledger.client.call("RPOP", name):
                    yield name, json.loads(message)["headers"]["id"]

    def check(self) -> None:
        """What must be true of every state."""
        call, leases = self.ledger.client.call, set(self.ledger.client.call("ZRANGE", "mistudio:leases", 0, -1))
        for job in JOBS:
            record = self.ledger.get(job)
            state = record.state if record else None
            indexed = {result for result in State if call("ZSCORE", f"mistudio:by:state:{result}", job) is not None}
            assert indexed == ({state} if state else set())
            for queue in ("training", "extraction"):
                for result in (State.WAITING, State.QUEUED, State.RUNNING):
                    is_there = call("ZSCORE", f"mistudio:queue:{queue}:{result}", job) is not None
                    assert is_there == (record is not None and result is state and queue == record.queue)
                is_ordered = self.ledger.queues.place(queue, job) is not None
                assert is_ordered == (record is not None and state is State.QUEUED and queue == record.queue)
            assert (job in leases) == (state is State.RUNNING)
            if record is None:
                continue
            path = [event["state"] for event in self.ledger.events(job)]
            assert path[-1] == state
            assert not any(before in ENDED for before in path[:-1]), path
            if state is State.WAITING:
                parent = self.ledger.get(FIRST)
                assert parent is not None
                assert parent.state not in ENDED, "nobody would ever start it"
            if record.artifact:
                assert (self.ledger.producer_of(record.artifact) == job) == (state not in ENDED)
        if call("HEXISTS", "mistudio:paused", "training"):
            read = redis_lists("training")
            assert not [name for name, _ in self.messages(held=False) if name in read]

    def drive_to_the_end(self) -> None:
        """Nobody does anything wrong any more: then every job ends, started by messages alone."""
        self.ledger.queues.resume("training")
        for _ in range(6):
            for job in JOBS:
                self.die(job)
            for name, job in self._taken_messages():
                queue, _, step = name.partition(SEPARATOR)
                claim = self.ledger.claim(job, "w@h", "h", 1, queue=queue, step=int(step or 0))
                if claim is not None:
                    self.ledger.finish(claim, State.SUCCEEDED, "done")
        records = [self.ledger.get(job) for job in JOBS]
        assert all(record is None or record.state in ENDED for record in records), records


LIFE = ("claim", "succeed", "fail", "lose", "yield_", "renew", "write_late", "cancel", "forget", "die", "jump")
PLACE = ("claim", "succeed", "yield_", "cancel", "raise_", "lower", "top", "move")
OF_ALL = ("lose_messages", "maintain", "pause", "resume", "purge")


def steps(of_each: tuple[str, ...], of_all: tuple[str, ...] = ()) -> list[Step]:
    return [*((what, job) for what in of_each for job in JOBS), *((what, "") for what in of_all)]


def explore(ledger: Ledger, alphabet: list[Step], *, related: bool, depth: int) -> int:
    """Visit every state that `depth` steps reach; the number of different ones."""

    def reached_by(way: tuple[Step, ...]) -> World:
        world = World(ledger, related=related)
        for step in way:
            world.take(step)
        return world

    seen, found = {World(ledger, related=related).picture()}, [()]
    for _ in range(depth):
        ways, found = found, []
        for way in ways:
            for step in alphabet:
                world = reached_by((*way, step))
                picture = world.picture()
                if picture in seen:
                    continue
                seen.add(picture)
                found.append((*way, step))
                try:
                    world.check()
                    world.drive_to_the_end()
                    world.check()
                except AssertionError as error:
                    pytest.fail(f"after {(*way, step)}: {error}")
    return len(seen)


def test_no_way_of_a_parent_and_its_child_leads_to_two_owners_or_a_dead_end(ledger: Ledger) -> None:
    assert explore(ledger, steps(LIFE), related=True, depth=6 + 2 * DEEPER) > 100


def test_no_way_of_two_jobs_through_their_queues_loses_one_or_starts_one_of_a_paused_queue(ledger: Ledger) -> None:
    assert explore(ledger, steps(PLACE, OF_ALL), related=False, depth=3 + DEEPER) > 100
