"""A look at an artifact shows where it is from; cleaning up takes leftovers and nothing else."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tasks.errors import UserError
from tasks.kinds import cleanup
from tasks.paths import Places
from tasks.sae.training.checkpoint import save
from tasks.storage import store
from tasks.storage.store import size_of
from tests.conftest import PATIENCE_S
from tests.fixtures.work_folders import left_by, next_attempt


@pytest.fixture
def with_corpus(home, tmp_path):
    (tmp_path / "a.txt").write_text("A first document.\n")
    home.run("download", "corpus", source=str(tmp_path / "a.txt"))
    return home


def test_a_look_at_a_dataset_shows_its_origin_size_and_first_lines(with_corpus):
    result = with_corpus.run("describe", "look", artifact="datasets/corpus")
    assert result["first"] == ["A first document."]
    assert (result["rows"], result["kind"], result["files"]) == (1, "download", 1)
    assert result["bytes"] == (with_corpus.path("datasets", "corpus") / "data-00000.parquet").stat().st_size


@pytest.mark.parametrize("artifact", ["datasets/nothing", "corpus", "datasets/", "things/corpus", "datasets/../x"])
def test_an_artifact_that_cannot_be_is_refused_at_submit_time(with_corpus, artifact):
    with pytest.raises(UserError):
        with_corpus.run("describe", "look", artifact=artifact)


def test_kinds_that_run_in_a_worker_import_no_torch(with_corpus):
    code = (
        "import sys; from pathlib import Path\n"
        "from tasks.storage.store import Store; from tasks.kinds import describe\n"
        "class Context: store = Store(Path(sys.argv[1]))\n"
        "describe.run(describe.Params('datasets/corpus'), Context)\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(with_corpus.store.root)], check=True, timeout=PATIENCE_S)


NOTHING_KEPT = {"checkpoints_kept": 0, "checkpoint_bytes_kept": 0}


def leave_behind(home, job: str, hours_ago: float) -> None:
    """A work folder and a log as a job that died long ago leaves them."""
    folder = next_attempt(home.store, job)
    (folder / "checkpoint").write_bytes(b"x" * 1000)
    log = Places(home.root, home.store.root).job_log(job)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"y" * 10)
    age(folder.parent, hours_ago)
    age(log, hours_ago)


def age(path: Path, hours_ago: float) -> None:
    """Let nothing there have changed since."""
    for found in (*path.rglob("*"), path):
        os.utime(found, (time.time() - hours_ago * 3600,) * 2)


def left(home) -> tuple[set[str], set[str]]:
    return (
        {path.name for path in (home.store.root / ".tmp").iterdir()} - {"job-corpus", "job-clean"},
        {path.stem for path in Places(home.root, home.store.root).job_log("any").parent.iterdir()},
    )


def test_cleanup_takes_old_leftovers_of_jobs_that_are_over_and_nothing_else(with_corpus):
    home = with_corpus
    leave_behind(home, "long-over", hours_ago=1000)
    leave_behind(home, "running", hours_ago=1000)
    leave_behind(home, "just-over", hours_ago=1)
    home.live = {"running"}
    result = home.run("cleanup", "clean", count_only=True)
    assert result == {"work_folders": 1, "logs": 1, "bytes": 1010, "count_only": True} | NOTHING_KEPT
    assert left(home) == ({"long-over", "running", "just-over"},) * 2
    home.run("cleanup", "clean")
    assert left(home) == ({"running", "just-over"},) * 2
    assert home.store.names("datasets") == ["corpus"]


def test_cleanup_reports_the_checkpoints_it_leaves_and_takes_the_old_ones(with_corpus):
    home = with_corpus
    for job, hours_ago in (("old", 1000), ("new", 1), ("awaited", 1000)):
        leave_behind(home, job, hours_ago=hours_ago)
        save(left_by(home.store, job), 120, {"w": torch.ones(250)}, {"fingerprint": "f"})
        age(home.store.work_folder(job), hours_ago)
    home.live = {"awaited"}
    kept = size_of(home.store.work_folder("new"))
    assert kept > 2000
    result = home.run("cleanup", "clean", count_only=True)
    assert (result["work_folders"], result["checkpoints_kept"], result["checkpoint_bytes_kept"]) == (1, 1, kept)
    result = home.run("cleanup", "clean", hours=0.5, log_days=0.0)
    assert (result["work_folders"], result["checkpoints_kept"], result["checkpoint_bytes_kept"]) == (2, 0, 0)
    assert left(home)[0] == {"awaited"}


def test_the_end_of_a_job_is_judged_by_the_ledger_whatever_the_clock_of_this_machine_says(with_corpus):
    """A machine whose clock is three days ahead would see a checkpoint of ten minutes as one of days."""
    home = with_corpus
    for job in ("ended-now", "ended-long-ago"):
        leave_behind(home, job, hours_ago=72 if job == "ended-now" else -72)
    home.ended = {"ended-now": 600.0, "ended-long-ago": 1000 * 3600.0}
    assert home.run("cleanup", "clean")["work_folders"] == 1
    assert left(home) == ({"ended-now"},) * 2


def test_cleanup_leaves_a_checkpoint_that_a_retry_takes_over_while_others_are_removed(with_corpus, monkeypatch):
    monkeypatch.setattr(cleanup, "_LIVE_FOR_S", 0.0)
    for job in ("a", "b"):
        leave_behind(with_corpus, job, hours_ago=1000)
    removed = store.remove

    def retried(path: Path) -> bool:
        with_corpus.live.add("b")
        return removed(path)

    monkeypatch.setattr(store, "remove", retried)
    result = with_corpus.run("cleanup", "clean")
    assert (result["work_folders"], result["logs"]) == (1, 1)
    assert left(with_corpus) == ({"b"},) * 2


def test_cleanup_leaves_a_job_alone_that_has_begun_since_it_looked(with_corpus):
    leave_behind(with_corpus, "begun", hours_ago=1)
    with_corpus.ended = {"begun": None}
    with_corpus.run("cleanup", "clean", hours=0.0, log_days=0.0)
    assert left(with_corpus) == ({"begun"},) * 2


def test_cleanup_makes_room_on_a_full_disk(with_corpus, monkeypatch):
    from tasks.kinds import cleanup

    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    leave_behind(with_corpus, "long-over", hours_ago=1000)
    leave_behind(with_corpus, "just-over", hours_ago=1)
    monkeypatch.setattr(cleanup, "TemporaryFile", full)
    assert with_corpus.run("cleanup", "clean")["work_folders"] == 1
    assert left(with_corpus) == ({"just-over"},) * 2


def test_cleanup_follows_no_link_out_of_the_store(with_corpus, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    folder = next_attempt(with_corpus.store, "over")
    (folder / "link").symlink_to(outside)
    (with_corpus.store.root / ".tmp" / "direct").symlink_to(outside)
    with_corpus.run("cleanup", "clean", hours=0.0)
    assert (outside / "precious").read_text() == "mine"
    assert not folder.exists()
