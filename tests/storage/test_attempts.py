"""Each attempt at a job writes into a folder of its own; what an earlier one left is adopted, and then it is gone."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tasks.storage.attempts import Superseded, begin, folder_of, hand_over, keep_newest, newest
from tasks.storage.store import Store
from tests.fixtures.work_folders import left_by, next_attempt


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def work(folder: Path, step: int) -> None:
    """What a training leaves after `step` steps."""
    checkpoint = folder / f"checkpoint-{step:09}"
    checkpoint.mkdir()
    (checkpoint / "state.json").write_text(f'{{"step": {step}}}')
    with (folder / "metrics.jsonl").open("a") as lines:
        lines.write(f'{{"step": {step}}}\n')
    (folder / "output" / "half").write_text("half")
    (folder / "checkpoint.part").mkdir(exist_ok=True)
    (folder / "checkpoint.part" / "state.json").write_text("half")
    (folder / "parts" / "1-k8").mkdir(parents=True, exist_ok=True)  # an SAE of a group, named like an attempt
    (folder / "parts" / "1-k8" / "given-up.json").write_text("{}")


def shown(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {".attempt"}


LEFT = {"checkpoint-000000007/state.json", "metrics.jsonl", "parts/1-k8/given-up.json"}


def test_an_attempt_adopts_what_the_one_before_left_but_no_output_and_nothing_half_written(store: Store) -> None:
    first = begin(store, "job", 1, "aaaaaaaaaaaa")
    assert first == folder_of(store, "job", 1, "aaaaaaaaaaaa") == store.work_folder("job") / "1-aaaaaaaa"
    work(first, 7)
    second = begin(store, "job", 2, "bbbbbbbbbbbb")
    assert shown(second) == LEFT
    assert list((second / "output").iterdir()) == []
    assert [path.name for path in store.work_folder("job").iterdir()] == ["2-bbbbbbbb"]
    assert newest(store.work_folder("job")) == second


def test_what_is_adopted_takes_no_room_and_what_grows_is_a_copy(store: Store) -> None:
    first = begin(store, "job", 1, "a")
    work(first, 7)
    link, lines = first / "checkpoint-000000007" / "state.json", (first / "metrics.jsonl").open("a")
    inode = link.stat().st_ino
    second = begin(store, "job", 2, "b")
    assert (second / "checkpoint-000000007" / "state.json").stat().st_ino == inode
    with lines:
        lines.write('{"step": 8}\n')  # by one that has the file open still
    assert (second / "metrics.jsonl").read_text() == '{"step": 7}\n'


def test_without_hard_links_it_is_copied(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    work(begin(store, "job", 1, "a"), 7)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert shown(begin(store, "job", 2, "b")) == LEFT


def test_one_that_was_superseded_finds_no_folder_and_can_make_none(store: Store) -> None:
    first = begin(store, "job", 1, "a")
    work(first, 7)
    second = begin(store, "job", 2, "b")
    for write in (
        lambda: (first / "checkpoint.part").mkdir(),
        lambda: (first / "metrics.jsonl").open("a"),
        lambda: (first / "checkpoint-000000007").rename(first / "x"),
        lambda: store.publish(first / "output", "saes", "a"),
    ):
        with pytest.raises(FileNotFoundError):
            write()
    with pytest.raises(Superseded):
        begin(store, "job", 1, "other")
    assert shown(second) == LEFT


def test_a_folder_that_a_superseded_one_makes_again_is_adopted_by_nobody(store: Store) -> None:
    first = begin(store, "job", 1, "a")
    second = begin(store, "job", 2, "b")
    work(second, 7)
    (first / "wandb").mkdir(parents=True)  # as a library does that makes all folders of a path
    (first / "wandb" / "run").write_text("late")
    assert newest(store.work_folder("job")) == second
    assert shown(begin(store, "job", 3, "c")) == LEFT
    assert [path.name for path in store.work_folder("job").iterdir()] == ["3-c"]


def test_asking_again_changes_nothing(store: Store) -> None:
    first = begin(store, "job", 1, "a")
    work(first, 7)
    assert begin(store, "job", 1, "a") == first
    assert shown(first) > LEFT


@pytest.mark.parametrize("call", range(1, 40))
def test_one_that_dies_while_it_begins_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Each change to the disk may be the last one of an attempt; the next finds all, whichever it was."""
    work(begin(store, "job", 1, "a"), 7)
    left = call

    def dying(change: object) -> object:
        def changed(*args: object, **kwargs: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return change(*args, **kwargs)  # type: ignore[operator]

        return changed

    with monkeypatch.context() as patch:
        for name in ("rename", "mkdir", "link", "unlink", "rmdir"):
            patch.setattr(os, name, dying(getattr(os, name)))
        with suppress(KeyboardInterrupt):
            begin(store, "job", 2, "b")
    found = newest(store.work_folder("job"))
    assert found is not None
    assert shown(found) >= LEFT
    assert shown(begin(store, "job", 3, "c")) == LEFT
    assert [path.name for path in store.work_folder("job").iterdir()] == ["3-c"]


def test_what_an_older_version_left_is_adopted(store: Store) -> None:
    old = store.work_folder("job")
    (old / "output-2").mkdir(parents=True)
    (old / "output-2" / "half").write_text("half")
    (old / "ticks").write_text("7")
    assert newest(old) == old
    assert shown(begin(store, "job", 3, "c")) == {"ticks"}
    assert [path.name for path in old.iterdir()] == ["3-c"]


def test_another_job_adopts_what_one_that_ended_has_left(store: Store) -> None:
    work(begin(store, "old", 4, "a"), 7)
    assert hand_over(store, "old", "new")
    assert store.work_folders() == ["new"]
    first = begin(store, "new", 1, "b")
    assert shown(first) == LEFT
    assert not hand_over(store, "old", "new")
    assert shown(begin(store, "new", 2, "c")) == LEFT


def test_a_job_that_has_begun_is_handed_nothing(store: Store) -> None:
    work(begin(store, "old", 4, "a"), 7)
    begin(store, "new", 1, "b")
    assert not hand_over(store, "old", "new")
    assert shown(left_by(store, "old")) > LEFT


def test_of_a_job_that_has_ended_only_what_can_be_adopted_is_kept(store: Store) -> None:
    first = next_attempt(store, "job")
    second = next_attempt(store, "job")
    work(second, 7)
    (first / "wandb").mkdir(parents=True)
    keep_newest(store, "job")
    assert shown(store.work_folder("job")) - {f"{second.name}/.attempt"} == {f"{second.name}/{name}" for name in LEFT}
    keep_newest(store, "unknown")


def test_of_one_whose_next_attempt_died_as_it_began_too(store: Store) -> None:
    work(begin(store, "job", 1, "a"), 7)
    earlier = store.work_folder("job") / "2-b.part" / ".earlier"
    earlier.mkdir(parents=True)
    folder_of(store, "job", 1, "a").rename(earlier / "1-a")
    keep_newest(store, "job")
    assert shown(begin(store, "job", 3, "c")) == LEFT


def test_a_link_in_the_place_of_a_jobs_folder_is_not_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "ticks").write_text("7")
    store.work_folder("job").parent.mkdir(parents=True)
    store.work_folder("job").symlink_to(tmp_path / "outside")
    assert newest(store.work_folder("job")) is None


def test_two_that_begin_at_once_both_get_a_folder_and_the_later_one_all_that_was_left(store: Store) -> None:
    """The earlier of the two has lost its lease; what it meets is its own affair."""
    for round_ in range(20):
        job = f"job-{round_}"
        work(begin(store, job, 1, "a"), 7)
        start = threading.Barrier(2)

        def race(number: int, job: str = job, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                begin(store, job, number, "b")
            except (Superseded, OSError):
                assert number == 2

        threads = [threading.Thread(target=race, args=(number,)) for number in (2, 3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert newest(store.work_folder(job)) == folder_of(store, job, 3, "b")
        assert shown(begin(store, job, 4, "c")) == LEFT


def test_two_attempts_of_one_number_lose_nothing(store: Store) -> None:
    """As after Redis has lost its last second: the second claim has the number of the first again."""
    work(begin(store, "job", 1, "a"), 7)
    begin(store, "job", 2, "b")
    assert shown(begin(store, "job", 2, "c")) == LEFT
    assert shown(begin(store, "job", 3, "d")) == LEFT


def test_what_an_older_version_wrote_beside_an_attempt_came_last(store: Store) -> None:
    work(begin(store, "job", 1, "a"), 7)
    (store.work_folder("job") / "ticks").write_text("9")
    assert newest(store.work_folder("job")) == store.work_folder("job")
    assert shown(begin(store, "job", 3, "c")) == {"ticks"}


def test_a_hand_over_that_was_cut_short_is_finished_by_the_next_attempt(store: Store) -> None:
    work(begin(store, "old", 4, "a"), 7)
    store.work_folder("new").mkdir()  # it died here
    assert hand_over(store, "old", "new")
    assert hand_over(store, "old", "new") is False
    assert shown(begin(store, "new", 1, "b")) == LEFT


def test_a_folder_that_cannot_be_read_now_is_not_taken_for_one_that_is_not_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(begin(store, "job", 1, "a"), 7)

    def stale(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "iterdir", stale)
    with pytest.raises(OSError, match="Stale"):
        newest(store.work_folder("job"))
