"""A worker proves that it reads the store that the others write: a copy with the same id, and a stale mount, do not."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from tasks.fleet import store_nonce
from tasks.fleet.store_nonce import ACCEPTED_FOR_S, FILE, SHOWN_AFTER_S, Proof, prove
from tasks.ledger.client import Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.storage.store_id import make_store_id
from tasks.worker import fleet_membership
from tasks.worker.fleet_membership import StoreWatch, why_refused, why_store_differs
from tests.conftest import PATIENCE_S, until
from tests.fixtures.stack import Clock, Stack

_A_WHILE_S = SHOWN_AFTER_S + 5


@pytest.fixture
def shared(tmp_path: Path, ledger: Ledger) -> Path:
    """The store of a fleet, whose first worker has just written a nonce there."""
    store = tmp_path / "shared"
    make_store_id(store)
    assert why_refused(ledger, store) == ""
    assert write_next(ledger, store)
    return store


def write_next(ledger: Ledger, store: Path) -> str:
    """The nonce after a worker's turn to write it."""
    ledger.client.call("DEL", "mistudio:nonce-writer")
    assert prove(ledger, store, may_write=True) is Proof.GIVEN
    return (store / FILE).read_text() if (store / FILE).exists() else ""


def let_pass(ledger: Ledger, seconds: float) -> None:
    """Have all nonces be older by that."""
    for key in ("mistudio:nonces", "mistudio:nonces:begun"):
        for nonce in ledger.client.call("ZRANGE", key, 0, -1):
            ledger.client.call("ZINCRBY", key, -seconds, nonce)


def copy_of(store: Path) -> Path:
    copy = store.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(store, copy)
    return copy


def test_the_first_worker_has_nothing_to_prove(ledger: Ledger, tmp_path: Path) -> None:
    make_store_id(tmp_path)
    assert prove(ledger, tmp_path) is Proof.GIVEN
    assert not (tmp_path / FILE).exists()


def test_a_copy_is_refused_and_the_store_is_not(ledger: Ledger, shared: Path) -> None:
    copy = copy_of(shared)
    let_pass(ledger, ACCEPTED_FOR_S - 5)
    write_next(ledger, shared)
    let_pass(ledger, _A_WHILE_S)
    assert why_refused(ledger, shared) == ""
    for why in (why_refused(ledger, copy), why_store_differs(ledger, copy)):
        assert why == (
            f"its store {copy} does not show what the other workers wrote there in the last minutes: "
            "it is a copy, or what is mounted there is stale; mount the shared one again"
        )
    (copy / FILE).unlink()
    assert "is a copy" in why_refused(ledger, copy), "nor one where there is no nonce at all"


def test_a_mount_that_is_slow_to_show_the_nonce_is_waited_for_and_not_refused(ledger: Ledger, shared: Path) -> None:
    slow = copy_of(shared)
    (slow / FILE).unlink()
    assert prove(ledger, slow) is Proof.PENDING
    assert why_refused(ledger, slow) == ""
    shutil.copy(shared / FILE, slow / FILE)
    assert prove(ledger, slow) is Proof.GIVEN


def test_one_that_shows_the_nonce_before_is_the_store(ledger: Ledger, shared: Path) -> None:
    slow = copy_of(shared)
    let_pass(ledger, 65)
    write_next(ledger, shared)
    let_pass(ledger, 60)
    assert (slow / FILE).read_text() != (shared / FILE).read_text()
    assert prove(ledger, slow) is Proof.GIVEN


def test_one_worker_writes_the_next_nonce_a_minute_later(ledger: Ledger, shared: Path) -> None:
    first = (shared / FILE).read_text()
    assert write_next(ledger, shared) == first
    let_pass(ledger, 65)
    ledger.client.call("SET", "mistudio:nonce-writer", "another", "EX", 30)
    assert prove(ledger, shared, may_write=True) is Proof.GIVEN
    assert (shared / FILE).read_text() == first
    assert write_next(ledger, shared) != first


def test_a_worker_with_a_copy_writes_no_nonce(ledger: Ledger, shared: Path) -> None:
    copy = copy_of(shared)
    (copy / FILE).unlink()
    for seconds in (65, 30):
        let_pass(ledger, seconds)
        ledger.client.call("DEL", "mistudio:nonce-writer")
        assert prove(ledger, copy, may_write=True) is not Proof.GIVEN
    assert not (copy / FILE).exists()


def test_a_full_disk_has_no_worker_refused(ledger: Ledger, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", no_space)
        for _ in range(8):
            let_pass(ledger, 65)
            write_next(ledger, shared)
            assert why_refused(ledger, shared) == ""
    assert ledger.client.call("ZCARD", "mistudio:nonces") == 0
    assert [path.name for path in shared.iterdir() if path.name.endswith(".part")] == []


def test_a_nonce_that_took_long_to_write_is_accepted_for_as_long_as_it_counts(ledger: Ledger, shared: Path) -> None:
    let_pass(ledger, _A_WHILE_S)
    ledger.client.call("DEL", "mistudio:nonces:begun")
    assert prove(ledger, shared) is Proof.GIVEN


def test_a_writer_that_dies_before_it_has_reported_its_nonce_has_no_worker_refused(
    ledger: Ledger, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_pass(ledger, 65)
    with monkeypatch.context() as patch:
        patch.setattr(store_nonce, "_write", lambda root, nonce: die_after_writing(root, nonce))
        with pytest.raises(KeyboardInterrupt):
            write_next(ledger, shared)
    for _ in range(8):
        assert why_refused(ledger, shared) == ""
        let_pass(ledger, 25)
    assert write_next(ledger, shared)
    assert why_refused(ledger, shared) == ""


def test_a_redis_that_forgot_the_newest_nonce_stops_no_worker(ledger: Ledger, shared: Path) -> None:
    """As one that is not synced with each write and was killed."""
    clock = Clock()
    watch = StoreWatch(shared, clock)
    before = ledger.client.call("ZRANGE", "mistudio:nonces", 0, -1)
    let_pass(ledger, 65)
    write_next(ledger, shared)
    for key in ("mistudio:nonces", "mistudio:nonces:begun"):
        newest = set(ledger.client.call("ZRANGE", key, 0, -1)) - set(before)
        ledger.client.call("ZREM", key, *newest)
    for _ in range(24):
        assert watch.why_unproven(ledger) == ""
        clock.now += 10
        let_pass(ledger, 10)
    assert prove(ledger, shared) is Proof.GIVEN


def test_a_worker_whose_store_became_stale_drains(ledger: Ledger, shared: Path) -> None:
    clock, stale = Clock(), copy_of(shared)
    watch = StoreWatch(stale, clock)
    whys = list[str]()
    for _ in range(40):
        let_pass(ledger, 10)
        clock.now += 10
        write_next(ledger, shared)
        whys.append(watch.why_unproven(ledger))
    assert whys[0] == ""
    assert "is a copy" in whys[-1]


def test_with_the_record_of_the_fleet_its_nonces_are_forgotten(ledger: Ledger, shared: Path, tmp_path: Path) -> None:
    make_store_id(tmp_path / "next")
    for forget in (ledger.forget_fleet, lambda: ledger.forget_worker("w@a")):
        write_next(ledger, shared)
        let_pass(ledger, _A_WHILE_S)
        assert prove(ledger, tmp_path / "next") is Proof.LACKING
        forget()
        assert prove(ledger, tmp_path / "next") is Proof.GIVEN


def test_a_store_that_cannot_be_read_drains_no_worker_and_admits_none(
    ledger: Ledger, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_nonce, "_read", no_space)
    assert StoreWatch(shared).why_unproven(ledger) == ""
    assert why_refused(ledger, shared) == f"its store {shared} cannot be used: No space left on device"


def test_real_workers_write_nonces_and_one_with_a_copy_of_the_store_is_refused(stack: Stack) -> None:
    stack.start_worker("--queues", "high_priority")
    nonce = stack.store.root / FILE
    until(lambda: stack.ledger.client.call("ZCARD", "mistudio:nonces"), stack.log())
    copy = copy_of(stack.store.root)
    let_pass(stack.ledger, ACCEPTED_FOR_S - 5)
    stale = nonce.read_text()
    stack.ledger.client.call("DEL", "mistudio:nonce-writer")
    until(lambda: nonce.read_text() != stale, stack.log())
    let_pass(stack.ledger, _A_WHILE_S)
    refused = stack.popen("--queues", "training", name="second", MISTUDIO_STORE=str(copy))
    heartbeat = until(lambda: next((b for b in stack.ledger.heartbeats() if b.pid == refused.pid), None), stack.log())
    assert isinstance(heartbeat, WorkerHeartbeat)
    assert heartbeat.refused == fleet_membership.NOT_SHOWN.format(store=copy)
    shutil.rmtree(copy)
    copy.symlink_to(stack.store.root)
    until(lambda: any(b.pid == refused.pid for b in stack.ledger.workers()), stack.log())
    refused.terminate()
    refused.wait(PATIENCE_S)


def die_after_writing(root: Path, nonce: str) -> None:
    (root / FILE).write_text(f"{nonce}\n")
    raise KeyboardInterrupt


def no_space(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")
