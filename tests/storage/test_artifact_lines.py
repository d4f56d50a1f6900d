"""Lines of an artifact are read a bounded part at a time, and nothing outside the store is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.storage.artifact_lines import LONGEST_LINE, Lines, open_file, read_lines
from tasks.storage.store import Store
from tests.conftest import deadline

LINES = [f"line {number}".encode() + b"\n" for number in range(100)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    folder = tmp_path / "store" / "features" / "mine"
    folder.mkdir(parents=True)
    (folder / "lines").write_bytes(b"".join(LINES))
    return Store(tmp_path / "store")


def read(store: Store, after: int = 0, wanted: bytes = b"", **bounds: int) -> Lines:
    most = {"most": 1000, "most_bytes": 1 << 20, "most_read": 1 << 20, **bounds}
    with open_file(store, "features", "mine", "lines") as file:
        return read_lines(file, after, lambda line: wanted in line, **most)


@pytest.mark.parametrize("bounds", [{"most": 7}, {"most_bytes": 50}, {"most_read": 50}])
def test_pages_that_follow_one_another_have_each_line_once(store: Store, bounds: dict[str, int]) -> None:
    found, after, pages = [], 0, 0
    while after is not None:
        page = read(store, after, **bounds)
        found += page.lines
        after, pages = page.next, pages + 1
        assert len(page.lines) <= 8
    assert (found, pages > 10) == (LINES, True)


def test_a_page_of_a_rare_word_ends_after_a_bounded_number_of_bytes_and_says_where_to_read_on(store: Store) -> None:
    first = read(store, wanted=b"line 99", most_read=100)
    assert (first.lines, first.next is not None and first.next < 120) == ((), True)
    assert read(store, wanted=b"line 99").lines == (LINES[99],)


@pytest.mark.parametrize("after", [1, 8, 10**15, -1])
def test_a_position_at_which_no_line_begins_is_refused(store: Store, after: int) -> None:
    with pytest.raises(UserError, match="No line begins at"):
        read(store, after)


def test_a_line_without_an_end_is_the_last_and_one_that_is_too_long_is_skipped(store: Store) -> None:
    path = store.root / "features" / "mine" / "lines"
    path.write_bytes(b"a\n" + b"x" * (2 * LONGEST_LINE + 5) + b"\n" + b"b\n" + b"end")
    assert read(store, most_read=1 << 30) == Lines((b"a\n", b"b\n", b"end"), None, 1)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_out_of_the_store_is_not_followed(store: Store, tmp_path: Path, what: str) -> None:
    secret = tmp_path / "outside" / "lines"
    secret.parent.mkdir()
    secret.write_text("secret")
    folder = store.root / "features" / "mine"
    (folder / "lines").unlink()
    if what == "file":
        (folder / "lines").symlink_to(secret)
    else:
        folder.rmdir()
        folder.symlink_to(secret.parent)
    with pytest.raises(UserError, match="leads out of the store"):
        read(store)


def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_refused_at_once(store: Store) -> None:
    path = store.root / "features" / "mine" / "lines"
    path.unlink()
    os.mkfifo(path)
    with deadline(10, "reading a pipe"), pytest.raises(UserError, match="not a regular file"):
        read(store)
    path.unlink()
    path.mkdir()
    with pytest.raises((UserError, OSError)):
        read(store)


@pytest.mark.parametrize("name", ["..", "a/b", "../features/mine", ""])
def test_a_name_leads_nowhere_else(store: Store, name: str) -> None:
    with pytest.raises(UserError, match="cannot be the name"), open_file(store, "features", name, "lines"):
        pass
