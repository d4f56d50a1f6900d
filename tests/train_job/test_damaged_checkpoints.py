"""A checkpoint that was cut short is passed over and named; a training resumes from another, and ends the same."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.jobs.job_id import new_job_id
from tasks.jobs.kind import Stopped
from tasks.jobs.record import Job, State
from tasks.kinds import train
from tasks.ledger.client import Ledger
from tasks.sae.training import checkpoint
from tasks.sae.training.checkpoint_list import damaged, whole
from tasks.submission.checkpoints import leave_behind, tidy
from tests.fixtures.bench import Bench
from tests.fixtures.work_folders import left_by, next_attempt
from tests.train_job.test_train import prepared


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "an empty state": lambda folder: cut(folder / "state.json", 0),
    "a state that is cut": lambda folder: cut(folder / "state.json", 20),
    "a state of zeros": lambda folder: (folder / "state.json").write_bytes(bytes(200)),
    "a state that is a list": lambda folder: (folder / "state.json").write_text("[]"),
    "a state without its step": lambda folder: (folder / "state.json").write_text('{"fingerprint": "f", "score": 1}'),
    "no state": lambda folder: (folder / "state.json").unlink(),
    "empty tensors": lambda folder: cut(folder / "tensors.safetensors", 0),
    "tensors that are cut": lambda folder: cut(folder / "tensors.safetensors", 4000),
    "tensors that are cut in their header": lambda folder: cut(folder / "tensors.safetensors", 50),
    "no tensors": lambda folder: (folder / "tensors.safetensors").unlink(),
}


def saved(folder: Path, *steps: int, score: float | None = None) -> list[Path]:
    return [checkpoint.save(folder, step, {"w": torch.ones(1000)}, {"fingerprint": "f"}, score) for step in steps]


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_seen_and_never_raised(tmp_path: Path, damage: str) -> None:
    best, newest = saved(tmp_path, 10, score=0.1) + saved(tmp_path, 20, score=0.2)
    DAMAGES[damage](newest)
    assert (list(whole(tmp_path)), damaged(tmp_path)) == ([best], [newest])
    found = checkpoint.newest(tmp_path, "f")
    assert found is not None
    assert found[1]["step"] == 10
    assert checkpoint.best(tmp_path, "f") == best
    assert train.resume_point(tmp_path) == "step 10"
    (again,) = saved(tmp_path, 20, score=0.3)
    assert (list(whole(tmp_path)), damaged(tmp_path)) == ([best, again], [])
    DAMAGES[damage](best)
    assert checkpoint.best(tmp_path, "f") == again
    saved(tmp_path, 30)
    assert not best.exists(), "the next one that is written removes it"


def test_a_folder_of_an_attempt_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        saved(tmp_path / "gone", 10)
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("damage", ["an empty state", "tensors that are cut"])
@pytest.mark.parametrize("evaluate", [0, 5], ids=["of one checkpoint", "of two"])
def test_a_training_names_it_and_ends_with_the_same_bytes(bench: Bench, damage: str, evaluate: int) -> None:
    params = dataclasses.replace(prepared(bench)[0], evaluate=evaluate, checkpoint_s=0.0)
    whole_run = bench.context("whole")
    train.run(params, whole_run)
    stopped = bench.context("struck", stop=lambda done: done >= 17 * 256)
    with pytest.raises(Stopped):
        train.run(params, stopped)
    *others, newest = sorted(stopped.workdir.glob("checkpoint-*"))
    DAMAGES[damage](newest)
    again = bench.context("struck")
    result = train.run(params, again)
    assert again.noted[0] == f"{newest.name} is damaged and is passed over"
    at = int(others[-1].name.rpartition("-")[2]) if others else 0
    assert result["steps_in_last_attempt"] == 30 - at
    for name in ("sae_weights.safetensors", "metrics.jsonl"):
        assert (again.output / name).read_bytes() == (whole_run.output / name).read_bytes(), name


def test_damaged_lines_of_metrics_are_left_out(tmp_path: Path) -> None:
    lines = tmp_path / "metrics.jsonl"
    lines.write_bytes(b'{"step": 1}\n{"step"\n\0\0\0\0\n[]\n{"step": 2}\n\xff\n{"step": 3}\n{"step": 4}')
    checkpoint.cut(tmp_path, 3)
    assert [json.loads(line)["step"] for line in lines.read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("part", ["state.json", "tensors.safetensors"])
def test_one_that_cannot_be_read_now_is_neither_damaged_nor_removed(
    bench: Bench, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    job = ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    folder = next_attempt(bench.store, job.id)
    (kept,) = saved(folder, 10)
    claim = ledger.claim(job.id, "w@h", "h")
    assert claim is not None
    ledger.finish(claim, State.FAILED, "over")
    job = ledger.need(job.id)
    opened = Path.open

    def stale(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == part:
            raise OSError(errno.ESTALE, "Stale file handle")
        return opened(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", stale)
        with pytest.raises(OSError, match="Stale"):
            whole(folder)
        with pytest.raises(OSError, match="Stale"):
            train.resume_point(folder)
        assert tidy(bench.store, job), "it may be one, and stays"
        leave_behind(ledger, bench.store, job)
    assert train.resume_point(left_by(bench.store, job.id)) == "step 10"
    assert kept.exists()
