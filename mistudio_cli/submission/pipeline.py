"""Pipelines: the only place where the steps of a recipe become jobs that wait for each other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mistudio_cli.jobs.lookup import find_job
from mistudio_cli.profile.profile_keys import near
from mistudio_cli.submission.options import Fault
from mistudio_cli.submission.pipeline_file import Recipe, Step
from mistudio_cli.submission.request import Asked, read_request
from tasks.errors import Problem
from tasks.jobs.kind import FAMILIES, Job, JobKind
from tasks.submission.plan import KnownArtifacts, Taken, Wishes, plan
from tasks.text.dataset_ref import slug

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")


@dataclass(frozen=True)
class _Done:
    """What became of a step: the names of what it makes, and the id of its job if it has one."""

    made: tuple[str, ...]
    job_id: str | None


@dataclass
class Plan:
    """The jobs of a recipe, the artifacts of it that are there or on their way already, and all that is wrong."""

    recipe: Recipe
    jobs: list[Job] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    _done: dict[str, _Done] = field(default_factory=dict)

    def add(self, step: Step, known: KnownArtifacts, wishes: Wishes) -> None:
        """Plan one step; what is wrong with it is kept, and those that follow are planned as if it were sound."""
        faults, asked = self._read(step, wishes)
        key = "after"
        try:
            if asked is not None:
                awaited = self._awaited([*asked.after, *_references(step.told)], known)
                key = ""
                self._done[step.id] = self._plan(asked, awaited, known)
        except Problem as problem:
            faults = [(key, problem)]
        if faults:
            self._done[step.id] = _pretend(step, known)
        self.faults += [Fault(step.where(self.recipe.path, key), problem) for key, problem in faults]

    def _read(self, step: Step, wishes: Wishes) -> tuple[list[tuple[str, Problem]], Asked | None]:
        told, faults = {}, {}
        for key, value in step.told.items():
            try:
                told[key] = self._filled(value)
            except Problem as problem:
                told[key], faults[key] = value, problem
        told.pop("id", None)
        asked = read_request(told, wishes)
        if isinstance(asked, list):
            faults = {**dict(asked), **faults}
        in_order = sorted(faults.items(), key=lambda fault: step.line_of(fault[0]))
        return in_order, None if faults or isinstance(asked, list) else asked

    def _filled(self, value: Any) -> Any:
        """A value with its references replaced; one that is a reference and nothing else keeps the variable's type."""
        if isinstance(value, list):
            return [self._filled(item) for item in value]
        if not isinstance(value, str):
            return value
        whole = _REFERENCE.fullmatch(value)
        return self._meaning(whole[1]) if whole else _REFERENCE.sub(lambda found: str(self._meaning(found[1])), value)

    def _meaning(self, name: str) -> Any:
        variables, steps = self.recipe.variables, [step.id for step in self.recipe.steps]
        if name in variables:
            return variables[name]
        if name not in steps:
            raise Problem(f"There is no step or variable {name!r}.", _those_there_are(name, steps, variables))
        if name not in self._done:
            raise Problem(f"The step {name} does not come before this one.", f"Move the step {name} up")
        made = self._done[name].made
        if not made:
            raise Problem(f"The step {name} makes no artifact.", f'To wait for it write: after = ["{name}"]')
        if len(made) > 1:
            raise Problem(f"The step {name} makes several artifacts.", f"Write the name of one: {', '.join(made)}")
        return made[0]

    def _plan(self, asked: Asked, awaited: Iterable[str], known: KnownArtifacts) -> _Done:
        wishes = replace(asked.wishes, after=(*asked.wishes.after, *awaited))
        try:
            jobs = plan(known, asked.kind.name, asked.values, name=asked.name, wishes=wishes)
        except Taken as taken:
            if not _makes_the_same(asked.kind, taken, known):
                raise
            self.reused += taken.makes
            makers = (known.maker(artifact) for artifact in taken.makes)
            return _Done(_names(taken.makes), next((maker for maker in makers if maker), None))
        self.jobs += jobs
        return _Done(_names(jobs[-1].artifacts), jobs[-1].id)

    def _awaited(self, words: Iterable[str], known: KnownArtifacts) -> list[str]:
        """The jobs that these words mean: each that of an earlier step, else one that is there."""
        awaited = []
        for word in words:
            if word in self._done:
                awaited += [self._done[word].job_id or ""]
            elif word in [step.id for step in self.recipe.steps]:
                raise Problem(f"The step {word} does not come before this one.", f"Move the step {word} up")
            elif word not in self.recipe.variables:
                awaited += [find_job(known.ledger, word).id]
        return [job_id for job_id in awaited if job_id]


def plan_recipe(known: KnownArtifacts, recipe: Recipe, wishes: Wishes) -> Plan:
    """The jobs of all steps, parents before their children; nothing is submitted.

    A step is not done again when what it makes is there, or on its way, by the same kind with the same parameters.
    """
    planned = Plan(recipe, faults=list(recipe.faults))
    for step in recipe.steps:
        planned.add(step, known, wishes)
    return planned


def _references(told: Mapping[str, Any]) -> list[str]:
    return [name for value in told.values() if isinstance(value, str) for name in _REFERENCE.findall(value)]


def _those_there_are(name: str, steps: list[str], variables: Mapping[str, Any]) -> str:
    return f"{near(name, [*steps, *variables])}Steps: {', '.join(steps)}; variables: {', '.join(variables) or 'none'}"


def _makes_the_same(kind: JobKind, taken: Taken, known: KnownArtifacts) -> bool:
    """Whether all that is there was asked for alike. A value that is not known before its model is there fits any."""
    return all(_is_there(kind, artifact, wanted, known) for artifact, wanted in taken.makes.items())


def _is_there(kind: JobKind, artifact: str, wanted: dict[str, Any], known: KnownArtifacts) -> bool:
    family, _, name = artifact.partition("/")
    if known.coming(family, name):
        kind_name, params = known.coming_from(family, name)
    else:
        told = known.manifest(family, name) or {}
        kind_name, params = told.get("kind", ""), told.get("params", {})
    return kind_name == kind.name and all(
        None in (value, params.get(key)) or params[key] == value for key, value in wanted.items()
    )


def _pretend(step: Step, known: KnownArtifacts) -> _Done:
    """A faulty step as if it were sound, so that what is wrong with it is told once, and not of those that need it."""
    name = step.told.get("name")
    name = slug(name if isinstance(name, str) else step.id)
    for family in FAMILIES:
        known.planned.setdefault(f"{family}/{name}", Job("", str(step.told.get("kind")), name, "", {}))
    return _Done((name,), None)


def _names(artifacts: Iterable[str]) -> tuple[str, ...]:
    return tuple(artifact.partition("/")[2] for artifact in artifacts)
