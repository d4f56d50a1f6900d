"""What keeps a process of this machine from answering, and the command that fixes it."""

from __future__ import annotations

import socket
import struct

#: How long connecting to a local socket may take: its server need not answer for that.
_CONNECT_S = 0.2


def is_stopped(pid: int) -> bool:
    """Whether it is stopped, as by SIGSTOP or a debugger; False where that cannot be read."""
    import psutil  # slow to import, and not needed while everything answers

    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except (psutil.Error, ValueError):
        return False


def is_running(pid: int) -> bool:
    """Whether there is a process with that pid."""
    import psutil

    return psutil.pid_exists(pid)


def described(pid: int | None, fix: str) -> tuple[str, str]:
    """How to name a process that does not answer, such as " (pid 7, stopped)", and what helps; `fix` unless stopped."""
    if not pid:
        return "", fix
    if is_stopped(pid):
        return f" (pid {pid}, stopped)", f"kill -CONT {pid}"
    return f" (pid {pid})", fix


def pid_at_socket(path: str) -> int | None:
    """The process that listens at a unix socket, as the kernel names it; None where it cannot."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(_CONNECT_S)
            link.connect(path)
            credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return None
    return struct.unpack("3i", credentials)[0] or None
