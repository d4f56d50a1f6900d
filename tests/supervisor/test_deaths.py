"""Workers that die at any age: each is tried again, after a pause that says how often it has died young."""

from __future__ import annotations

import os
import signal

import pytest

from mistudio_cli.supervisor.states import SOUND_AGE_S, YOUNG_DEATHS
from tests.supervisor.manual_supervisor import World

NAME = "worker-training"


def dies(world: World, becomes: str = "backoff") -> None:
    pid = world.supervisor.worker_set.children[NAME].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    world.ticks_until(NAME, becomes)


@pytest.mark.parametrize(
    ("age_s", "pauses_s"),
    [(1, (0.5, 1, 2, 4, 8, 16, 30, 30)), (20, (0.5, 1, 2, 4, 8, 16, 30, 30)), (61, (0.5,) * 8)],
    ids=["after 1 s", "after 20 s", "after a long life"],
)
def test_one_that_answered_and_dies_is_tried_again(
    world: World,
    age_s: float,
    pauses_s: tuple[float, ...],
) -> None:
    world.up()
    for pause_s in pauses_s:
        world.now += age_s
        dies(world)
        world.now += pause_s - 0.01
        world.supervisor.tick()
        assert world.states()[NAME] == "backoff"
        world.now += 0.01
        world.ticks_until(NAME, "starting")
        world.answer(NAME)
        world.ticks_until(NAME, "running")
    assert world.supervisor.status()["workers"][0]["last_exit"] == "killed by SIGKILL"


def test_a_crash_loop_ends_and_a_minute_of_life_is_none(world: World) -> None:
    world.up()
    for _ in range(YOUNG_DEATHS + 1):
        world.now += SOUND_AGE_S + 1
        revives(world)
    for _ in range(YOUNG_DEATHS - 2):
        revives(world)
    dies(world, "fatal")
    assert world.supervisor.status()["workers"][0]["last_exit"] == "killed by SIGKILL"


def revives(world: World) -> None:
    dies(world)
    world.now += 30
    world.ticks_until(NAME, "starting")
    world.answer(NAME)
    world.ticks_until(NAME, "running")
