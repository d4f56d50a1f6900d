"""The log of a training shows model, hook, shape and rate, each evaluation and checkpoint, and where it resumes."""

from __future__ import annotations

import re

import pytest

from tasks.jobs.kind import Stopped
from tasks.kinds import train
from tests.fixtures.bench import Bench
from tests.train_job.test_train import prepared


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "mistudio.train"]


def test_the_course_of_a_training_is_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    params, _ = prepared(bench, steps=40, evaluate=2)
    train.run(params, bench.context())
    lines = said(caplog)
    assert re.fullmatch(r"\S+: topk SAE, 16 -> 64, of \S+ at gpt_neox\.layers\.\d", lines[0]), lines[0]
    assert re.fullmatch(r"\S+: 40 steps of \d+ vectors, lr 0\.\d+, on cpu in float32", lines[1]), lines[1]
    evaluations = [line for line in lines if "evaluation at step" in line]
    assert [int(re.search(r"at step (\d+)", line)[1]) for line in evaluations] == [20, 40]
    assert all(re.search(r"fvu [0-9.]+, explained_variance -?[0-9.]+, l0 [0-9.]+", line) for line in evaluations)
    assert any(line.endswith("checkpoint at step 20 of 40") for line in lines)


def test_a_stopped_training_logs_its_checkpoint_and_notes_where_it_resumes(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    params, _ = prepared(bench, steps=40, evaluate=0)
    with pytest.raises(Stopped):
        train.run(params, bench.context(stop=lambda done: done >= 11 * params.batch))
    at = [int(found[1]) for line in said(caplog) if (found := re.search(r"checkpoint at step (\d+) of 40", line))]
    assert at
    again = bench.context()
    train.run(params, again)
    assert again.noted == [f"resumes from step {at[-1]}"]
