"""The order in which a worker of all queues runs jobs: priority, then the queue's rank, then age. Exactly."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job
from tasks.queues import QUEUE_NAMES, wire_priority
from tests.conftest import until
from tests.fixtures.stack import Stack


def submit(stack: Stack, queue: str, priority: int, stare_s: float = 0.0) -> Job:
    params = {"note": "", "stare_s": stare_s}
    return stack.ledger.submit(Job(new_job_id(), "blink", "b", queue, params, priority=priority))


def ran(stack: Stack, jobs: Sequence[Job]) -> list[str]:
    """Ids in the order in which they were started, once all have ended."""
    until(lambda: not stack.ledger.live_jobs(), stack.log())
    ended = [stack.ledger.need(job.id) for job in jobs]
    assert {job.attempt for job in ended} == {1}
    return [job.id for job in sorted(ended, key=lambda job: job.started_at or 0)]


def test_sixty_jobs_of_all_queues_and_priorities_run_in_the_order_that_is_promised(stack: Stack) -> None:
    chance = random.Random(60)
    jobs = [submit(stack, chance.choice(QUEUE_NAMES), chance.randint(0, 10)) for _ in range(60)]
    stack.start_worker(slots=1)
    promised = sorted(
        jobs, key=lambda job: (wire_priority(job.priority), QUEUE_NAMES.index(job.queue), jobs.index(job))
    )
    assert ran(stack, jobs) == [job.id for job in promised]


def test_jobs_that_were_moved_raised_and_lowered_run_in_their_new_places(stack: Stack) -> None:
    jobs = [submit(stack, "processing", 5) for _ in range(8)]
    stack.ledger.queues.set_priority(jobs[6].id, 9)
    stack.ledger.queues.set_priority(jobs[0].id, 1)
    stack.ledger.queues.move(jobs[5].id, "high_priority")
    stack.ledger.queues.move(jobs[2].id, "low_priority")
    stack.ledger.queues.move(jobs[7].id, top=True)
    stack.start_worker(slots=1)
    assert ran(stack, jobs) == [jobs[place].id for place in (7, 6, 5, 1, 3, 4, 2, 0)]


def test_under_a_steady_stream_of_urgent_jobs_the_others_are_served_too(stack: Stack) -> None:
    humble = [submit(stack, "low_priority", 0) for _ in range(2)]
    urgent: list[Job] = []

    def are_served() -> bool:
        """Whether the humble are; there is always urgent work for a minute, so that none of them comes by itself."""
        missing = 200 - stack.ledger.queues.counts()["high_priority"].pending
        urgent.extend(submit(stack, "high_priority", 8, stare_s=0.3) for _ in range(missing))
        return stack.ledger.need(humble[1].id).state.ended

    assert not are_served()
    stack.start_worker(slots=1, MISTUDIO_SERVED_WITHIN_S="1")
    until(are_served, "they starve")
    reasons = [event["reason"] for event in stack.ledger.events(humble[0].id)]
    assert reasons == ["submitted", "its queue was not served for 1 s: it is next", "claimed", "done"]
    assert any(not stack.ledger.need(job.id).state.ended for job in urgent), "there was always an urgent one waiting"
