"""What a job had done when it failed or was cancelled is kept, bounded, and handed to the job that tries it again."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.jobs.kind import kind_named
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.storage.attempts import hand_over
from tasks.storage.store import Store
from tasks.submission.checkpoints import leave_behind
from tasks.submission.plan import ArtifactCatalog, submit
from tasks.submission.retry import plan_retry
from tests.conftest import until
from tests.fixtures.stack import Stack
from tests.fixtures.work_folders import left_by, next_attempt


def shown(folder: Path) -> list[str]:
    """What an attempt has left there, without its marks."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def retried(stack: Stack, job: Job, **how: bool) -> Job:
    return stack.ledger.submit_all(plan_retry(ArtifactCatalog(stack.ledger, stack.store), job, **how))[-1]


#: As many as a job cannot make while a test looks, and how many another try has to make of them.
TICKS, REST = 100_000, 20


def hike(stack: Stack) -> Job:
    """A long one, which ends at once when there is a file `over`."""
    return stack.submit("hike", name="hike", ticks=TICKS, until=str(stack.folder / "over"))


def advance(stack: Stack, job: Job) -> None:
    """Have the checkpoint that a job has left be nearly the end, as if it had worked for an hour."""
    (left_by(stack.store, job.id) / "ticks").write_text(str(TICKS - REST))


def cancelled_under_way(stack: Stack) -> Job:
    job = hike(stack)
    stack.under_way(job)
    stack.ledger.request_cancel(job.id)
    job = stack.ended(job)
    until(lambda: not list(stack.store.work_folder(job.id).glob("*/output")))
    assert 0 < int((left_by(stack.store, job.id) / "ticks").read_text()) < TICKS - REST
    advance(stack, job)
    return job


def test_a_cancelled_job_leaves_its_checkpoint_and_another_try_takes_it_over(stack: Stack) -> None:
    stack.start_worker()
    first = cancelled_under_way(stack)
    assert stack.left_in_tmp() == [first.id]
    assert stack.store.names("saes") == []
    again = retried(stack, first)
    assert (again.retry_of, again.from_checkpoint) == (first.id, first.id)
    done = stack.ended(again)
    assert done.result == {"ticks": TICKS, "ran_in_last_attempt": REST}
    assert f"took over the checkpoint of job {first.id}, at tick {TICKS - REST}" in stack.reasons(again)
    until(lambda: stack.left_in_tmp() == [])
    assert stack.ledger.awaited_checkpoints() == set()


def test_a_job_killed_until_it_is_given_up_leaves_its_checkpoint(stack: Stack) -> None:
    stack.start_worker()
    job = hike(stack)
    for attempt in (1, 2):
        until(lambda attempt=attempt: stack.ledger.need(job.id).attempt == attempt)
        stack.under_way(job).kill()
    job = stack.ended(job)
    assert job.state is State.FAILED
    until(lambda: not list(stack.store.work_folder(job.id).glob("*/output")))
    advance(stack, job)
    assert stack.ended(retried(stack, job)).result == {"ticks": TICKS, "ran_in_last_attempt": REST}


def test_from_scratch_leaves_the_old_checkpoint_where_it_is(stack: Stack) -> None:
    stack.start_worker()
    first = cancelled_under_way(stack)
    again = begun_from_scratch(stack, retried(stack, first, from_checkpoint=False))
    assert (left_by(stack.store, first.id) / "ticks").read_text() == str(TICKS - REST)
    assert stack.reasons(again) == ["submitted", "claimed", "done"]


def test_a_checkpoint_that_is_gone_when_the_job_begins_is_reported(stack: Stack) -> None:
    stack.start_worker()
    first = cancelled_under_way(stack)
    stack.ledger.queues.pause("training")
    again = retried(stack, first)
    stack.store.discard(first.id)
    stack.ledger.queues.resume("training")
    begun_from_scratch(stack, again)
    assert f"starts from scratch: the checkpoint of job {first.id} is no longer there" in stack.reasons(again)


def begun_from_scratch(stack: Stack, job: Job) -> Job:
    """The job, ended, once it has made more than what was left to do and less than would be left after a checkpoint."""
    until(lambda: (progress := stack.ledger.need(job.id).progress) and progress.done > REST, stack.log())
    (stack.folder / "over").touch()
    ended = stack.ended(job)
    assert ended.result is not None
    assert REST < ended.result["ran_in_last_attempt"] < TICKS - REST
    return ended


# -- the same without a worker: who has left what, and who may have it


@pytest.fixture
def hut(ledger: Ledger, tmp_path: Path, kinds_of_the_tests: None) -> Hut:
    (tmp_path / "store").mkdir()
    return Hut(ledger, Store(tmp_path / "store"))


class Hut:
    """A ledger and a store with hikes that ended without success."""

    def __init__(self, ledger: Ledger, store: Store) -> None:
        self.ledger, self.store = ledger, store

    def submitted(self, name: str = "hike") -> Job:
        return submit(self.ledger, self.store, "hike", {}, name=name)[-1]

    def walked(self, job: Job, ticks: int = 7, size: int = 0) -> None:
        """As an attempt leaves it."""
        folder = next_attempt(self.store, job.id)
        (folder / "output" / "half").write_text("half")
        (folder / "draft.part").write_text("half")
        (folder / ".gone-draft-7").mkdir()
        (folder / "ticks").write_text(str(ticks))
        (folder / "weights").write_bytes(b"x" * size)

    def over(self, job: Job, state: State = State.FAILED) -> Job:
        claim = self.ledger.claim(job.id, "w", "here", 7)
        assert claim is not None
        self.ledger.finish(claim, state, "over")
        return self.ledger.need(job.id)

    def failed(self, name: str = "hike", size: int = 0) -> Job:
        job = self.submitted(name)
        self.walked(job, size=size)
        return self.over(job)

    def leave(self, job: Job) -> None:
        leave_behind(self.ledger, self.store, job)

    def retry(self, job: Job, **how: bool) -> Job:
        job = self.ledger.need(job.id)
        return self.ledger.submit_all(plan_retry(ArtifactCatalog(self.ledger, self.store), job, **how))[-1]


def test_only_what_another_try_resumes_from_is_kept(hut: Hut) -> None:
    job = hut.failed()
    hut.leave(job)
    assert shown(left_by(hut.store, job.id)) == ["ticks", "weights"]
    for name, state, has_checkpoint in (("done", State.SUCCEEDED, True), ("early", State.FAILED, False)):
        other = hut.submitted(name)
        hut.walked(other)
        if not has_checkpoint:
            (left_by(hut.store, other.id) / "ticks").unlink()
        hut.leave(hut.over(other, state))
    assert hut.store.work_folders() == [job.id]


def test_a_kind_that_does_not_resume_keeps_nothing(hut: Hut) -> None:
    job = submit(hut.ledger, hut.store, "nap", {})[-1]
    hut.walked(job)
    hut.leave(hut.over(job))
    assert hut.store.work_folders() == []
    assert [kind_named(name).attempts for name in ("nap", "hike", "train", "cleanup")] == [3, 2, 10, 3]


def test_a_try_that_was_cancelled_before_it_began_passes_the_checkpoint_on(hut: Hut) -> None:
    first = hut.failed()
    second = hut.retry(first)
    assert hut.ledger.awaited_checkpoints() == {first.id} <= hut.ledger.live_jobs()
    hut.ledger.request_cancel(second.id)
    assert hut.ledger.awaited_checkpoints() == set()
    third = hut.retry(second)
    assert (third.retry_of, third.from_checkpoint) == (second.id, first.id)


def test_the_first_job_can_be_tried_again_though_another_try_took_its_checkpoint(hut: Hut) -> None:
    first = hut.failed()
    second = hut.retry(first)
    with pytest.raises(UserError, match=f"is being made by job {second.id}"):
        hut.retry(first)
    assert hand_over(hut.store, first.id, second.id)
    hut.leave(hut.over(second))
    again = hut.retry(first)
    assert (again.retry_of, again.from_checkpoint) == (first.id, second.id)


def test_a_try_that_started_from_scratch_and_left_nothing_is_followed_by_one_that_resumes(hut: Hut) -> None:
    first = hut.failed()
    restarted = hut.over(hut.retry(first, from_checkpoint=False))
    third = hut.over(hut.retry(restarted, from_checkpoint=False))
    assert hut.retry(third).from_checkpoint == first.id


def test_without_a_checkpoint_it_cannot_be_asked_for(hut: Hut) -> None:
    early = hut.over(hut.submitted())
    with pytest.raises(UserError, match=rf"{early.id} cannot be continued: no checkpoint is left\.") as refused:
        hut.retry(early, from_checkpoint=True)
    assert refused.value.hint == f"To start from scratch: mistudio jobs retry {early.id} --from-scratch"
    nap = hut.over(submit(hut.ledger, hut.store, "nap", {})[-1])
    with pytest.raises(UserError, match="nap jobs keep no checkpoint"):
        hut.retry(nap, from_checkpoint=True)
    assert hut.retry(early).from_checkpoint is None


def test_a_job_whose_data_is_made_again_starts_from_scratch(hut: Hut) -> None:
    producer = hut.submitted("data")
    first = submit(hut.ledger, hut.store, "hike", {"parent": "data"}, name="reader")[-1]
    hut.over(producer, State.SUCCEEDED)
    hut.walked(first)
    hut.over(first)
    assert hut.retry(first).from_checkpoint == first.id
    hut.ledger.request_cancel(hut.ledger.producer_of("saes/reader") or "")
    hut.submitted("data")
    with pytest.raises(UserError, match="its input is being made again"):
        hut.retry(first, from_checkpoint=True)
    assert hut.retry(first).from_checkpoint is None


def test_what_is_kept_is_bounded_but_the_newest_and_what_is_awaited_stay(
    hut: Hut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_KEEP_CHECKPOINTS_GB", "0.002")
    awaited, old, newer, newest = (hut.failed(name, size=900_000) for name in ("a", "b", "c", "d"))
    hut.retry(awaited)
    hut.leave(newest)
    assert hut.store.work_folders() == sorted([awaited.id, newer.id, newest.id])
    assert not list(hut.store.work_folder(newer.id).glob("*/output")), "no slot was there when it ended"
    monkeypatch.setenv("MISTUDIO_KEEP_CHECKPOINTS_GB", "0")
    hut.leave(hut.ledger.need(old.id))
    assert hut.store.work_folders() == sorted([awaited.id, newest.id])


def test_by_default_a_share_of_the_disk_is_enough_for_small_ones(hut: Hut) -> None:
    jobs = [hut.failed(name) for name in ("a", "b", "c")]
    hut.leave(jobs[0])
    assert hut.store.work_folders() == sorted(job.id for job in jobs)


def test_what_is_not_known_here_or_not_over_is_let_alone(hut: Hut, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_KEEP_CHECKPOINTS_GB", "0")
    live, foreign = hut.submitted("live"), "of-another-ledger"
    hut.walked(live)
    next_attempt(hut.store, foreign)
    last = hut.failed("last")
    hut.leave(last)
    assert hut.store.work_folders() == sorted([live.id, foreign, last.id])
    assert list(hut.store.work_folder(live.id).glob("*/output"))


def test_of_many_who_take_one_folder_one_gets_it_whole(hut: Hut) -> None:
    job = hut.failed()
    there = shown(left_by(hut.store, job.id))
    start, got = threading.Barrier(8), list[str]()

    def take(replacement: str) -> None:
        start.wait()
        if hand_over(hut.store, job.id, replacement):
            got.append(replacement)

    threads = [threading.Thread(target=take, args=(f"heir-{number}",)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert hut.store.work_folders() == got
    assert shown(left_by(hut.store, got[0])) == there


def test_a_job_that_has_a_folder_keeps_it(hut: Hut) -> None:
    old, job = hut.failed("old"), hut.failed("new")
    (left_by(hut.store, job.id) / "ticks").write_text("99")
    assert not hand_over(hut.store, old.id, job.id)
    assert (left_by(hut.store, job.id) / "ticks").read_text() == "99"
    assert (left_by(hut.store, old.id) / "ticks").read_text() == "7"
