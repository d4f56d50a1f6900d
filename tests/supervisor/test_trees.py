"""What a tree of processes is said to use, held against processes whose use is known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from mistudio_cli.machine.process_trees import Use, read_uses
from tests.conftest import until

#: A worker with a slot in its own process group and a job in another one, which holds 100 MB and computes.
WORKER = """
import subprocess, sys
job = "held = bytearray(b'x') * 100_000_000; print('up', flush=True)\\nwhile True: pass"
subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])
subprocess.Popen([sys.executable, '-c', job], process_group=0)
import signal; signal.pause()
"""


@pytest.fixture
def worker() -> Iterator[psutil.Process]:
    started = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, process_group=0)
    assert started.stdout is not None
    assert started.stdout.readline() == b"up\n"
    worker = psutil.Process(started.pid)
    yield worker
    for process in [*worker.children(recursive=True), worker]:
        process.kill()
    started.wait()
    started.stdout.close()


def test_memory_is_shown_with_and_without_jobs_and_one_busy_core_is_about_a_hundred_percent(
    worker: psutil.Process,
) -> None:
    uses: list[Use] = []

    def is_busy() -> bool:
        """Whether its core is its own in a reading: others may have it, or hold up who reads."""
        uses.append(read_uses([worker.pid])[worker.pid])
        return uses[-1].cpu_percent is not None and 5 < uses[-1].cpu_percent < 130

    until(is_busy)
    for use in uses:
        assert use.jobs_pss_bytes is not None
        assert use.pss_bytes is not None
        assert 100e6 < use.jobs_pss_bytes < 140e6
        assert 1e6 < use.pss_bytes - use.jobs_pss_bytes < 60e6


def test_of_one_that_is_gone_nothing_is_known(worker: psutil.Process) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert read_uses([gone.pid]) == {gone.pid: Use()}
