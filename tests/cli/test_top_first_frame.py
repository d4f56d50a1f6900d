"""The first frame of `top`: shown before anything is read, and before what reads is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mistudio_cli.top.frame.first_frame import first_frame
from mistudio_cli.top.frame.text import plain, width
from mistudio_cli.top.view import View

#: What reads, judges and paints: a user sees the frame and can quit while this is imported.
LATER = (
    *("mistudio_cli.monitor.snapshot", "mistudio_cli.monitor.collector", "mistudio_cli.monitor.health.causes"),
    *("mistudio_cli.top.loop", "mistudio_cli.top.frame.paint", "mistudio_cli.top.reading", "mistudio_cli.views.tables"),
    *("tasks.ledger.overview", "tasks.accelerators.devices", "psutil", "rich"),
)


@pytest.mark.parametrize("size", [(1, 1), (20, 5), (80, 24), (300, 100)])
def test_it_fills_the_screen_and_no_more(size: tuple[int, int]) -> None:
    lines = first_frame(*size, View())
    assert len(lines) == size[1]
    assert all(width(line) <= size[0] for line in lines)


def test_it_says_that_it_reads_and_how_to_leave() -> None:
    first, *_, last = map(plain, first_frame(80, 24, View()))
    assert first == "reading …"
    assert "q quit" in last


def test_without_a_keyboard_it_names_no_keys() -> None:
    assert not any(plain(line) for line in first_frame(80, 24, View(has_keys=False))[1:])


def test_it_needs_nothing_that_reads() -> None:
    code = "import sys, mistudio_cli.commands.top, mistudio_cli.top.live; sys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "mistudio_cli.top.frame.first_frame" in loaded
    assert [name for name in LATER if name in loaded] == []
