"""`mistudio jobs retry`: it says whether it resumes from what the job had done, and does as it said."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistudio_cli.errors import Code
from tasks.storage.store import Store
from tests.cli.conftest import Cli
from tests.conftest import until
from tests.fixtures.work_folders import left_by

#: More than a test has time for.
TICKS = 100_000


def work_folder(world: Cli, job_id: str) -> Path:
    return world.home / "store" / ".tmp" / job_id


@pytest.fixture
def cancelled(world: Cli, request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, int]:
    """A hike that was cancelled under way, and the tick it had reached. It would take until there is a file `end`."""
    words = ("--until", str(tmp_path / "end"), "--marks", str(tmp_path / "marks"), "--ticks", str(TICKS))
    result = world("submit", "hike", "--name", request.node.name, *words, "--json")
    job_id = result.json["id"]
    until(lambda: world.ledger.need(job_id).progress, what="the hike to begin")
    assert world("jobs", "cancel", job_id).code == Code.OK
    until(lambda: not list(work_folder(world, job_id).glob("*/output")))
    return job_id, int((left_by(Store(world.home / "store"), job_id) / "ticks").read_text())


def ticks_of_each_attempt(marks: Path) -> list[list[int]]:
    """Which ticks each attempt at a hike has begun."""
    attempts: dict[str, list[int]] = {}
    for line in marks.read_text().splitlines():
        _, token, tick = line.split()
        attempts.setdefault(token, []).append(int(tick))
    return list(attempts.values())


def test_it_continues_and_says_from_where(world: Cli, cancelled: tuple[str, int], tmp_path: Path) -> None:
    job_id, ticks = cancelled
    result = world("jobs", "retry", job_id)
    again, _, how = result.out.partition(" ")
    assert how.endswith(
        f"in training, another try of {job_id}; continues from tick {ticks} (--from-scratch ignores it)\n"
    )
    until(lambda: len(ticks_of_each_attempt(tmp_path / "marks")) > 1, what="the other try to begin")
    (tmp_path / "end").touch()
    assert world("jobs", "wait", again).code == Code.OK
    _, others = ticks_of_each_attempt(tmp_path / "marks")
    assert others == list(range(ticks, ticks + len(others)))
    assert world.ledger.need(again).result == {"ticks": TICKS, "ran_in_last_attempt": len(others)}
    shown = world("jobs", "show", again).out
    assert f"took over the checkpoint of job {job_id}, at tick {ticks}" in shown
    assert f"retry of  {job_id}, from its checkpoint\n" in shown
    assert "It needs no other try" in world("jobs", "retry", job_id).err
    assert f"took over the checkpoint of job {job_id}" in world("jobs", "logs", again).out


def test_it_starts_from_scratch_on_request_or_when_nothing_is_left(world: Cli, cancelled: tuple[str, int]) -> None:
    job_id, _ = cancelled
    result = world("jobs", "retry", job_id, "--from-scratch", "--json").json["jobs"][0]
    assert (result["from_checkpoint"], result["continues_from"]) == (None, None)
    world("jobs", "cancel", result["id"])
    assert work_folder(world, job_id).exists()
    assert world("jobs", "rm", result["id"], job_id).code == Code.OK
    assert not work_folder(world, job_id).exists()
    assert not work_folder(world, result["id"]).exists()


def test_a_checkpoint_that_is_not_there_cannot_be_asked_for(cli: Cli) -> None:
    job_id = cli("submit", "hike", "--name", "early", "--json").json["id"]
    cli("jobs", "cancel", job_id)
    result = cli("jobs", "retry", job_id, "--from-checkpoint")
    assert result.code == Code.USAGE
    assert result.err == (
        f"Job {job_id} cannot be continued: no checkpoint is left.\n"
        f"  To start from scratch: mistudio jobs retry {job_id} --from-scratch\n"
    )
    assert len(cli.ledger.page().jobs) == 1
    result = cli("jobs", "retry", job_id)
    assert result.out.endswith(f"another try of {job_id}; starts from scratch: no checkpoint is left\n")


def test_a_checkpoint_that_a_waiting_job_will_take_over_is_not_removed(cli: Cli) -> None:
    job_id = cli("submit", "hike", "--name", "kept", "--json").json["id"]
    folder = work_folder(cli, job_id)
    folder.mkdir(parents=True)
    (folder / "ticks").write_text("7")
    cli("jobs", "cancel", job_id)
    result = cli("jobs", "retry", "last", "--from-checkpoint", "--json").json["jobs"][0]
    assert (result["from_checkpoint"], result["continues_from"]) == (job_id, "tick 7")
    assert cli("jobs", "rm", job_id).code == Code.OK
    assert folder.exists()
    cli("jobs", "cancel", result["id"])
    assert cli("jobs", "retry", result["id"], "--json").json["jobs"][0]["continues_from"] == "tick 7"


def test_all_that_failed_resume_or_are_left_out_with_the_reason(cli: Cli) -> None:
    ids = [cli("submit", "hike", "--name", name, "--json").json["id"] for name in ("far", "early")]
    work_folder(cli, ids[0]).mkdir(parents=True)
    (work_folder(cli, ids[0]) / "ticks").write_text("7")
    for job_id in ids:
        claim = cli.ledger.claim(job_id, "w", "here", 7)
        assert claim is not None
        cli.ledger.finish(claim, "failed", "the disk was full")
    result = cli("jobs", "retry", "--failed", "--from-checkpoint", "--yes")
    assert result.out.endswith(f"another try of {ids[0]}; continues from tick 7 (--from-scratch ignores it)\n")
    assert result.err.startswith(f"{ids[1]} hike early is left out: Job {ids[1]} cannot be continued: no checkpoint")


def made_in_vain(cli: Cli, *parent: str) -> tuple[str, str]:
    """A job that was cancelled, and one that waited for it and failed with it."""
    first = cli("submit", *parent, "--json").json["id"]
    then = cli("submit", "nap", "--name", "then", "--after", first, "--json").json["id"]
    cli("jobs", "cancel", first)
    assert cli.ledger.need(then).state.ended
    return first, then


@pytest.mark.parametrize("turned", [False, True])
def test_who_waited_for_another_waits_for_its_other_try_in_whatever_order_they_are_named(
    cli: Cli, turned: bool
) -> None:
    first, then = made_in_vain(cli, "nap", "--name", "first")
    named = [then, first, then] if turned else [first, then]
    again = {job["retry_of"]: job["id"] for job in cli("jobs", "retry", *named, "--json").json["jobs"]}
    assert again.keys() == {first, then}
    assert cli.ledger.need(again[then]).parents == (again[first],)


def test_the_newest_try_of_a_parent_is_tried_again_once_however_many_wait_for_it(cli: Cli) -> None:
    for parent in (("cleanup",), ("nap", "--name", "first")):
        first, then = made_in_vain(cli, *parent)
        second = cli("jobs", "retry", first, "--json").json["jobs"][0]["id"]
        other = cli("submit", "blink", "--after", second, "--json").json["id"]
        cli("jobs", "cancel", second)
        jobs = (second, then, other)
        for order in ((1, 2), (2, 1, 0), (0, 1, 2)):
            named = [jobs[place] for place in order]
            again = {job["retry_of"]: job["id"] for job in cli("jobs", "retry", *named, "--json").json["jobs"]}
            assert again.keys() == set(jobs), order
            jobs = tuple(again[job] for job in jobs)
            assert [cli.ledger.need(child).parents for child in jobs[1:]] == [(jobs[0],)] * 2, order
            cli("jobs", "cancel", jobs[0])


def test_who_waited_for_another_waits_for_its_other_try_that_is_under_way(cli: Cli) -> None:
    first, then = made_in_vain(cli, "nap", "--name", "first")
    (again,) = cli("jobs", "retry", first, "--json").json["jobs"]
    (last,) = cli("jobs", "retry", then, "--json").json["jobs"]
    assert cli.ledger.need(last["id"]).parents == (again["id"],)


def test_what_makes_nothing_is_tried_again_first_too_until_it_has_succeeded(cli: Cli) -> None:
    first, then = made_in_vain(cli, "cleanup")
    *before, last = cli("jobs", "retry", then, "--json").json["jobs"]
    assert [job["retry_of"] for job in before] == [first]
    assert cli.ledger.need(last["id"]).parents == (before[0]["id"],)
    cli("jobs", "cancel", last["id"])
    (last,) = cli("jobs", "retry", then, "--json").json["jobs"]
    assert cli.ledger.need(last["id"]).parents == (before[0]["id"],), "the one that is under way"
