"""What may never come back is waited for so long and no longer."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mistudio_cli.machine.host import read_disk
from tasks.system.call_deadline import within
from tests.conftest import PATIENCE_S, deadline, until


@pytest.fixture
def dead_mount(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """A disk whose usage cannot be read until the server is back."""
    back, usage = threading.Event(), shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: back.wait() and usage(path))
    yield back.set
    back.set()


def test_what_is_returned_or_raised_in_time_is_the_callers() -> None:
    assert within(PATIENCE_S, "a sum", lambda: 1 + 1) == 2
    with pytest.raises(ZeroDivisionError):
        within(PATIENCE_S, "a quotient", lambda: 1 // 0)


def test_a_disk_that_does_not_answer_is_an_error_in_time_and_is_not_piled_up_on(
    dead_mount: Callable[..., Any], tmp_path: Path
) -> None:
    before = set(threading.enumerate())
    with pytest.raises(TimeoutError, match=f"the disk of {tmp_path} does not answer within 0.2 s"):
        read_disk(tmp_path, 0.2)
    (hanging,) = set(threading.enumerate()) - before
    with (
        deadline(PATIENCE_S, "the second try"),
        pytest.raises(TimeoutError, match=f"disk of {tmp_path} does not answer$"),
    ):
        read_disk(tmp_path, 2 * PATIENCE_S)
    assert set(threading.enumerate()) - before == {hanging}
    dead_mount()
    until(lambda: not hanging.is_alive(), "the first try to end")
    assert read_disk(tmp_path, PATIENCE_S).total > 0
