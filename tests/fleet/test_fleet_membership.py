"""Workers on one Redis share a store and a table of queues; one that does not consumes nothing, and says why."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from pathlib import Path

import pytest

from mistudio_cli.monitor.explain import explain, look_around
from tasks.errors import UserError
from tasks.jobs.record import State
from tasks.ledger.client import Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.storage.store_id import FILE, make_store_id, read_store_id
from tasks.worker import fleet_membership
from tasks.worker.fleet_membership import why_refused, why_store_changed
from tests.conftest import PATIENCE_S, until
from tests.fixtures.stack import Stack


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    make_store_id(tmp_path / "shared")
    return tmp_path / "shared"


def work(ledger: Ledger, name: str, store: Path) -> str:
    """Have a worker come, and send a heartbeat if it may work; why it may not."""
    if not (why := why_refused(ledger, store)):
        ledger.heartbeat(WorkerHeartbeat(name, name.partition("@")[2], 1, ("training",), 1, 0.0))
    return why


# -- the identity of a store


def test_a_store_gets_one_id_however_many_ask_at_once(tmp_path: Path) -> None:
    start, ids = threading.Barrier(8), list[str]()

    def ask() -> None:
        start.wait()
        ids.append(make_store_id(tmp_path / "store"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert set(ids) == {read_store_id(tmp_path / "store")}
    assert [path.name for path in (tmp_path / "store").iterdir()] == [FILE]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 7}', "{}"])
def test_a_damaged_id_is_said_and_not_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    for ask in (read_store_id, make_store_id):
        with pytest.raises(UserError):
            ask(tmp_path)
    assert (tmp_path / FILE).read_text() == text


def test_where_there_is_no_store_there_is_no_id_and_asking_makes_none(tmp_path: Path) -> None:
    assert read_store_id(tmp_path / "nowhere") is None
    assert list(tmp_path.iterdir()) == []


# -- who belongs to a fleet


def test_all_that_share_a_store_belong(ledger: Ledger, shared: Path) -> None:
    assert [work(ledger, f"w@{host}", shared) for host in ("a", "b", "c")] == ["", "", ""]


def test_another_store_an_empty_folder_and_a_store_that_cannot_be_read_are_refused(
    ledger: Ledger, shared: Path, tmp_path: Path
) -> None:
    work(ledger, "w@a", shared)
    other, mine = tmp_path / "other", read_store_id(shared)
    theirs = make_store_id(other)
    assert work(ledger, "w@b", other) == (
        f"its store {other} is store {theirs}, and the other workers' is {mine}: set MISTUDIO_STORE to that one, "
        "or type workers start --new-store when none of the others will come back"
    )
    (tmp_path / "unmounted").mkdir()
    assert work(ledger, "w@b", tmp_path / "unmounted") == (
        f"its store {tmp_path / 'unmounted'} is empty, and the other workers' is store {mine}: mount it there"
    )
    assert not (tmp_path / "unmounted" / FILE).exists()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / FILE).write_text("{")
    assert "broken" in work(ledger, "w@b", tmp_path / "broken")
    assert [heartbeat.name for heartbeat in ledger.workers()] == ["w@a"]
    assert work(ledger, "w@b", shared) == ""


def test_another_version_with_other_queues_or_another_protocol_is_refused(
    ledger: Ledger, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(ledger, "w@a", shared)
    with monkeypatch.context() as patch:
        patch.setattr(fleet_membership, "PRIORITY_STEPS", (0, 5))
        why = work(ledger, "w@b", shared)
        assert why.startswith("its queues or priority steps (")
        assert why.endswith("install the same version of mistudio on all hosts")
    with monkeypatch.context() as patch:
        patch.setattr(fleet_membership, "PROTOCOL", 2)
        assert work(ledger, "w@b", shared).startswith("it speaks protocol 2, the other workers 1: ")
    ledger.client.call("SET", "mistudio:fleet", "no JSON")
    assert work(ledger, "w@b", shared).startswith("it speaks protocol 1, the other workers None: ")


def test_the_store_stays_the_fleets_while_a_worker_is_only_silent(ledger: Ledger, shared: Path, tmp_path: Path) -> None:
    """As after a power cut, or while Redis was stopped: the host without its mount may be the first to come back."""
    work(ledger, "w@a", shared)
    silent = WorkerHeartbeat("w@a", "a", 1, ("training",), 1, 0.0, seen_at=ledger.now() - 3600)
    ledger.heartbeat(silent)
    (tmp_path / "unmounted").mkdir()
    assert "mount it there" in work(ledger, "w@b", tmp_path / "unmounted")
    assert "--new-store" in work(ledger, "w@a", other_store(tmp_path)), "nor may the same worker bring another one"
    assert work(ledger, "w@c", shared) == ""


def test_with_the_last_worker_that_ends_in_good_order_another_store_may_come(
    ledger: Ledger, shared: Path, tmp_path: Path
) -> None:
    for name in ("w@a", "w@b"):
        work(ledger, name, shared)
    ledger.forget_worker("w@a")
    assert work(ledger, "w@c", other_store(tmp_path)) != ""
    ledger.forget_worker("w@b")
    assert work(ledger, "w@c", other_store(tmp_path)) == ""
    assert work(ledger, "w@a", shared) != ""


def test_by_a_command_too_unless_a_worker_lives(ledger: Ledger, shared: Path, tmp_path: Path) -> None:
    work(ledger, "w@a", shared)
    assert ledger.forget_fleet() == "w@a"
    ledger.heartbeat(WorkerHeartbeat("w@a", "a", 1, ("training",), 1, 0.0, seen_at=ledger.now() - 3600))
    ledger.client.call("HSET", "mistudio:workers", "x@x", "no heartbeat")
    assert ledger.forget_fleet() == "ok"
    assert work(ledger, "w@b", other_store(tmp_path)) == ""


def test_of_two_that_come_at_once_with_different_stores_one_is_refused(
    ledger: Ledger, shared: Path, tmp_path: Path
) -> None:
    whys = [why_refused(ledger, shared), why_refused(ledger, other_store(tmp_path))]
    assert [bool(why) for why in whys] == [False, True], "though neither has sent a heartbeat yet"


def test_a_worker_at_work_notices_another_store_and_not_a_full_disk(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make_store_id(shared)
    assert why_store_changed(shared, before) == ""
    with monkeypatch.context() as patch:
        patch.setattr(fleet_membership, "read_store_id", no_space)
        assert why_store_changed(shared, before) == ""
    (shared / FILE).unlink()
    assert why_store_changed(shared, before) == f"its store {shared} is no longer store {before}: mount it there again"


def test_a_lone_worker_whose_store_cannot_be_used_consumes_and_its_jobs_say_why(
    ledger: Ledger, shared: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    assert work(ledger, "w@a", tmp_path / "file") == ""
    assert ledger.fleet() is None
    assert work(ledger, "w@b", shared) == ""
    assert "cannot be used" in work(ledger, "w@a", tmp_path / "file")


def other_store(folder: Path) -> Path:
    make_store_id(folder / "another")
    return folder / "another"


def no_space(_: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# -- real workers


def test_a_worker_with_another_store_consumes_nothing_until_it_has_the_shared_one(stack: Stack, tmp_path: Path) -> None:
    stack.start_worker("--queues", "high_priority")
    name = next(heartbeat.host for heartbeat in stack.ledger.workers())
    other = tmp_path / "store"
    make_store_id(other)
    refused = stack.popen("--queues", "training", name="second", MISTUDIO_STORE=str(other))
    heartbeat = until(lambda: next((b for b in stack.ledger.heartbeats() if b.refused), None), stack.log())
    assert heartbeat.name == f"second@{name}"
    assert "set MISTUDIO_STORE to that one" in heartbeat.refused
    job = stack.submit("nap", ticks=1)
    causes = [cause.sentence for cause in explain(job, look_around(stack.ledger, job))]
    assert causes[0] == f"{heartbeat.name} does not consume: {heartbeat.refused}."
    assert stack.ledger.need(job.id).state is State.QUEUED
    shutil.rmtree(other)
    other.symlink_to(stack.store.root)  # as if the shared one were mounted there now
    until(lambda: stack.ledger.need(job.id).state.ended, stack.log())
    refused.terminate()
    refused.wait(PATIENCE_S)


def test_a_worker_whose_store_is_unmounted_drains(stack: Stack, tmp_path: Path) -> None:
    stack.start_worker("--queues", "high_priority")
    other = tmp_path / "store"
    other.symlink_to(stack.store.root)
    worker = stack.popen("--queues", "training", name="second", MISTUDIO_STORE=str(other))
    until(lambda: len(stack.ledger.workers()) == 2, stack.log())
    other.unlink()
    other.mkdir()
    until(lambda: worker.poll() is not None, stack.log())
    assert worker.returncode == 0
    assert "may not consume any more, and drains" in stack.log()
    assert json.loads((stack.store.root / FILE).read_text())["id"]
