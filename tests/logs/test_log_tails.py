"""The ends of logs are in Redis, and those of attempts that are over in the store; neither costs the work anything."""

from __future__ import annotations

import gzip
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.logs.log_masking import masked
from tasks.logs.log_parts import attempt_of
from tasks.logs.log_shipping import AttemptLog, archive_left
from tasks.logs.log_tails import KEPT_S, TAIL_BYTES, Tail, TailReader, TailWriter, worker_key
from tasks.paths import Places
from tasks.redis_client.redis_connection import Unreachable, connect, parse_url
from tasks.storage.log_archive import archive, archive_of, archived_attempts, read_archive
from tests.conftest import RedisServer, deadline, until
from tests.fixtures.stack import Stack

KEY = "mistudio:log:j:1"


def tail_of(ledger: Ledger, key: str = KEY) -> Tail | None:
    return TailReader(ledger.client, key).read()


def archived(stack: Stack, job: Job, attempt: int) -> str:
    return gzip.decompress(archive_of(stack.store.root, job.id, attempt).read_bytes()).decode()


def log_file(stack: Stack, job: Job) -> Path:
    return stack.folder / "home" / "logs" / "jobs" / f"{job.id}.log"


def bytes_received(ledger: Ledger) -> int:
    lines = ledger.client.call("INFO", "stats").splitlines()
    return next(int(line.partition(":")[2]) for line in lines if line.startswith("total_net_input_bytes"))


def test_what_is_added_to_a_log_is_added_to_its_tail(ledger: Ledger, tmp_path: Path) -> None:
    path, writer = tmp_path / "log", TailWriter(ledger.client, KEY)
    path.write_bytes(b"one\ntwo\nhal")
    writer.send(path)
    assert tail_of(ledger) == Tail(0, b"one\ntwo\n", False)
    with path.open("ab") as log:
        log.write(b"f\nthree")
    writer.send(path)
    assert tail_of(ledger) == Tail(0, b"one\ntwo\nhalf\n", False)
    writer.send(path, to_the_end=True)
    writer.close()
    assert tail_of(ledger) == Tail(0, b"one\ntwo\nhalf\nthree", True)
    assert 0 < ledger.client.call("TTL", KEY) <= KEPT_S


@pytest.fixture
def other(own_redis: RedisServer) -> Iterator[Ledger]:
    """The ledger in a Redis of this test's own."""
    ledger = Ledger(connect(own_redis.url))
    yield ledger
    ledger.close()


def test_of_10_mb_only_the_last_64_kb_cross_redis(other: Ledger, tmp_path: Path) -> None:
    path, writer = tmp_path / "log", TailWriter(other.client, KEY)
    path.write_bytes(b"".join(b"%099d\n" % number for number in range(100_000)))
    before = bytes_received(other)
    writer.send(path)
    assert bytes_received(other) - before < TAIL_BYTES + 500
    tail = tail_of(other)
    assert tail is not None
    assert path.read_bytes().endswith(tail.text)
    assert tail.start + len(tail.text) == 10_000_000
    assert TAIL_BYTES - 100 <= len(tail.text) <= TAIL_BYTES
    assert tail.text.startswith(b"0000"), "it begins with a whole line"


def test_a_tail_that_grows_for_long_stays_bounded_and_true(ledger: Ledger, tmp_path: Path) -> None:
    path, writer = tmp_path / "log", TailWriter(ledger.client, KEY)
    for number in range(400):
        with path.open("ab") as log:
            log.write(b"%0999d\n" % number)
        writer.send(path)
        tail = tail_of(ledger)
        assert tail is not None
        assert len(tail.text) <= 2 * TAIL_BYTES
        assert path.read_bytes()[tail.start :] == tail.text
        assert len(tail.text) >= min(1000 * (number + 1), TAIL_BYTES - 1000)


def test_a_part_of_a_log_begins_where_its_attempt_began(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"attempt 1\n")
    writer = TailWriter(ledger.client, KEY, start=10)
    writer.send(path)
    assert tail_of(ledger) is None
    with path.open("ab") as log:
        log.write(b"attempt 2\n")
    writer.send(path)
    assert tail_of(ledger) == Tail(0, b"attempt 2\n", False)


def test_a_tail_that_was_removed_or_damaged_is_written_again(ledger: Ledger, tmp_path: Path) -> None:
    path, writer = tmp_path / "log", TailWriter(ledger.client, KEY)
    path.write_bytes(b"one\n")
    writer.send(path)
    for damage in (("DEL", KEY), ("SET", KEY, "nonsense")):
        ledger.client.call(*damage)
        assert tail_of(ledger) is None
        with path.open("ab") as log:
            log.write(b"more\n")
        writer.send(path)
        assert tail_of(ledger) == Tail(0, path.read_bytes(), False)
    assert ledger.client.call("TTL", KEY) > 0


def test_lines_written_while_redis_is_away_are_there_when_it_is_back(
    other: Ledger, own_redis: RedisServer, tmp_path: Path
) -> None:
    path, writer = tmp_path / "log", TailWriter(other.client, KEY)
    path.write_bytes(b"one\n")
    writer.send(path)
    own_redis.kill()
    path.write_bytes(b"one\ntwo\n")
    with pytest.raises(Unreachable):
        writer.send(path)
    own_redis.start()
    writer.send(path)
    assert tail_of(other) == Tail(0, b"one\ntwo\n", False)


def test_a_log_that_was_rotated_begins_again(ledger: Ledger, tmp_path: Path) -> None:
    path, writer = tmp_path / "log", TailWriter(ledger.client, KEY)
    path.write_bytes(b"a long line\n")
    writer.send(path)
    path.rename(tmp_path / "log.1")
    path.write_bytes(b"new\n")
    writer.send(path)
    assert tail_of(ledger) == Tail(0, b"new\n", False)


@pytest.mark.parametrize(
    "block", [b"", b"caf\xc3\xa9\n", b"\xff\xfe\x00\x1b[2J \xe2\x82\n", b"\xf0\x9f\x98", bytes(range(256))]
)
def test_any_bytes_become_text_of_the_same_length(block: bytes) -> None:
    assert len(masked(block)) == len(block)
    masked(block).decode()


def test_secrets_printed_past_logging_do_not_leave_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "caf\u00e9-very-secret-word")
    block = "before\nit is café-very-secret-word, redis://:x@h\r\nafter\n".encode()
    text = masked(block)
    assert len(text) == len(block)
    assert b"very-secret-word" not in text
    assert text.startswith(b"before\nit is ***")
    assert text.endswith(b"\r\nafter\n")


@pytest.mark.parametrize(
    ("line", "attempt"),
    [
        (b"2026-01-31 12:00:00,123 WARNING mistudio.job job=j1 attempt=2 a b\n", 2),
        (b'{"time": "2026", "level": "INFO", "logger": "x", "job": "j1", "attempt": 3, "message": "m"}\n', 3),
        (b"2026-01-31 12:00:00,123 WARNING mistudio.job job=j1 a attempt=2 b\n", None),
        (b"    2026-01-31 12:00:00,123 INFO x job=j1 attempt=2 indented\n", None),
        (b"2026-01-31 12:00:00,123 WARNING mistudio.job job=other attempt=2 a b\n", None),
        (b'{"time": "2026", "level": "INFO", "logger": "x", "job": "other", "attempt": 3, "message": "m"}\n', None),
        (b'{"message": "x", "attempt": 3, ', None),
        (b"\xff\xfe\x00\n", None),
    ],
)
def test_a_line_names_its_attempt_at_its_beginning_alone(line: bytes, attempt: int | None) -> None:
    assert attempt_of(line, "j1") == attempt


def test_an_archive_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken():
        yield b"one\n"
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        archive(tmp_path, "j", 1, broken())
    assert archived_attempts(tmp_path, "j") == []
    assert os.listdir(archive_of(tmp_path, "j", 1).parent) == []
    archive(tmp_path, "j", 1, [b"one\ntwo\n", b"three\n"])
    path = archive_of(tmp_path, "j", 1)
    assert [line for line, _ in read_archive(path, 4)] == [b"two\n", b"three\n"]
    path.write_bytes(path.read_bytes()[:-10])
    assert [line for line, _ in read_archive(path)][:1] in ([b"one\n"], []), "a damaged one has what can be read"


def test_each_attempts_part_is_in_the_store_however_it_ended(stack: Stack) -> None:
    stack.start_worker()
    over = stack.folder / "over"
    resumed = stack.submit("hike", name="b", ticks=100_000, until=str(over))
    cancelled = stack.submit("nap", name="d", ticks=100_000)
    failed, quick = stack.submit("nap", name="c", end="raise"), stack.submit("blink")
    os.kill(stack.under_way(resumed).pid, signal.SIGKILL)
    over.touch()
    stack.under_way(cancelled)
    stack.ledger.request_cancel(cancelled.id)
    for job in (resumed, cancelled, failed, quick):
        stack.ended(job)
    notes = stack.folder / "home" / "run" / "attempts"
    until(lambda: not list(notes.iterdir()), "all to be archived")  # a slot waits for its archive only so long
    stack.stop_worker()
    for job in (cancelled, failed, quick):
        assert archived(stack, job, 1) == log_file(stack, job).read_text()
    assert archived(stack, resumed, 1) + archived(stack, resumed, 2) == log_file(stack, resumed).read_text()
    assert "SIGKILL" in archived(stack, resumed, 1).splitlines()[-1]


def test_the_part_of_an_attempt_that_was_put_back_at_a_shutdown_is_in_the_store(stack: Stack) -> None:
    stack.start_worker()
    job = stack.submit("hike", ticks=10_000)
    stack.under_way(job)
    stack.stop_worker(signal.SIGQUIT)
    assert stack.ledger.need(job.id).state is State.QUEUED
    assert archived(stack, job, 1) == log_file(stack, job).read_text()


def test_the_log_of_a_slot_that_was_killed_is_archived_by_its_worker(stack: Stack) -> None:
    stack.start_worker()
    over = stack.folder / "over"
    job = stack.submit("hike", ticks=100_000, until=str(over))
    slot = psutil.Process(stack.under_way(job).pid).parent()
    assert slot is not None
    slot.kill()
    until(lambda: archived_attempts(stack.store.root, job.id)[:1] == [1], stack.log())
    assert "attempt 1 of at most" in archived(stack, job, 1)
    until(lambda: stack.ledger.need(job.id).attempt == 2, stack.log())
    over.touch()
    assert stack.ended(job).state is State.SUCCEEDED
    until(lambda: archived_attempts(stack.store.root, job.id) == [1, 2], stack.log())
    assert "attempt=2" not in archived(stack, job, 1)


def test_a_running_jobs_log_is_in_redis_without_its_secrets(stack: Stack, short_tmp: Path) -> None:
    stack.start_worker(CHATTER_WORDS="redis://:swordfish@h/0 Bearer opensesame")
    go = short_tmp / "go"
    job = stack.submit("chatter", hostile=True, variable="CHATTER_WORDS", until=str(go))
    key = f"mistudio:log:{job.id}:1"
    tail = until(lambda: (tail := tail_of(stack.ledger, key)) and b"has printed" in tail.text and tail, stack.log())
    assert isinstance(tail, Tail)
    assert tail.start == 0
    assert len(tail.text) == log_file(stack, job).stat().st_size
    assert b"??\x00 \x1b[2J ??\n" in tail.text
    assert b"swordfish" in log_file(stack, job).read_bytes(), "what is printed past logging is in the file as it is"
    assert b"logged redis://:***" in tail.text
    assert b"printed redis://:***" in tail.text
    go.touch()
    stack.ended(job)
    until(lambda: (tail := tail_of(stack.ledger, key)) and tail.is_over)
    until(lambda: archived_attempts(stack.store.root, job.id))
    whole = archived(stack, job, 1)
    assert len(whole.encode()) == log_file(stack, job).stat().st_size
    for left in (tail.text.decode(), whole):
        assert "swordfish" not in left
        assert "opensesame" not in left
    assert 0 < stack.ledger.client.call("TTL", key) <= KEPT_S


def test_a_store_that_takes_no_logs_costs_a_warning_and_the_tail_has_the_end(stack: Stack) -> None:
    stack.store.root.mkdir(parents=True)
    (stack.store.root / ".logs").write_text("no folder")
    stack.start_worker()
    job = stack.submit("nap", ticks=1)
    assert stack.ended(job).state is State.SUCCEEDED
    tail = until(lambda: (tail := tail_of(stack.ledger, f"mistudio:log:{job.id}:1")) and tail.is_over and tail)
    assert isinstance(tail, Tail)
    assert tail.text.decode() == log_file(stack, job).read_text()
    until(lambda: f"the log of job {job.id} was not archived" in stack.log())


def test_a_redis_that_does_not_answer_holds_up_neither_the_slot_nor_the_archive(
    own_redis: RedisServer, short_tmp: Path
) -> None:
    places = Places(short_tmp / "home", short_tmp / "store")
    places.home.mkdir()
    path = places.job_log("j")
    path.parent.mkdir(parents=True)
    assert own_redis.process is not None
    own_redis.process.send_signal(signal.SIGSTOP)
    try:
        attempt_log = AttemptLog(parse_url(own_redis.url), places, "j", 1)
        attempt_log.start()
        path.write_bytes(b"one\n")
        with deadline(30, "finish"):
            attempt_log.finish()
        until(lambda: archived_attempts(places.store, "j") == [1], "the archive")
        until(lambda: not attempt_log.is_alive(), "the thread to end")
    finally:
        own_redis.process.send_signal(signal.SIGCONT)
    assert [line for line, _ in read_archive(archive_of(places.store, "j", 1))] == [b"one\n"]


def test_cleanup_removes_archived_logs_of_jobs_that_are_over(stack: Stack) -> None:
    stack.start_worker()
    old, live = stack.submit("blink"), stack.submit("nap", ticks=10_000)
    stack.ended(old)
    stack.under_way(live)
    archive(stack.store.root, live.id, 1, [b"x\n"])
    until(lambda: archived_attempts(stack.store.root, old.id) == [1])
    kept = stack.ended(stack.submit("cleanup", name="kept", log_days=1)).result
    assert kept is not None
    assert kept["logs"] == 0
    removed = stack.ended(stack.submit("cleanup", name="removed", log_days=0)).result
    assert removed is not None
    assert archived_attempts(stack.store.root, old.id) == []
    assert archived_attempts(stack.store.root, live.id) == [1]


def test_an_idle_worker_sends_redis_nothing_for_its_log(stack: Stack) -> None:
    log = stack.folder / "home" / "logs" / "all-queues.log"
    log.parent.mkdir(parents=True)
    stack.start_worker(MISTUDIO_LOG=str(log))
    name = worker_key(stack.ledger.client, stack.ledger.workers()[0].name)
    until(lambda: (tail := tail_of(stack.ledger, name)) and b" ready." in tail.text and tail.text == log.read_bytes())
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.connect(str(stack.redis.socket))
        monitor.sendall(b"MONITOR\r\n")
        seen = b""

        def heartbeats() -> int:
            nonlocal seen
            seen += monitor.recv(1 << 16)
            return seen.count(b'"mistudio:workers"')

        written = log.stat().st_size
        until(lambda: heartbeats() > 3, "heartbeats")
    assert log.stat().st_size == written
    assert b"log:" not in seen


def test_unreadable_notes_of_attempts_are_removed(short_tmp: Path) -> None:
    places = Places(short_tmp / "home", short_tmp / "store")
    folder = places.attempt_note("j", 1).parent
    folder.mkdir(parents=True)
    for name in ("j.1", "j.x", "nothing", "j.2"):
        (folder / name).write_text("not a number" if name != "j.2" else "0")
    archive_left(places)
    assert not list(folder.iterdir())
    assert archived_attempts(places.store, "j") == []
