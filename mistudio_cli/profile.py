"""Profiles: from a TOML rule and the queue table to the workers it means. Pure but for reading the file.

A profile says "one" worker for all queues or one "per-queue", and may keep to queues of some resources; so a new queue
in the table never touches a profile.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from tasks.places import config_dir
from tasks.problem import Problem
from tasks.queues import QUEUES, Queue, Resource

#: The name of a worker that serves every queue of its profile.
ALL_QUEUES = "all-queues"

_ARRANGEMENTS = ("one", "per-queue")


@dataclass(frozen=True)
class WorkerSpec:
    """One worker to run: its name without the host, its queues in their rank, how many jobs at once."""

    name: str
    queues: tuple[str, ...]
    slots: int

    @property
    def argv(self) -> list[str]:
        """The command line of the worker; `-P` keeps a stranger's `tasks.py` out."""
        worker = [sys.executable, "-P", "-m", "tasks.worker"]
        return [*worker, "--name", self.name, "--queues", ",".join(self.queues), "--slots", str(self.slots)]


@dataclass(frozen=True)
class Profile:
    """A rule for which workers to run."""

    name: str
    summary: str
    workers: str
    slots: int | None = None
    resources: tuple[str, ...] = tuple(Resource)
    gpu_jobs: int | None = None

    def specs(self, queues: Sequence[Queue] = QUEUES) -> tuple[WorkerSpec, ...]:
        """The workers this profile means for these queues."""
        served = [queue for queue in queues if queue.resource in self.resources]
        if self.workers == "one":
            slots = self.slots or max(queue.concurrency for queue in served)
            return (WorkerSpec(ALL_QUEUES, tuple(queue.name for queue in served), slots),)
        return tuple(WorkerSpec(q.worker, (q.name,), self.slots or q.concurrency) for q in served)


def profile_names() -> list[str]:
    """All profiles there are: the product's, then the user's own."""
    own = (path.stem for path in _user_folder().glob("*.toml")) if _user_folder().is_dir() else ()
    built_in = (path.name.removesuffix(".toml") for path in _built_in().iterdir() if path.name.endswith(".toml"))
    return list(dict.fromkeys([*sorted(built_in), *sorted(own)]))


def load_profile(name: str) -> Profile:
    """The profile of that name, the user's own before the product's; Problem when there is none or it is not sound."""
    if name not in profile_names():
        raise Problem(f"There is no profile {name!r}.", f"Profiles: {', '.join(profile_names())}")
    path: Path | Traversable = _user_folder() / f"{name}.toml"
    if not path.is_file():
        path = _built_in() / f"{name}.toml"
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Problem(f"The profile {name} cannot be read: {error}.", f"Mend {path}") from error
    return _checked(name, told, str(path))


def _checked(name: str, told: dict[str, Any], path: str) -> Profile:
    allowed = {"summary", "workers", "slots", "resources", "gpu_jobs"}
    faults = [f"it sets {key!r}" for key in sorted(set(told) - allowed)]
    if told.get("workers") not in _ARRANGEMENTS:
        faults.append(f"workers must be one of {', '.join(_ARRANGEMENTS)}")
    if bad := [str(word) for word in told.get("resources", ()) if word not in list(Resource)]:
        faults.append(f"there is no resource {bad[0]!r} ({', '.join(Resource)})")
    for key in ("slots", "gpu_jobs"):
        if key in told and (type(told[key]) is not int or told[key] < 1):
            faults.append(f"{key} must be a whole number from 1")
    if faults:
        raise Problem(f"The profile {name} is not sound: {faults[0]}.", f"Mend {path}")
    return Profile(
        name,
        str(told.get("summary", "")),
        told["workers"],
        told.get("slots"),
        tuple(told.get("resources", Resource)),
        told.get("gpu_jobs"),
    )


def _built_in() -> Traversable:
    return files("mistudio_cli.profiles")


def _user_folder() -> Path:
    return config_dir() / "profiles"
