"""What may never come back is waited for so long and no longer."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mistudio_cli.machine.host import read_disk
from tasks.system.call_deadline import within
from tests.conftest import until


@pytest.fixture
def dead_mount(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """A disk whose usage cannot be read until the server is back."""
    back, usage = threading.Event(), shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: back.wait(60) and usage(path))
    yield back.set
    back.set()


def test_what_is_returned_or_raised_in_time_is_the_callers() -> None:
    assert within(5, "a sum", lambda: 1 + 1) == 2
    with pytest.raises(ZeroDivisionError):
        within(5, "a quotient", lambda: 1 // 0)


def test_a_disk_that_does_not_answer_is_an_error_in_time_and_is_not_piled_up_on(
    dead_mount: Callable[..., Any], tmp_path: Path
) -> None:
    threads = threading.active_count()
    began = time.monotonic()
    for sentence in ("does not answer within 2 s", "does not answer"):
        with pytest.raises(TimeoutError, match=f"the disk of {tmp_path} {sentence}"):
            read_disk(tmp_path, 2)
    assert time.monotonic() - began < 4
    assert threading.active_count() == threads + 1
    dead_mount()
    until(lambda: threading.active_count() == threads)
    assert read_disk(tmp_path, 30).total > 0
