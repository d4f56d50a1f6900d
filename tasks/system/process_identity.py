"""The identity of a process: its pid and its start time, because a pid can be reused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil  # slow to import, and not needed by commands that only ask


def describe(pid: int) -> dict[str, Any]:
    """What to write down of a living process to recognise it later. OSError or psutil.Error when it is gone."""
    return {"pid": pid, "birth": _birth(pid)}


def find_process(identity: dict[str, Any]) -> psutil.Process | None:
    """The process that was written down; None when it has ended, whoever has its pid now."""
    import psutil

    try:
        process = psutil.Process(int(identity["pid"]))
        same = _birth(process.pid) == identity["birth"]
    except (KeyError, TypeError, ValueError, OSError, psutil.Error):
        return None
    return process if same and is_alive(process) else None


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs: a zombie that nobody has reaped yet does not, and a recycled pid is another's."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _birth(pid: int) -> str:
    """When a process began, in words that setting the clock does not change where the system has such."""
    if sys.platform == "linux":
        ticks_since_boot = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {ticks_since_boot}"
    import psutil

    return str(psutil.Process(pid).create_time())
