"""The Redis of a home whose supervisor runs, stopped for as long as a test likes."""

from __future__ import annotations

import re
import signal
import time

import psutil

from mistudio_cli.supervisor.redis_keeper import SILENT_UNTIL_KILLED_S
from tests.conftest import until
from tests.supervisor.conftest import Home


class StoppedRedis:
    """Stopped inside a `with` block. Its supervisor starts another in the place of one that is silent for too long."""

    def __init__(self, home: Home) -> None:
        self._home, self.server = home, home.redis

    def __enter__(self) -> StoppedRedis:
        self._stop()
        return self

    def __exit__(self, *_: object) -> None:
        if self.server.is_running():
            self.server.send_signal(signal.SIGCONT)

    def keep_stopped(self) -> None:
        """Let it answer its supervisor if it has been silent for a while, and stop it again."""
        if time.monotonic() - self._stopped_at < SILENT_UNTIL_KILLED_S / 4:
            return
        self.server.send_signal(signal.SIGCONT)
        before = self._pings()
        until(lambda: self._pings() > before + 1, "its supervisor to ask again, which has an answer then")
        self._stop()

    def _stop(self) -> None:
        self.server.send_signal(signal.SIGSTOP)
        until(lambda: self.server.status() == psutil.STATUS_STOPPED)
        self._stopped_at = time.monotonic()

    def _pings(self) -> int:
        stats = self._home.redis_says("INFO", "commandstats")
        found = re.search(r"^cmdstat_ping:calls=(\d+)", stats, re.MULTILINE)
        return int(found[1]) if found else 0
