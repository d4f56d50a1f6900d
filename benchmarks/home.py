"""A home of its own, in which is done what a user does: by commands, and by its server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MISTUDIO = str(Path(sys.executable).parent / "mistudio")


class Home:
    """A home of its own: types what a user types."""

    def __init__(self, folder: Path) -> None:
        own = {"MISTUDIO_HOME": str(folder), "MISTUDIO_CONFIG_DIR": str(folder / "config"), "HF_HUB_OFFLINE": "1"}
        self.environment = {**os.environ, **own}

    def type(self, *words: str) -> str:
        """What a command prints on standard output."""
        return subprocess.run(
            [MISTUDIO, *words], env=self.environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def submit(self, kind: str, *words: str) -> dict[str, Any]:
        """The result of a job that is waited for."""
        job = json.loads(self.type("submit", kind, *words, "--json"))
        self.type("jobs", "wait", job["id"])
        result: dict[str, Any] = json.loads(self.type("jobs", "show", job["id"], "--json"))["result"]
        return result

    def download_text(self, name: str, most_bytes: int) -> None:
        """Make a dataset of that name of the Python standard library's text."""
        source = sysconfig.get_paths()["stdlib"]
        self.submit("download", source, "--pattern", "*.py", "--limit-bytes", str(most_bytes), "--name", name)


@contextmanager
def home_with_workers(profile: str = "minimal") -> Iterator[Home]:
    """A home in which workers run by that profile; they and its folder are gone afterwards, whatever still runs."""
    folder = Path(tempfile.mkdtemp(prefix="ms-"))
    home = Home(folder)
    try:
        home.type("workers", "start", profile)
        yield home
    finally:
        home.type("workers", "stop", "--all", "--now")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def served(environment: Mapping[str, str], *flags: str) -> Iterator[tuple[int, int]]:
    """`mistudio serve` on a free port, which answers by now: the port and the pid."""
    command = [MISTUDIO, "serve", "--port", "0", *flags]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = re.search(r"http://[\d.]+:(\d+)", process.stderr.readline())
        assert found, process.stderr.read()
        yield int(found[1]), process.pid
    finally:
        process.terminate()
        process.communicate(timeout=30)


def real_model() -> str:
    """The folder of the model that measurements on a real one use. SystemExit where none is named."""
    model = os.environ.get("MISTUDIO_REAL_MODEL")
    if model is None:
        raise SystemExit("Set MISTUDIO_REAL_MODEL to a model's folder.")
    return model
