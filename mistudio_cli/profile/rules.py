"""Profiles: from a TOML rule and the queue table to the workers it means. Pure but for finding and reading the files.

A profile says "one" worker for all queues or one "per-queue", and may keep to queues of some resources; so a new queue
in the table never touches a profile. It names a queue only where that one's worker differs from the rest.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from mistudio_cli.profile.profile_keys import QUEUES_KEY, ProfileFault, faults_of, near
from tasks.errors import UserError
from tasks.parsing.documents import Malformed, read_toml
from tasks.paths import config_dir
from tasks.queues import QUEUE_NAMES, QUEUES, Queue, Resource, queue_named

#: The name of a worker that serves every queue there is, or every one of its profile.
ALL_QUEUES = "all-queues"

#: Logs beside the workers', in the same folder.
OTHER_LOGS = ("supervisor", "redis")

#: What runs when nothing else is said.
DEFAULT_PROFILE = "minimal"

#: More of them for one queue than any machine has cores: a slip of the fingers.
MOST_WORKERS = 999

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

#: What a worker has from its profile as it stands there.
_BOUNDS = ("max_tasks_per_child", "max_memory_per_child", "job_memory_gb")

#: The same, but never different for one queue alone.
_SHARING = ("gpu_jobs", "cpu_jobs")


@dataclass(frozen=True)
class WorkerSpec:
    """One worker to run: its name without the host, its queues in their rank, how many jobs at once, and its bounds.

    A slot is replaced after `max_tasks_per_child` jobs, and after a job that leaves it with more than
    `max_memory_per_child` KiB (Celery's own options); a job's own processes may hold `job_memory_gb`. None is no bound.
    `gpu_jobs` jobs may share a GPU, `cpu_jobs` of the same queues the processor.
    """

    name: str
    queues: tuple[str, ...]
    slots: int
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None
    job_memory_gb: float | None = None
    gpu_jobs: int = 1
    cpu_jobs: int | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> WorkerSpec:
        """A spec from what JSON carried."""
        return cls(**{**values, "queues": tuple(values["queues"])})

    def argv(self) -> list[str]:
        """The command line of the worker; `-P` keeps a foreign `tasks.py` out."""
        worker = [sys.executable, "-P", "-m", "tasks.worker"]
        flags: dict[str, Any] = {
            "--name": self.name,
            "--queues": ",".join(self.queues),
            "--slots": self.slots,
            "--max-tasks-per-child": self.max_tasks_per_child,
            "--max-memory-per-child": self.max_memory_per_child,
            "--job-memory-gb": self.job_memory_gb,
            "--gpu-jobs": self.gpu_jobs,
            "--cpu-jobs": self.cpu_jobs,
        }
        return [*worker, *(str(word) for pair in flags.items() if pair[1] is not None for word in pair)]


def worker_for(queues: Sequence[str]) -> WorkerSpec:
    """One worker for these queues, in the order of their rank. UserError for a name that is no queue's."""
    if unknown := [name for name in queues if name not in QUEUE_NAMES]:
        raise UserError(f"There is no queue {unknown[0]!r}.", f"Queues: {', '.join(QUEUE_NAMES)}")
    rows = [queue for queue in QUEUES if queue.name in queues]
    return WorkerSpec(_name_for(rows), tuple(queue.name for queue in rows), max(queue.concurrency for queue in rows))


def _name_for(queues: Sequence[Queue]) -> str:
    """The name of one worker for these queues, so that workers for others can run beside it."""
    if len(queues) == len(QUEUES):
        return ALL_QUEUES
    first, *others = queues
    name = "-".join([first.worker, *(queue.name.replace("_", "-") for queue in others)])
    return name if _NAME.fullmatch(name) else f"{first.worker}-and-{len(others)}-more"


def named(spec: WorkerSpec, name: str) -> WorkerSpec:
    """The same worker by another name. UserError for one that could not be a file's and a Celery node's."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be a worker's name.", "Use letters, digits, - and _")
    if name in OTHER_LOGS:
        raise UserError(f"{name!r} cannot be a worker's name: it is that of another log.", "Choose another --name")
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

    New ones are like the oldest there is. Idle ones go before busy ones, new ones before old ones. UserError for a
    count that is none.
    """
    if type(count) is not int or not 0 <= count <= MOST_WORKERS:
        raise UserError(f"{count!r} workers are not between 0 and {MOST_WORKERS}.", f"For example: {queue}=2")
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
class Override:
    """Where the worker of one queue differs from the rest of its profile; None is as the rest."""

    queue: str
    slots: int | None = None
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None
    job_memory_gb: float | None = None


@dataclass(frozen=True)
class Profile:
    """A rule for which workers to run.

    `workers` is "one" or "per-queue"; `slots` None is what the table says; the rest is as in WorkerSpec.
    """

    name: str
    summary: str
    workers: str
    slots: int | None = None
    resources: tuple[str, ...] = tuple(Resource)
    gpu_jobs: int = 1
    cpu_jobs: int | None = None
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None
    job_memory_gb: float | None = None
    queues: tuple[Override, ...] = ()


@dataclass(frozen=True)
class ProfileFile:
    """Where a profile is written.

    `origin` is "built-in", "own" (in the configuration folder) or "file" (anywhere); one that `shadows` is the user's
    own in the place of a built-in one.
    """

    name: str
    path: Path | Traversable
    origin: str
    shadows: bool = False


@dataclass(frozen=True)
class ReadProfile:
    """A profile's file as it was read: the profile, or all that keeps it from being one."""

    file: ProfileFile
    profile: Profile | None
    faults: tuple[ProfileFault, ...] = ()


def workers_of(profile: Profile, queues: Sequence[Queue] = QUEUES) -> tuple[WorkerSpec, ...]:
    """The workers that a profile means for these queues."""
    served = [queue for queue in queues if queue.resource in profile.resources]
    if profile.workers == "per-queue":
        return tuple(_own_worker(profile, queue) for queue in served)
    slots = profile.slots or max(queue.concurrency for queue in served)
    bounds = {name: getattr(profile, name) for name in (*_BOUNDS, *_SHARING)}
    return (WorkerSpec(ALL_QUEUES, tuple(queue.name for queue in served), slots, **bounds),)


def _own_worker(profile: Profile, queue: Queue) -> WorkerSpec:
    own = next((override for override in profile.queues if override.queue == queue.name), Override(queue.name))
    bounds = {name: getattr(own, name) or getattr(profile, name) for name in _BOUNDS}
    sharing = {name: getattr(profile, name) for name in _SHARING}
    slots = own.slots or profile.slots or queue.concurrency
    return WorkerSpec(queue.worker, (queue.name,), slots, **sharing, **bounds)


def profile_files() -> list[ProfileFile]:
    """The files of all profiles there are: the product's, then the user's own; an own one wins over the product's."""
    own, built_in = _profiles_in(user_folder()), _profiles_in(files("mistudio_cli.profiles"))
    return [
        ProfileFile(name, own[name], "own", shadows=name in built_in)
        if name in own
        else ProfileFile(name, built_in[name], "built-in")
        for name in dict.fromkeys([*built_in, *own])
    ]


def profile_names() -> list[str]:
    """All profiles there are: the product's, then the user's own."""
    return [file.name for file in profile_files()]


def file_of(name: str) -> ProfileFile:
    """The file of the profile of that name. UserError when there is none; a path is no name."""
    found = profile_files()
    if name in (names := [file.name for file in found]):
        return found[names.index(name)]
    if "/" in name or name.endswith(".toml"):
        raise UserError(f"A profile has a name, and {name!r} is a path.", f"Put the file into {user_folder()}")
    raise UserError(f"There is no profile {name!r}.", f"{near(name, names)}Profiles: {', '.join(names)}")


def read_profile(file: ProfileFile) -> ReadProfile:
    """What a file says; never raises for what is wrong in it."""
    try:
        document = read_toml(file.path)
    except OSError as error:
        return ReadProfile(file, None, (ProfileFault(f"it cannot be read: {error.strerror}", "Fix or remove it"),))
    except Malformed as malformed:
        where = "" if malformed.line is None else f"line {malformed.line}: "
        hint = "See what a profile looks like: mistudio profiles export minimal"
        return ReadProfile(file, None, (ProfileFault(f"{where}{malformed.reason}", hint),))
    if faults := tuple(faults_of(document)):
        return ReadProfile(file, None, faults)
    overrides = tuple(Override(queue, **own) for queue, own in document.pop(QUEUES_KEY, {}).items())
    resources = tuple(document.pop("resources", Resource))
    return ReadProfile(file, Profile(file.name, **{"summary": "", **document}, resources=resources, queues=overrides))


def load_profile(name: str) -> Profile:
    """The profile of that name, the user's own before the product's; UserError if it is missing or invalid."""
    read = read_profile(file_of(name))
    if read.profile is None:
        first, *others = read.faults
        more = f"; see all {len(read.faults)} faults with: {validating(name)}" if others else ""
        raise UserError(f"{read.file.path}: {first.what}.", f"{first.hint}{more}")
    return read.profile


def validating(name: str) -> str:
    """The command that lists the faults of a profile; its name is that of a file, and may be any."""
    import shlex

    return f"mistudio profiles validate {'-- ' if name.startswith('-') else ''}{shlex.quote(name)}"


def user_folder() -> Path:
    """The folder of the user's own profiles; it need not exist."""
    return config_dir() / "profiles"


def _profiles_in(folder: Path | Traversable) -> dict[str, Path | Traversable]:
    """The profiles of a folder by name; what an editor hides there is none."""
    found = folder.iterdir() if folder.is_dir() else ()
    named = {path.name.removesuffix(".toml"): path for path in found if path.name.endswith(".toml")}
    return {name: named[name] for name in sorted(named) if not name.startswith(".") and name}
