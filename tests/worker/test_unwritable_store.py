"""A store or a home that cannot be written: one attempt, and the reason."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.ledger.client import Claim, Ledger
from tasks.runner.execute import describe_failure, work_on
from tasks.storage import attempts
from tasks.storage.store import Store
from tasks.submission.plan import ArtifactCatalog, plan
from tests.fixtures.stack import Stack


def a_file(stack: Stack) -> Path:
    path = stack.folder / "a-file"
    path.write_text("no folder")
    return path


@pytest.mark.parametrize("kind", ["nap", "blink"])
@pytest.mark.parametrize(
    ("place", "why"),
    [
        (lambda stack: Path("/proc/nosuch/store"), "No such file or directory"),
        (a_file, "Not a directory"),
        (lambda stack: stack.folder / ("n" * 300), "File name too long"),
    ],
    ids=["no-disk", "a-file", "too-long"],
)
def test_a_job_whose_store_cannot_be_used_fails_once_and_says_why(
    stack: Stack, kind: str, place: object, why: str
) -> None:
    store = place(stack)  # type: ignore[operator]
    stack.start_worker(MISTUDIO_STORE=str(store))
    failed = stack.ended(
        stack.ledger.submit(Job(new_job_id(), kind, "a", {"nap": "training"}.get(kind, "high_priority"), {}))
    )
    assert (failed.state, failed.attempt) == (State.FAILED, 1)
    assert failed.reason.startswith(f"The store {store} cannot be used on ")
    assert why in failed.reason
    assert "set MISTUDIO_STORE to another, then: mistudio jobs retry ID" in failed.reason


def test_a_job_without_room_for_its_log_runs_all_the_same(stack: Stack) -> None:
    stack.start_worker()
    shutil.rmtree(stack.folder / "home" / "logs", ignore_errors=True)
    (stack.folder / "home" / "logs").write_text("no folder")
    assert stack.ended(stack.submit("nap", ticks=1)).state is State.SUCCEEDED
    assert "cannot be written" in stack.log()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_nothing_is_reported_in_a_sentence_of_its_own(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kinds_of_the_tests: None, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/store/.tmp")

    monkeypatch.setenv("MISTUDIO_HOME", str(tmp_path))
    monkeypatch.setattr(attempts, "begin", refuse)
    job = ledger.submit(Job(new_job_id(), "blink", "a", "high_priority", {"note": "", "stare_s": 0.0}))
    claim = ledger.claim(job.id, "w@h", "h")
    assert isinstance(claim, Claim)
    work_on(claim, ledger, "cpu", lambda: False, lambda: None)
    failed = ledger.need(job.id)
    assert (failed.state, failed.attempt) == (State.FAILED, 1)
    assert failed.reason.startswith("The ")
    assert failed.reason.endswith("then: mistudio jobs retry ID")


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_path_that_the_claiming_host_lacks_is_said_with_both_hosts(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, elsewhere: bool
) -> None:
    monkeypatch.setenv("MISTUDIO_HOME", str(tmp_path))
    here, path = socket.gethostname(), str(tmp_path / "corpus.jsonl")
    Path(path).write_text('{"text": "a"}\n')
    job = plan(ArtifactCatalog(ledger, Store(tmp_path / "store")), "download", {"source": path}, name="a")[-1]
    submitter = "mistudio 0.1.0 on lab" if elsewhere else job.submitted_by
    assert job.submitted_by.endswith(f" on {here}")
    ledger.submit(replace(job, submitted_by=submitter))
    Path(path).unlink()
    claim = ledger.claim(job.id, "w@h", "h")
    assert isinstance(claim, Claim)
    work_on(claim, ledger, "cpu", lambda: False, lambda: None)
    reason = ledger.need(job.id).reason
    assert reason.startswith(f"{path} is gone, or not on this host. Put the files into a folder that all hosts mount")
    result = f"{path} is not on {here}, where the job ran; it was submitted by mistudio 0.1.0 on lab."
    assert reason.endswith(result) == elsewhere


def test_the_reason_of_a_full_disk_is_found_in_the_words_of_libraries_too() -> None:
    result = describe_failure(RuntimeError("write: No space left on device (os error 28)"))
    assert result["message"].startswith("The disk is full.")
