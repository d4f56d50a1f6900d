"""A page of a job's log, and the end of one, cost what they hold: counted in bytes that were read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mistudio_cli.jobs.job_logs import print_log
from mistudio_cli.jobs.log_pages import LogPages
from mistudio_cli.jobs.log_sources import JobLog
from mistudio_cli.top.details.read import DetailsSource
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.logs.log_parts import find_last_lines, pass_lines
from tasks.logs.log_tails import TailWriter, attempt_key
from tasks.paths import Places
from tasks.storage.log_archive import archive, archive_of, read_archive

MEGABYTE = 1_000_000
JOB = "01kg9t2v8ch7mq"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    places = Places(tmp_path / "home", tmp_path / "store")
    places.job_log(JOB).parent.mkdir(parents=True)
    return places


def job(attempt: int = 1, state: State = State.RUNNING) -> Job:
    return Job(JOB, "train", "a", "training", {}, attempt=attempt, state=state)


def begin(attempt: int) -> bytes:
    return f"2026-01-31 12:00:00,000 INFO mistudio job={JOB} attempt={attempt} begins\n".encode()


def lines_of(attempt: int, count: int) -> list[bytes]:
    """The lines of an attempt that prints `count` lines of 100 bytes."""
    return [begin(attempt), *(b"%d: %096d\n" % (attempt, number) for number in range(count))]


def write(places: Places, *parts: list[bytes]) -> None:
    with places.job_log(JOB).open("ab") as log:
        for part in parts:
            log.write(b"".join(part))


def in_blocks(lines: list[bytes]) -> Iterator[bytes]:
    for start in range(0, len(lines), 2000):
        yield b"".join(lines[start : start + 2000])


def bytes_read() -> int:
    """What this thread has read from files and the like."""
    fields = dict(line.split(": ") for line in Path("/proc/thread-self/io").read_text().splitlines())
    return int(fields["rchar"])


@contextmanager
def reading_at_most(most: int) -> Iterator[None]:
    before = bytes_read()
    yield
    assert bytes_read() - before <= most


def test_a_poll_reads_what_was_added(ledger: Ledger, places: Places) -> None:
    pages, whole = LogPages(), lines_of(1, 100_000)
    write(places, whole)
    assert pages.read(ledger, places, job(), len(whole), 1000).lines == []
    for _ in range(3):
        added = [b"something\n", b"more\n"]
        write(places, added)
        with reading_at_most(MEGABYTE // 10):
            assert pages.read(ledger, places, job(), len(whole), 1000).lines == added
        whole += added
    with reading_at_most(MEGABYTE // 10):
        assert pages.read(ledger, places, job(), len(whole), 1000).lines == []


@pytest.mark.parametrize("state", [State.RUNNING, State.SUCCEEDED])
def test_the_first_page_does_not_read_the_others(ledger: Ledger, places: Places, state: State) -> None:
    whole = lines_of(1, 100_000)
    write(places, whole)
    with reading_at_most(MEGABYTE // 10):
        page = LogPages().read(ledger, places, job(1, state), 0, 100)
    assert (page.lines, page.is_end) == (whole[:100], False)


def test_a_page_of_an_archive_reads_a_few_blocks_of_it(ledger: Ledger, places: Places) -> None:
    whole = lines_of(1, 100_000)
    archive(places.store, JOB, 1, in_blocks(whole))
    pages, ended = LogPages(), job(1, State.FAILED)
    size = archive_of(places.store, JOB, 1).stat().st_size
    assert pages.read(ledger, places, ended, 90_000, 10).lines == whole[90_000:90_010]
    with reading_at_most(size // 10):
        assert pages.read(ledger, places, ended, 90_010, 10).lines == whole[90_010:90_020]
    assert pages.read(ledger, places, ended, 90_020, 100_000).lines == whole[90_020:]
    assert pages.read(ledger, places, ended, len(whole), 10).is_end


def test_any_pages_are_the_whole_log_wherever_its_attempts_are(ledger: Ledger, places: Places) -> None:
    attempts = {number: lines_of(number, 50) for number in (1, 2, 3, 4)}
    whole = [line for number in (1, 2, 3, 4) for line in attempts[number]]
    write(places, attempts[1], attempts[3])
    archive(places.store, JOB, 2, in_blocks(attempts[2]))
    tail = places.home / "elsewhere"
    tail.write_bytes(b"".join(attempts[4]))
    TailWriter(ledger.client, attempt_key(ledger.client, JOB, 4)).send(tail)
    for size in (1, 7, 51, 1000):
        pages, found, is_end = LogPages(), list[bytes](), False
        while not is_end:
            page = pages.read(ledger, places, job(4), len(found), size)
            assert page.missing == []
            found, is_end = found + page.lines, page.is_end
        assert found == whole
        for after in (3, 60, 150):
            assert pages.read(ledger, places, job(4), after, 9).lines == whole[after : after + 9], "asked for again"


def test_a_tail_that_has_moved_on_is_read_from_where_it_was_read_to(ledger: Ledger, places: Places) -> None:
    pages, path, known = LogPages(), places.home / "elsewhere", 0
    writer = TailWriter(ledger.client, attempt_key(ledger.client, JOB, 1))
    for number in range(10):
        added = [b"a bar: 50 %%\r%099d\n" % number, *lines_of(1, 400)]
        with path.open("ab") as log:
            log.write(b"".join(added))
        writer.send(path)
        page = pages.read(ledger, places, job(), known, 1000)
        assert page.lines == added, number
        known += len(page.lines)


def test_what_is_missing_is_said_with_each_page(ledger: Ledger, places: Places) -> None:
    path = places.home / "elsewhere"
    path.write_bytes(b"".join(lines_of(1, 10_000)))
    TailWriter(ledger.client, attempt_key(ledger.client, JOB, 1)).send(path)
    pages = LogPages()
    first = pages.read(ledger, places, job(), 0, 10)
    assert first.missing[0].startswith("Of the log of attempt 1 only the last 64 KB are here")
    assert pages.read(ledger, places, job(), 10, 10).missing == first.missing


def test_of_a_file_that_is_shorter_than_it_was_nothing_is_remembered(ledger: Ledger, places: Places) -> None:
    pages = LogPages()
    write(places, lines_of(1, 100))
    pages.read(ledger, places, job(), 0, 1000)
    places.job_log(JOB).unlink()
    archive(places.store, JOB, 1, in_blocks(lines_of(1, 100)))
    assert pages.read(ledger, places, job(1, State.FAILED), 50, 1000).lines == lines_of(1, 100)[50:]


def test_no_more_positions_are_remembered_than_allowed(ledger: Ledger, places: Places) -> None:
    pages, whole = LogPages(most=3), lines_of(1, 50)
    write(places, whole)
    assert [pages.read(ledger, places, job(), after, 1).lines for after in range(51)] == [[line] for line in whole]
    assert len(pages._bookmarks) == 3


def test_the_end_of_a_log_is_found_from_its_end(
    ledger: Ledger, places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = lines_of(1, 100_000)
    write(places, whole)
    ended = job(1, State.SUCCEEDED)
    write(places, [begin(1)], whole[-20:])
    with reading_at_most(MEGABYTE // 2):
        print_log(ledger, places, ended, 10)
    shown = capsys.readouterr()
    assert shown.out == b"".join(whole[-10:]).decode()
    assert shown.err == f"The last 10 lines of {places.job_log(JOB)}\n"


def test_top_reads_the_end_of_a_log_from_its_end(ledger: Ledger, places: Places) -> None:
    write(places, lines_of(1, 100_000), [begin(1)], lines_of(1, 300)[1:])
    source = DetailsSource(lambda _: ledger, places)
    with reading_at_most(MEGABYTE // 2):
        assert source._job_log(ledger, job())[0] == lines_of(1, 300)[101].decode().rstrip()
    write(places, [b"added\n"])
    with reading_at_most(MEGABYTE // 10):
        assert source._job_log(ledger, job())[-1] == "added"


def test_the_last_lines_are_numbered_as_pages_are(ledger: Ledger, places: Places) -> None:
    first, second = lines_of(1, 3000), lines_of(2, 300)
    write(places, first)
    for whole, attempt in ((first, 1), (first + second, 2)):
        for count in (1, 100, len(whole), len(whole) + 1):
            pages = LogPages()
            left_out, page = pages.read_last(ledger, places, job(attempt), count)
            assert (left_out, page.lines) == (max(0, len(whole) - count), whole[-count:])
            assert LogPages().read(ledger, places, job(attempt), left_out, 10_000).lines == page.lines
            assert pages.read(ledger, places, job(attempt), len(whole), 10).lines == []
        if attempt == 1:
            write(places, second)


def test_after_the_last_lines_a_page_reads_what_was_added(ledger: Ledger, places: Places) -> None:
    write(places, lines_of(1, 100_000), [b"more\n"])
    pages = LogPages()
    left_out, page = pages.read_last(ledger, places, job(), 500)
    write(places, [b"added\n"])
    with reading_at_most(MEGABYTE // 10):
        assert pages.read(ledger, places, job(), left_out + len(page.lines), 1000).lines == [b"added\n"]


@pytest.mark.parametrize(
    ("parts", "count", "attempt", "begins"),
    [
        ([[b"no name\n"]], 0, 1, None),
        ([lines_of(1, 3)], 4, 1, None),
        ([lines_of(1, 3)], 3, 1, begin(1)),
        ([lines_of(1, 3), [b"not ended"]], 3, 1, begin(1)),
        ([lines_of(1, 3)], 2, 2, None),
        ([lines_of(1, 3), lines_of(2, 3)], 3, 2, b"".join(lines_of(1, 3)) + begin(2)),
        ([lines_of(1, 3), lines_of(2, 3)], 4, 2, None),
        ([lines_of(1, 3), lines_of(2, 3)], 2, 1, None),
        ([lines_of(1, 3), [b"x" * 200_000 + b"\n"], lines_of(1, 1)[1:]], 1, 1, None),
    ],
)
def test_the_last_lines_are_those_of_one_attempt(
    places: Places, parts: list[list[bytes]], count: int, attempt: int, begins: bytes | None
) -> None:
    write(places, *parts)
    text = places.job_log(JOB).read_bytes()
    found = find_last_lines(places.job_log(JOB), count, JOB, attempt)
    if len(parts) == 3:
        begins = b"".join(parts[0] + parts[1])
    assert (None if found is None else text[:found]) == begins


def test_of_a_job_s_only_attempt_no_line_needs_to_name_it(
    ledger: Ledger, places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = lines_of(1, 100_000)
    write(places, whole)
    with reading_at_most(MEGABYTE // 2):
        print_log(ledger, places, job(1, State.SUCCEEDED), 10)
    assert capsys.readouterr().out == b"".join(whole[-10:]).decode()


@pytest.mark.parametrize("count", [0, 1, 655, 656, 657, 3000, 3001, 4000])
def test_lines_are_passed_as_they_are_read(places: Places, count: int) -> None:
    whole = lines_of(1, 3000)
    write(places, whole, [b"not ended"])
    passed = min(count, len(whole))
    assert pass_lines(places.job_log(JOB), 0, count) == (passed, len(b"".join(whole[:passed])))
    begin = len(whole[0])
    passed = min(count, len(whole) - 1)
    assert pass_lines(places.job_log(JOB), begin, count) == (passed, begin + len(b"".join(whole[1 : 1 + passed])))


def test_a_log_in_which_no_line_has_ended_has_no_last_line(places: Places) -> None:
    places.job_log(JOB).write_bytes(b"x" * 300_000)
    assert find_last_lines(places.job_log(JOB), 0, JOB, 1) is None


def test_an_archive_of_one_member_is_read_too(places: Places) -> None:
    whole = lines_of(1, 3000)
    archive(places.store, JOB, 1, [b"".join(whole)])
    path = archive_of(places.store, JOB, 1)
    assert [line for line, _ in read_archive(path)] == whole
    assert [line for line, _ in read_archive(path, len(begin(1)))] == whole[1:]


def test_a_bookmark_is_no_progress_of_a_later_reader(ledger: Ledger, places: Places) -> None:
    write(places, lines_of(1, 10))
    log = JobLog(ledger, places, JOB, print)
    kept = log.progress.copy()
    with suppress(StopIteration):
        next(log.read(1, is_over=False))
    assert (kept.file_end, kept.named) == (0, set())


def test_a_submitted_job_without_a_log_has_an_empty_page(ledger: Ledger, places: Places) -> None:
    waiting = Job(new_job_id(), "train", "a", "training", {})
    page = LogPages().read(ledger, places, waiting, 0, 10)
    assert (page.lines, page.is_end, page.missing) == ([], True, [])


def test_a_log_of_another_host_is_complete_when_its_last_lines_have_come(ledger: Ledger, places: Places) -> None:
    whole, ended, pages = lines_of(1, 100), job(1, State.FAILED), LogPages()
    first = pages.read(ledger, places, ended, 0, 10)
    assert (first.lines, first.is_end, first.is_complete) == ([], True, False)
    archive(places.store, JOB, 1, [b"".join(whole)])
    most = pages.read(ledger, places, ended, 0, 50)
    assert (most.lines, most.is_end, most.is_complete) == (whole[:50], False, False)
    rest = pages.read(ledger, places, ended, 50, 1000)
    assert (rest.lines, rest.is_end, rest.is_complete) == (whole[50:], True, True)
    assert pages.read_last(ledger, places, ended, 3)[1].is_complete
    assert not pages.read(ledger, places, job(2, State.FAILED), 0, 1000).is_complete, "the second has not come"
