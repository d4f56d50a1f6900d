"""Workers that die at any age: each is tried again, after a pause that says how often it has died young."""

from __future__ import annotations

import os
import signal

import pytest

from mistudio_cli.supervisor.states import SOUND_AGE_S, YOUNG_DEATHS
from tests.conftest import until
from tests.supervisor.manual_supervisor import PAIR, World

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


def test_a_worker_is_replaced_by_one_with_the_environment_of_the_last_who_asked(world: World) -> None:
    """Somebody sets a variable that was forgotten, and restarts while the first restart is under way."""
    world.up(PAIR[0])
    name, started = PAIR[0].name, world.environments
    for word in ("old", "new"):
        for _ in range(2):  # who asks again before the supervisor looks takes nothing back
            world.ask("restart", names=[name], environment={"WORD": word})
        until(lambda word=word: world.supervisor.tick() or started[-1].get("WORD") == word)
    before = len(started)
    world.ask("restart", names=[name], environment={"WORD": "new"})
    for _ in range(5):
        world.supervisor.tick()
    assert len(started) == before, "who asks for the same again waits for what is under way"
