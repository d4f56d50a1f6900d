"""Profiles: from a TOML rule and the queue table to the workers it means. Pure but for reading the file.

A profile says "one" worker for all queues or one "per-queue", and may keep to queues of some resources; so a new queue
in the table never touches a profile.
"""

from __future__ import annotations

import itertools
import re
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from tasks.places import config_dir
from tasks.problem import Problem
from tasks.queues import QUEUE_NAMES, QUEUES, Queue, Resource, queue_named

#: The name of a worker that serves every queue of its profile.
ALL_QUEUES = "all-queues"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ARRANGEMENTS = ("one", "per-queue")
_NUMBERS = ("slots", "gpu_jobs")
_KEYS = ("summary", "workers", "resources", *_NUMBERS)


@dataclass(frozen=True)
class WorkerSpec:
    """One worker to run: its name without the host, its queues in their rank, how many jobs at once, and its bounds.

    A slot is replaced after `max_tasks_per_child` jobs, and after a job that leaves it with more than
    `max_memory_per_child` KiB (Celery's own options); a job's own processes may hold `job_memory_gb`. None is no bound.
    `gpu_jobs` jobs may share a GPU.
    """

    name: str
    queues: tuple[str, ...]
    slots: int
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None
    job_memory_gb: float | None = None
    gpu_jobs: int = 1

    @classmethod
    def from_told(cls, told: dict[str, Any]) -> WorkerSpec:
        """A spec from what JSON carried."""
        return cls(**{**told, "queues": tuple(told["queues"])})

    def argv(self) -> list[str]:
        """The command line of the worker; `-P` keeps a stranger's `tasks.py` out."""
        worker = [sys.executable, "-P", "-m", "tasks.worker"]
        flags: dict[str, Any] = {
            "--name": self.name,
            "--queues": ",".join(self.queues),
            "--slots": self.slots,
            "--max-tasks-per-child": self.max_tasks_per_child,
            "--max-memory-per-child": self.max_memory_per_child,
            "--job-memory-gb": self.job_memory_gb,
            "--gpu-jobs": self.gpu_jobs,
        }
        return [*worker, *(str(word) for pair in flags.items() if pair[1] is not None for word in pair)]


def worker_for(queues: Sequence[str]) -> WorkerSpec:
    """One worker for these queues, in the order of their rank. Problem for a name that is no queue's."""
    if unknown := [name for name in queues if name not in QUEUE_NAMES]:
        raise Problem(f"There is no queue {unknown[0]!r}.", f"Queues: {', '.join(QUEUE_NAMES)}")
    rows = [queue for queue in QUEUES if queue.name in queues]
    name = rows[0].worker if len(rows) == 1 else ALL_QUEUES
    return WorkerSpec(name, tuple(queue.name for queue in rows), max(queue.concurrency for queue in rows))


def named(spec: WorkerSpec, name: str) -> WorkerSpec:
    """The same worker by another name. Problem for one that could not be a file's and a Celery node's."""
    if not _NAME.fullmatch(name):
        raise Problem(f"{name!r} cannot be a worker's name.", "Use letters, digits, - and _")
    return replace(spec, name=name)


def bounded(spec: WorkerSpec, bounds: Mapping[str, Any]) -> WorkerSpec:
    """The same worker with those of these bounds that are not None."""
    return replace(spec, **{name: value for name, value in bounds.items() if value is not None})


@dataclass(frozen=True)
class Scaling:
    """Workers to start, and names of those to let go."""

    more: tuple[WorkerSpec, ...] = ()
    fewer: tuple[str, ...] = ()


def scaled(queue: str, count: int, running: Sequence[WorkerSpec], busy: Collection[str]) -> Scaling:
    """How to have `count` workers for one queue alone, given those that run, oldest first, and the names of busy ones.

    New ones are like the oldest there is. Idle ones go before busy ones, new ones before old ones.
    """
    own = [spec for spec in running if spec.queues == (queue,)]
    if count < len(own):
        newest_first = own[::-1]
        by_use = sorted(newest_first, key=lambda spec: spec.name in busy)
        return Scaling(fewer=tuple(spec.name for spec in by_use[: len(own) - count]))
    row = queue_named(queue)
    pattern = own[0] if own else WorkerSpec(row.worker, (queue,), row.concurrency)
    taken = {spec.name for spec in running}
    names = (row.worker if number == 1 else f"{row.worker}-{number}" for number in itertools.count(1))
    free = (name for name in names if name not in taken)
    return Scaling(more=tuple(replace(pattern, name=next(free)) for _ in range(count - len(own))))


@dataclass(frozen=True)
class Profile:
    """A rule for which workers to run.

    `workers` is "one" or "per-queue"; `slots` None is what the table says; `gpu_jobs` is how many jobs may share a GPU.
    """

    name: str
    summary: str
    workers: str
    slots: int | None = None
    resources: tuple[str, ...] = tuple(Resource)
    gpu_jobs: int = 1


def workers_of(profile: Profile, queues: Sequence[Queue] = QUEUES) -> tuple[WorkerSpec, ...]:
    """The workers that a profile means for these queues."""
    served = [queue for queue in queues if queue.resource in profile.resources]
    if profile.workers == "per-queue":
        return tuple(
            WorkerSpec(queue.worker, (queue.name,), profile.slots or queue.concurrency, gpu_jobs=profile.gpu_jobs)
            for queue in served
        )
    slots = profile.slots or max(queue.concurrency for queue in served)
    return (WorkerSpec(ALL_QUEUES, tuple(queue.name for queue in served), slots, gpu_jobs=profile.gpu_jobs),)


def profile_names() -> list[str]:
    """All profiles there are: the product's, then the user's own."""
    own = sorted(path.stem for path in _user_folder().glob("*.toml"))
    built_in = sorted(path.name.removesuffix(".toml") for path in _built_in().iterdir() if path.name.endswith(".toml"))
    return list(dict.fromkeys([*built_in, *own]))


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
    if fault := next(_faults(told), None):
        raise Problem(f"The profile {name} is not sound: {fault}.", f"Mend {path}")
    return Profile(name, **{**told, "summary": told.get("summary", ""), "resources": _resources(told)})


def _faults(told: dict[str, Any]) -> Iterator[str]:
    for key in told:
        if key not in _KEYS:
            yield f"{key!r} is none of {', '.join(_KEYS)}"
    if told.get("workers") not in _ARRANGEMENTS:
        yield f"workers must be one of {', '.join(_ARRANGEMENTS)}"
    for key in _NUMBERS:
        if key in told and (type(told[key]) is not int or told[key] < 1):
            yield f"{key} must be a whole number from 1"
    if not isinstance(told.get("summary", ""), str):
        yield "summary must be text"
    wanted = told.get("resources", [*Resource])
    if not isinstance(wanted, list) or not wanted or not all(word in [*Resource] for word in wanted):
        yield f"resources must be a list of some of {', '.join(Resource)}"
    elif not any(queue.resource in wanted for queue in QUEUES):
        yield f"no queue needs {' or '.join(wanted)}"


def _resources(told: dict[str, Any]) -> tuple[str, ...]:
    return tuple(told.get("resources", Resource))


def _built_in() -> Traversable:
    return files("mistudio_cli.profiles")


def _user_folder() -> Path:
    return config_dir() / "profiles"
