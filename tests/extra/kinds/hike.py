"""`hike`: a `nap` that says where it resumes, so that what it had done is kept when it fails or is cancelled."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tasks.kinds import nap


def resume_point(workdir: Path) -> str | None:
    done = workdir / "ticks"
    return f"tick {done.read_text()}" if done.exists() else None


KIND = dataclasses.replace(
    nap.KIND, name="hike", summary="Hike", module=__name__, max_attempts=2, resume_point=resume_point
)
run = nap.run
