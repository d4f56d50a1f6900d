"""What a running job measures is seen: drawn in `jobs show`, beside its progress in `top`, in the JSON of both."""

from __future__ import annotations

import re

import pytest

from mistudio_cli.monitor.snapshot import Snapshot
from mistudio_cli.terminal import humanize
from mistudio_cli.views import sparklines
from tasks.jobs.record import Job, MetricPoint, Progress, State
from tests.cli.conftest import Cli
from tests.cli.painted import painted
from tests.conftest import until


@pytest.fixture
def napping(world: Cli):
    job_id = world("submit", "nap", "--name", "snoring", "--ticks", "100000", "--json").json["id"]
    until(lambda: len(world.ledger.series([job_id])[0]) > 1, what="the job to measure something")
    yield job_id
    world("jobs", "cancel", job_id)


def test_show_draws_the_course_of_each_metric(world: Cli, napping: str) -> None:
    result = world("jobs", "show", napping).out
    assert re.search(r"^metrics$\n  depth   0\.\d+ +[▁▂▃▄▅▆▇█]{2,}  0(\.\d+)? to 0\.\d+$", result, re.M), result
    assert re.search(r" left\)$", result, re.M), result


def test_the_json_has_the_newest_values_and_the_course(world: Cli, napping: str) -> None:
    result = world("jobs", "show", napping, "--json").json
    assert set(result["metrics"]) == {"depth", "snores"}
    assert set(result["series"]) == {"at", "depth", "snores"}
    assert len({len(values) for values in result["series"].values()}) == 1
    assert result["series"]["at"] == sorted(set(result["series"]["at"]))
    assert result["eta_s"] > 0
    (listed,) = [job for job in world("top", "--json").json["jobs"] if job["id"] == napping]
    assert set(listed["metrics"]) == {"depth", "snores"}


def test_top_shows_them_beside_the_progress(world: Cli, napping: str) -> None:
    assert re.search(r"depth 0\.\d+ snores [012]", world("top", "--once").out)


def training(**metrics: float | None) -> Job:
    result = Progress("training", 1, 4, "steps", 0.5)
    return Job("j", "train", "a", "training", {}, state=State.RUNNING, progress=result, metrics=metrics or None)


def test_a_narrow_terminal_does_without_metrics_first() -> None:
    seen = Snapshot(read_at=1.0, jobs=(training(loss=0.25, fvu=None, l0=31.5, dead=3.0), training()))
    wide, narrow = (painted(seen, width=width) for width in (160, 70))
    assert any("loss 0.25 fvu ? l0 31.5  " in line for line in wide)
    assert not any("loss" in line or "METRICS" in line for line in narrow)
    assert any("25 % training (1/4 steps, 0.5/s, 6 s left)" in line for line in wide)
    assert any("25 % 0.5/s 6 s left" in line for line in narrow)
    without = painted(Snapshot(read_at=1.0, jobs=(training(),)), width=160)
    assert not any("METRICS" in line for line in without)


def test_a_job_that_has_ended_has_no_time_left() -> None:
    assert training().left_s == 6
    assert Job("j", "train", "a", "training", {}, state=State.FAILED, progress=training().progress).left_s is None
    assert (
        Job("j", "train", "a", "training", {}, state=State.RUNNING, progress=Progress("x", 1, None, "")).left_s is None
    )


def test_a_course_is_drawn_to_scale() -> None:
    assert sparklines.spark([0.0, 1.0, None, 7.0, 8.0]) == "▁▂ ██"
    assert sparklines.spark([3.0, 3.0]) == "▁▁"
    assert sparklines.spark([None]) == ""
    assert sparklines.bars([1, 0, 8, 3]) == "▁ █▃"
    assert sparklines.bars([0, 1, 1000]) == " ▁█"
    assert sparklines.bars([]) == ""
    points = [MetricPoint(at, {"falls": 100.0 - at, "late": None if at < 99 else 1.0}) for at in (0, 1, 2, 3, 99)]
    drawn = sparklines.drawn(points)
    assert drawn == {"falls": "1  ████▁  1 to 100", "late": "1"}
    assert sparklines.drawn([]) == {}
    assert humanize.values({"a": None, "b": 1.23456}) == {"a": "n/a", "b": "1.235"}
