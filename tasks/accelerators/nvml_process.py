"""Queries the process that reads NVML, with a timeout.

The process starts at the first query, and only where there is a driver's library. A reply that came too late is
discarded before the next query; a driver that crashes the process is reported as such, and queried again.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tasks.accelerators.devices import NO_DRIVER, UNREADABLE, Device, Devices, GpuProcess

_LIBRARY = "libnvidia-ml.so.1"
_CHUNK = 1 << 16


def read(patience_s: float, instances: Sequence[str] = ()) -> Devices:
    """Read all devices that NVML reports, or these MIG instances. Never raises."""
    return _READER.read(patience_s, instances)


def close() -> None:
    """Let the process that reads go; the next question starts another."""
    _READER.close()


class _Reader:
    """The process and what it was asked. A forked child has one of its own."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._is_asked, self._received, self._owner = False, b"", os.getpid()

    def read(self, patience_s: float, instances: Sequence[str] = ()) -> Devices:
        with self._mutex:
            if self._owner != os.getpid():
                self._forget()
            if self._process is None and not _has_driver():
                return Devices(reason=NO_DRIVER)
            try:
                line = self._ask(json.dumps([*instances]), time.monotonic() + patience_s)
            except OSError as error:
                return self._broken(str(error))
            if line is None:
                return Devices(reason=f"{UNREADABLE}NVML does not answer")
            return _devices(json.loads(line)) if line else self._broken("the driver ended the process that asked it")

    def close(self) -> None:
        with self._mutex:
            self._end()

    def _ask(self, question: str, deadline: float) -> bytes | None:
        """The next line of answer; None when none comes in time, an empty one when none will come."""
        process = self._process = self._process or _start()
        assert process.stdin is not None
        assert process.stdout is not None
        if not self._is_asked:
            process.stdin.write(question.encode() + b"\n")
            process.stdin.flush()
            self._is_asked = True
        while b"\n" not in self._received:
            if not _is_readable(process.stdout.fileno(), deadline - time.monotonic()):
                return None
            chunk = os.read(process.stdout.fileno(), _CHUNK)
            if not chunk:
                return b""
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        self._is_asked = False
        return line

    def _broken(self, why: str) -> Devices:
        self._end()
        return Devices(reason=f"{UNREADABLE}{why}")

    def _end(self) -> None:
        process, is_own = self._process, self._owner == os.getpid()
        self._forget()
        if process is None or not is_own:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # the query may still be buffered
                    pipe.close()
        with suppress(subprocess.TimeoutExpired):  # one that hangs in the driver dies when that lets it
            process.wait(0.2)


_READER = _Reader()
atexit.register(_READER.close)


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tasks.accelerators.nvml"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )


def _has_driver() -> bool:
    """Whether there is a driver's library; loading it asks the driver nothing."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return False
    return True


def _is_readable(number: int, seconds: float) -> bool:
    look = select.poll()
    look.register(number, select.POLLIN)
    return bool(look.poll(max(0.0, seconds) * 1000))


def _devices(reply: dict[str, Any]) -> Devices:
    return Devices(tuple(_device(device) for device in reply["devices"]), reply["reason"])


def _device(fields: dict[str, Any]) -> Device:
    held, reasons = fields["processes"], fields["throttle_reasons"]
    processes = None if held is None else tuple(GpuProcess(**one) for one in held)
    throttle_reasons = None if reasons is None else tuple(reasons)
    return Device(**{**fields, "processes": processes, "throttle_reasons": throttle_reasons})
