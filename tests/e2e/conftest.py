"""A home driven as a person would: commands typed, files read, processes counted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import PATIENT, until
from tests.fixtures.processes import asked, kill

MISTUDIO = str(Path(sys.executable).parent / "mistudio")
CELERY = str(Path(sys.executable).parent / "celery")


class Home:
    """A MISTUDIO_HOME and what a person does with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MISTUDIO_", "CELERY_"))},
            "MISTUDIO_HOME": str(folder),
            "MISTUDIO_CONFIG_DIR": str(folder / "config"),
            "HF_HUB_OFFLINE": "1",
            **PATIENT,
        }

    def type(self, command: str, *, code: int | None = 0, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        """Type `mistudio COMMAND` and expect that exit code; None is any."""
        done = subprocess.run(
            [MISTUDIO, *command.split()],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert code in (None, done.returncode), (
            f"mistudio {command} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
        return done

    def read(self, command: str) -> Any:
        """The JSON that a reading command prints."""
        return json.loads(self.type(f"{command} --json").stdout)

    def job(self, job_id: str) -> dict[str, Any]:
        return self.read(f"jobs show {job_id}")

    def processes(self) -> list[psutil.Process]:
        """Every living process that belongs to this home."""
        return [process for process in psutil.process_iter() if self._owns(process)]

    def _owns(self, process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            mine = process.environ().get("MISTUDIO_HOME") == str(self.folder)
            return mine or str(self.folder) in " ".join(process.cmdline())
        except psutil.Error:
            return False

    def runner_of(self, job_id: str) -> psutil.Process:
        """The process that does a job's work, once there is one."""
        return self.process_where(lambda process: process.cmdline()[-2:] == ["tasks.runner", job_id], job_id)

    def process_where(self, is_meant: Callable[[psutil.Process], bool], what: str) -> psutil.Process:
        """The process of this home of which that is so, once there is one; others may end meanwhile."""

        def find() -> psutil.Process | None:
            return next((process for process in self.processes() if asked(process, is_meant)), None)

        found = until(find, f"a process: {what}")
        assert isinstance(found, psutil.Process)
        return found

    def kill_all(self) -> None:
        """Kill every process of this home, and those that they start meanwhile."""
        until(lambda: not kill(*self.processes()), "everything to end")

    def end(self) -> None:
        subprocess.run(
            [MISTUDIO, "workers", "stop", "--all", "--now"], env=self.environment, capture_output=True, timeout=600
        )
        self.kill_all()


def new_home() -> Home:
    return Home(Path(tempfile.mkdtemp(prefix="ms-")))


@pytest.fixture
def home() -> Iterator[Home]:
    """An empty home; whatever was started in it is ended."""
    made = new_home()
    yield made
    made.end()
    shutil.rmtree(made.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def lit_home() -> Iterator[tuple[Home, subprocess.CompletedProcess[str]]]:
    """A home in which `mistudio quickstart` has been typed once, and what it said."""
    made = new_home()
    try:
        yield made, made.type("quickstart", timeout_s=1500)
    finally:
        made.end()
        shutil.rmtree(made.folder, ignore_errors=True)
