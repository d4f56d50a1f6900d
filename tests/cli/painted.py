"""What `top` shows of a snapshot, without a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mistudio_cli.monitor.snapshot import Snapshot
from mistudio_cli.top.frame.paint import Frame, paint
from mistudio_cli.top.reading import parts_of
from mistudio_cli.top.view import View
from tasks.jobs.record import Job


def frame_of(
    seen: Snapshot,
    width: int = 120,
    height: int = 40,
    view: View | None = None,
    *,
    waiting: Mapping[str, tuple[Job, ...]] | None = None,
    age_s: float = 0.0,
) -> Frame:
    """The frame for a snapshot that is so old."""
    parts = parts_of(seen if waiting is None else replace(seen, queued=waiting), 0.0).at(age_s)
    return paint(parts, width, height, view or View())


def painted(seen: Snapshot, width: int = 120, height: int = 40) -> list[str]:
    """The lines of that frame as plain text."""
    return frame_of(seen, width, height).text
