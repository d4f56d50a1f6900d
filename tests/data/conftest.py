"""A home for running job kinds without Redis: the real store, the real `run`, a context that keeps what it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.jobs.kind import Stopped, kind_named
from tasks.storage.attempts import OUTPUT
from tasks.storage.store import Store
from tests.work_folders import next_attempt


@dataclass
class Home:
    """Runs kinds one after another as a worker would, and answers `prepare`'s questions."""

    root: Path
    store: Store
    live: set[str] = field(default_factory=set)
    ended: dict[str, float | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    said: list[tuple[str, int, int | None, str]] = field(default_factory=list)

    def manifest(self, family: str, name: str) -> dict[str, Any] | None:
        return self.store.find_manifest(family, name)

    def is_pending(self, family: str, name: str) -> bool:
        return False

    def path(self, family: str, name: str) -> Path:
        return self.store.path(family, name)

    def jobs_run_on_this_cpu(self) -> bool:
        return False

    def run(
        self, kind: str, name: str, *, stop_when: Callable[[int], bool] = lambda done: False, attempt: int = 1, **values
    ) -> dict[str, Any]:
        """Prepare, run what must come first, run, publish; the result."""
        declared = kind_named(kind)
        params, requests = declared.read_params(values), []
        if declared.prepare:
            params, requests = declared.prepare(params, self)
        for request in requests:
            if self.manifest(kind_named(request.kind).produces, request.name) is None:
                self.run(request.kind, request.name, **request.params)
        context = JobContext(self, name, attempt, stop_when)
        result = declared.run(params, context) or {}
        if declared.produces:
            manifest = {"job": context.job_id, "name": name, "kind": kind, "params": vars(params), "result": result}
            self.store.seal(context.output, manifest)
            self.store.publish(context.output, declared.produces, name)
        return result


class JobContext:
    """A `tasks.jobs.kind.Context` for one attempt; `stop_when` sees each `done` and may tell the job to stop."""

    def __init__(self, home: Home, name: str, attempt: int, stop_when: Callable[[int], bool]) -> None:
        self.job_id, self.name, self.attempt, self.device = f"job-{name}", name, attempt, "cpu"
        self.store, self.home = home.store, home.root
        self.workdir = next_attempt(home.store, self.job_id)
        self.output = self.workdir / OUTPUT
        self._home, self._stop_when, self._stopped = home, stop_when, False
        self.measured: list[tuple[int, dict[str, float]]] = []

    def metrics(self, at: int, values: Mapping[str, float | None]) -> None:
        self.measured.append((at, dict(values)))

    def progress(self, phase: str, done: int, total: int | None = None, unit: str = "") -> None:
        self._home.said.append((phase, done, total, unit))
        if self.stopping():
            raise Stopped
        self._stopped = self._stop_when(done)

    def stopping(self) -> bool:
        return self._stopped

    def note(self, sentence: str) -> None:
        self._home.notes.append(sentence)

    def live_jobs(self) -> set[str]:
        return self._home.live

    def seconds_since_end(self, job_ids: Sequence[str]) -> dict[str, float | None]:
        return {job_id: age_s for job_id, age_s in self._home.ended.items() if job_id in job_ids}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are no faster on two cores, and far slower when something else runs there."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", Store(tmp_path / "store"))
