"""The table of queues is the one the project was asked for, and everything derived from it agrees."""

from __future__ import annotations

import pytest

from tasks.jobs.kind import kinds
from tasks.messaging.app import NO_QUEUE, make_app
from tasks.queues import QUEUE_NAMES, QUEUES, Resource, queue_named, redis_lists, wire_priority
from tests.fixtures.queue_table import ASKED_FOR


def test_the_queues_asked_for_have_their_rank_and_width() -> None:
    rows = {q.name: (q.concurrency, q.priority, q.needs.cpus, q.needs.memory_gb, q.needs.gpus) for q in QUEUES}
    assert [(name, row) for name, row in rows.items() if name in ASKED_FOR] == list(ASKED_FOR.items())


def test_a_queue_of_its_own_gives_a_worker_its_name_with_hyphens() -> None:
    assert queue_named("high_priority").worker == "worker-high-priority"


def test_ten_is_the_most_urgent_and_redis_serves_step_zero_first() -> None:
    steps = [wire_priority(priority) for priority in range(11)]
    assert steps == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0]


@pytest.mark.parametrize("priority", [-1, 11])
def test_a_priority_beyond_the_scale_is_an_error(priority: int) -> None:
    with pytest.raises(ValueError, match="not between 0 and 10"):
        wire_priority(priority)


def test_every_queue_asked_for_has_a_kind_and_every_kind_is_routed_to_its_queue_by_the_real_router() -> None:
    app = make_app("redis://nowhere:6379/0")
    resolved = {}
    for kind in kinds().values():
        route = app.amqp.router.route({}, kind.wire_name)
        resolved[kind.name] = route["queue"].name
        assert route["queue"].routing_key == kind.queue
    assert resolved == {kind.name: kind.queue for kind in kinds().values()}
    assert set(ASKED_FOR) <= set(resolved.values()) <= set(QUEUE_NAMES)


def test_a_task_of_another_name_has_no_queue_to_fall_into() -> None:
    app = make_app("redis://nowhere:6379/0")
    with pytest.raises(Exception, match=NO_QUEUE):
        app.amqp.router.route({}, "train_sae_task")["queue"]


def test_names_on_the_wire_are_never_module_paths() -> None:
    assert all(kind.wire_name == f"mistudio.{kind.name}" for kind in kinds().values())


def test_the_lists_of_a_queue_are_those_kombu_uses() -> None:
    from kombu.transport.redis import Channel

    names = [Channel._q_for_pri(_Sized(), "training", step) for step in range(10)]
    assert list(redis_lists("training")) == names


class _Sized:
    sep = "\x06\x16"
    priority_steps = tuple(range(10))

    def priority(self, step: int) -> int:
        return step


def test_light_network_and_cpu_kinds_have_the_time_limits_asked_for_and_gpu_kinds_none() -> None:
    for queue in QUEUES:
        limits = (queue.limits.soft_s, queue.limits.hard_s)
        assert limits == ((None, None) if queue.resource is Resource.GPU else (3600, 7200))
