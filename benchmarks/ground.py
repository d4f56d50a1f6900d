"""What measurements stand on: temporary Redis servers and homes, ended with all that runs in them, and whole commands.

Nothing of the surroundings counts: no measured process sees the settings of whoever measures.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mistudio_cli import control, fleet, redis_server
from tasks.places import Places

MISTUDIO = str(Path(sys.executable).parent / "mistudio")
CELERY = str(Path(sys.executable).parent / "celery")
REPOSITORY = Path(__file__).parent.parent

_NOT_INHERITED = ("MISTUDIO_", "CELERY_", "PYTHON", "COLUMNS", "LINES")
_PATIENCE_S = 60.0


@contextmanager
def redis() -> Iterator[Places]:
    """A Redis server on a unix socket, with the options mistudio gives its own; its URL is `own_url` of the places."""
    with _folder() as places:
        server = redis_server.start(places)
        assert server is not None
        try:
            until(lambda: redis_server.answers(places), "Redis to answer")
            yield places
        finally:
            server.terminate()
            server.wait()


@contextmanager
def home() -> Iterator[Places]:
    """A home with nothing in it; what runs in it is ended with its supervisor, its Redis included."""
    with _folder() as places:
        try:
            yield places
        finally:
            with suppress(control.NotRunning):
                fleet.shutdown(places, lambda _: None, grace_s=0.0)


def environment(places: Places, **told: str) -> dict[str, str]:
    """The environment of a measured process of that home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    return {**kept, "MISTUDIO_HOME": str(places.home), "MISTUDIO_CONFIG_DIR": str(places.home / "config"), **told}


def seconds(command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> float:
    """Seconds from the start of a command to its end, as whoever typed it waits. RuntimeError when it fails."""
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=_PATIENCE_S)
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-500:]}")
    return took


def until(condition: object, what: str) -> None:
    """Wait for a condition, looking often. TimeoutError when it does not come true."""
    assert callable(condition)
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {_PATIENCE_S:g} s for {what}")
        time.sleep(0.01)


def median(values: Sequence[float]) -> float:
    """The median to three significant digits: more would be noise."""
    return float(f"{statistics.median(values):.3g}")


@contextmanager
def _folder() -> Iterator[Places]:
    """Places in a temporary folder with a short path: a unix socket's may have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="ms-"))
    try:
        yield Places(folder, folder / "store")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
