"""The command line of one home, as a person types it, and the questions a test asks of what becomes of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Any

from tasks.jobs.record import Job
from tests.conftest import PATIENCE_S, until
from tests.supervisor.conftest import MISTUDIO, Home

#: What is said where a machine is smaller than the workers want, as this one may be.
TOO_SMALL = re.compile(r"^.* needs [0-9]+ (core|GB|GPU).*\n", re.MULTILINE)


class Cli:
    """The command line of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.environment = {**os.environ, "MISTUDIO_HOME": str(home.places.home), "NO_COLOR": "1"}

    def begin(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        pipe, variables = subprocess.PIPE, {**self.environment, **environment}
        return subprocess.Popen([MISTUDIO, *words], env=variables, stdout=pipe, stderr=pipe, text=True)

    def __call__(self, words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [MISTUDIO, *words.split()],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            stdin=subprocess.DEVNULL,
        )
        done.stderr = TOO_SMALL.sub("", done.stderr)
        return done

    def read_json(self, words: str) -> Any:
        done = self(words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def nap(self, ticks: int) -> str:
        """Submit a job of that length; its id."""
        return self.read_json(f"submit nap --name nap-{ticks} --ticks {ticks} --json")["id"]

    def long_nap(self) -> str:
        """Submit a job that ends when `wake` is called, however slow the machine is, and not before; its id."""
        files = f"--until {self.home.places.home}/enough --marks {self.home.places.home}/marks"
        return self.read_json(f"submit nap --name long --ticks 100000 {files} --json")["id"]

    def wake(self) -> None:
        """Let it end."""
        (self.home.places.home / "enough").touch()

    def ticks(self, attempt: int) -> list[int]:
        """The ticks that an attempt at it has begun so far."""
        marks = (line.split() for line in (self.home.places.home / "marks").read_text().splitlines())
        return [int(tick) for made_by, _, tick in marks if int(made_by) == attempt]

    def job(self, job_id: str) -> Job:
        return self.home.job(job_id)

    def under_way(self, job_id: str) -> None:
        until(lambda: (result := self.job(job_id).progress) and result.done > 0, "the job to be under way")

    def ended(self, job_id: str) -> Job:
        until(lambda: self.job(job_id).state.ended, f"{job_id} to end")
        return self.job(job_id)
