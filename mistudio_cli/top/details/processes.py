"""Processes for the details: those of a job on this host, and those on a GPU with their job or user."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from mistudio_cli.terminal.humanize import UNKNOWN, duration, size

if TYPE_CHECKING:
    import psutil

    from tasks.accelerators.card_processes import CardProcess
    from tasks.jobs.record import Job


def describe_job_processes(job: Job) -> list[str]:
    """Pid, memory, CPU time and command of each process of a running job; none of a job on another host."""
    import psutil

    from tasks.accelerators.card_processes import job_of

    _, _, host = (job.worker or "").partition("@")
    if not job.worker_pid or host != socket.gethostname():
        return []
    lines = []
    try:
        below = psutil.Process(job.worker_pid).children(recursive=True)
    except psutil.Error:
        return []
    for process in below:
        if job_of(process.pid) == job.id:
            lines.append(_described(process))
    return lines


def describe_process(process: CardProcess) -> str:
    """A process on a GPU: what it holds there, whose it is, and what it is called."""
    command = process.command or "in another container, or gone"
    return f"pid {process.pid}  {size(process.memory)}  {process.job or process.user or UNKNOWN}  {command}"


def _described(process: psutil.Process) -> str:
    import psutil

    from tasks.accelerators.card_processes import shown_command

    try:
        times = process.cpu_times()
        used = f"{size(process.memory_info().rss)}  CPU {duration(times.user + times.system)}"
        return f"pid {process.pid}  {used}  {shown_command(process.cmdline())}"
    except psutil.Error:
        return f"pid {process.pid}  gone"
