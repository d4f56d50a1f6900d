"""What a kind of job is: its declaration, what its functions get, and the discovery of all kinds.

A job kind is one file in `tasks/kinds/` with a frozen dataclass of parameters, a `KIND` and a `run(params, context)`.
Parameters declared with `option` become command-line flags, help texts, REST fields and the saved manifest.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tasks.errors import UserError
from tasks.jobs.record import DEFAULT_ATTEMPTS
from tasks.jobs.stop_grace import LONGEST_S, STOP_GRACE_S
from tasks.parsing.parameters import by_parameter as by_parameter
from tasks.parsing.parameters import flag_of as flag_of
from tasks.parsing.parameters import types_of as types_of
from tasks.parsing.parameters import wrong_value
from tasks.queues import Limits, queue_named

if TYPE_CHECKING:
    from tasks.jobs.multi_result import Parts

#: How often a kind that resumes may lose its process before it is given up: it loses little each time.
RESUMABLE_ATTEMPTS = 10

#: How many metrics a job may have: each costs its record some bytes.
MAX_METRICS = 12


@dataclass(frozen=True)
class Request:
    """A job to submit before another one, unless what it makes is there or under way."""

    kind: str
    name: str
    params: dict[str, Any]


@dataclass(frozen=True)
class Estimate:
    """What a job will take, None where that is not known.

    `memory_bytes` is the most its processes hold, `disk_bytes` what its artifact and its checkpoints take,
    `gpu_memory_bytes` what it holds of a GPU when it gets one.
    """

    seconds: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    gpu_memory_bytes: int | None = None


class Catalog(Protocol):
    """What `prepare` may ask at submit time about artifacts, made or on their way."""

    def manifest(self, family: str, name: str) -> dict[str, Any] | None:
        """The manifest of a finished artifact, or None."""

    def is_pending(self, family: str, name: str) -> bool:
        """Whether an unfinished job will make that artifact."""

    def pending_params(self, family: str, name: str) -> tuple[str, dict[str, Any]]:
        """Kind and parameters of the job that will make an artifact that is coming."""

    def path(self, family: str, name: str) -> Path:
        """Where the artifact is or would be; UserError for a name that could leave the store."""

    def jobs_run_on_this_cpu(self) -> bool:
        """Whether this machine is known to be the one that runs the jobs, and to have no GPU."""


class Context(Protocol):
    """What `run` gets beside its parameters."""

    job_id: str
    name: str
    attempt: int
    device: str  # a torch device: "cpu" or "cuda"
    workdir: Path  # this attempt's own, with what earlier ones left: checkpoints go here, see tasks.storage.attempts
    output: Path  # an empty folder in it: what is in it when `run` returns becomes the artifact
    home: Path  # MISTUDIO_HOME
    store: Any  # tasks.storage.store.Store

    def progress(self, phase: str, done: int, total: int | None = None, unit: str = "") -> None:
        """Report progress. Cheap: call it every step. Raises Stopped once the job was asked to stop."""

    def metrics(self, at: int, values: Mapping[str, float | None]) -> None:
        """Measured at `at` (steps, tokens, …, which only grow in an attempt): seen with the next progress. Cheap.

        At most MAX_METRICS, always the same; those that matter most come first.
        """

    def note(self, sentence: str) -> None:
        """Write a sentence about the job's progress to its log and its history."""

    def live_jobs(self) -> set[str]:
        """Ids of all jobs that have not ended, and of those whose checkpoint one of them will take over."""

    def seconds_since_end(self, job_ids: Sequence[str]) -> dict[str, float | None]:
        """How long ago these jobs ended, by the ledger's clock; None for one that has not, none for an unknown one."""

    def stopping(self) -> bool:
        """Whether the job was asked to stop: write a checkpoint, then call `progress` or raise Stopped."""


class Stopped(BaseException):
    """Raised inside `run` when the job was asked to stop (cancel, shutdown, time limit)."""


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,  # noqa: A002 - reads as what it is at each declaration
    choices: Iterable[str] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    artifact: str | None = None,
    is_artifact: bool = False,
    positional: bool = False,
    mark: str | None = None,
    several: bool = True,
    flag: str | None = None,
) -> Any:
    """A parameter of a job kind: a dataclass field with its help text and its bounds.

    `choices` lists the allowed words, `minimum` and `maximum` are the least and the largest allowed number, `artifact`
    names the family that the value refers to; a value that `is_artifact` is FAMILY/NAME itself. `positional` makes it
    an argument instead of a flag, `mark` is what it is called in names. Without `several` it has one value only: jobs
    that differ in nothing else would be in each other's way. `flag` is its flag on the command line where that is not
    its name.
    """
    details = {
        "help": help,
        "choices": tuple(choices) if choices else None,
        "minimum": minimum,
        "maximum": maximum,
        "artifact": artifact,
        "is_artifact": is_artifact,
        "positional": positional,
        "mark": mark,
        "several": several,
        "flag": flag,
    }
    return field(default=default, metadata=details)


@dataclass(frozen=True)
class JobKind:
    """The declaration of a job kind.

    `prepare(params, known)` checks the parameters at submit time, may fill in what follows from them, and returns them
    with the jobs that must come first. `default_name(params)` names the artifact when the user does not.
    `makes(params, name)` returns all that a job of that name makes: for the name of each artifact the parameters with
    which a job would make it alone. Without it, that is one artifact with the job's name.
    `estimate(params, known)` predicts what a job will need.
    `in_force(params, result)` is the parameters with the defaults that the run could settle only when it knew more, for
    the artifact's manifest.
    `secrets` are the variables with secrets, such as HF_TOKEN, that its process gets:
    `tasks.parsing.redact.without_secrets`. A kind `in_slot` is quick and imports little: it runs inside the worker
    instead of in a process of its own. A job that has to stop is killed when it has not ended after `stop_grace_s`
    seconds, or later where it measured that its checkpoints take longer: see `tasks.jobs.stop_grace`.
    `resume_point(workdir)` says where an attempt that finds this work folder resumes, such as "step 1200"; None where
    it starts from scratch. A kind that has it resumes: what its failed and cancelled jobs did is kept for another try.
    """

    name: str
    queue: str
    params: type
    summary: str
    module: str
    produces: str | None = None
    in_slot: bool = False
    secrets: tuple[str, ...] = ()
    max_attempts: int | None = None
    limits: Limits | None = None
    stop_grace_s: float = STOP_GRACE_S
    default_name: Callable[[Any], str] | None = None
    makes: Callable[[Any, str], dict[str, Any]] | None = None
    prepare: Callable[[Any, Catalog], tuple[Any, list[Request]]] | None = None
    estimate: Callable[[Any, Catalog], Estimate] | None = None
    in_force: Callable[[Any, dict[str, Any]], Any] | None = None
    resume_point: Callable[[Path], str | None] | None = None

    @property
    def resumes(self) -> bool:
        """Whether an attempt resumes where an earlier one stopped, instead of starting from scratch."""
        return self.resume_point is not None

    @property
    def attempts(self) -> int:
        """How often a job may lose its process: the kind's own number, else by whether it resumes."""
        return self.max_attempts or (RESUMABLE_ATTEMPTS if self.resumes else DEFAULT_ATTEMPTS)

    @property
    def wire_name(self) -> str:
        """The Celery task's name; never a module path."""
        return f"mistudio.{self.name}"

    @property
    def effective_limits(self) -> Limits:
        """The kind's own limits, else its queue's."""
        return self.limits or queue_named(self.queue).limits

    def made_by(self, params: Any, name: str) -> dict[str, Any]:
        """The parameters of each artifact that a job of that name makes, by the artifact's name; none of most."""
        if self.produces is None:
            return {}
        return self.makes(params, name) if self.makes else {name: params}

    def params_in_force(self, params: Any, result: dict[str, Any]) -> Any:
        """The parameters of an artifact with this result, with what the run has settled."""
        return self.in_force(params, result) if self.in_force else params

    def run(self, params: Any, context: Context) -> dict[str, Any] | Parts | None:
        """Do the work; the returned dict is recorded as the job's result."""
        return importlib.import_module(self.module).run(params, context)

    def read_params(self, values: dict[str, Any]) -> Any:
        """Parameters from plain values; UserError for one that is unknown, missing, mistyped or out of bounds."""
        for _, problem in self.faults_of(values):
            raise problem
        return self.params(**values)

    def faults_of(self, values: dict[str, Any]) -> Iterator[tuple[str, UserError]]:
        """All that is wrong with these values, each with the name of its parameter."""
        see, fields = f"See: mistudio submit {self.name} --help", {f.name: f for f in dataclasses.fields(self.params)}
        for name in sorted(set(values) - set(fields)):
            yield name, UserError(f"{self.name} has no parameter {name!r}.", f"{self._near(name)}{see}")
        for name, spec in fields.items():
            if name not in values:
                if spec.default is dataclasses.MISSING:
                    yield name, UserError(f"{self.name} needs {flag_of(name, self.params)}.", see)
            elif wrong := wrong_value(values[name], types_of(self.params)[name], spec.metadata):
                yield name, UserError(f"{flag_of(name, self.params)} {wrong}.", see)

    def _near(self, name: str) -> str:
        """What may have been meant by a parameter that there is not, as a question; "" where nothing is alike."""
        import difflib

        flags = [flag_of(spec.name, self.params).removeprefix("--") for spec in dataclasses.fields(self.params)]
        found = difflib.get_close_matches(name.replace("_", "-"), flags, 1)
        return f"Did you mean {found[0]}? " if found else ""


@cache
def kinds() -> dict[str, JobKind]:
    """Every job kind, by name: one per file in `tasks/kinds/`."""
    import pkgutil

    import tasks.kinds

    found = (importlib.import_module(f"tasks.kinds.{m.name}").KIND for m in pkgutil.iter_modules(tasks.kinds.__path__))
    return {kind.name: kind for kind in sorted(found, key=lambda kind: kind.name)}


def kind_named(name: str) -> JobKind:
    """The kind of that name; UserError for any other."""
    try:
        return kinds()[name]
    except KeyError:
        raise UserError(f"There is no job kind {name!r}.", f"Kinds: {', '.join(kinds())}") from None


def longest_stop_grace_s() -> float:
    """The time in seconds after which every job that was asked to stop has ended or been killed."""
    return max(max(kind.stop_grace_s, LONGEST_S if kind.resumes else 0.0) for kind in kinds().values())
