"""Pipelines: the steps of a recipe become jobs that wait for each other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mistudio_cli.jobs.lookup import find_job
from mistudio_cli.profile.profile_keys import near
from mistudio_cli.submission.options import RequestFault
from mistudio_cli.submission.pipeline_file import Pipeline, PipelineStep
from mistudio_cli.submission.request import SubmitRequest, read_request
from tasks.errors import UserError
from tasks.jobs.kind import JobKind
from tasks.jobs.record import FAMILIES, Job
from tasks.submission.plan import ArtifactCatalog, ArtifactTaken, SubmitOptions, plan
from tasks.text.dataset_ref import local_path, slug
from tasks.text.source_state import refuse_if_changed

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")


@dataclass(frozen=True)
class _Done:
    """What became of a step: the names of what it makes, and the id of its job if it has one."""

    made: tuple[str, ...]
    job_id: str | None


@dataclass
class Plan:
    """The jobs of a recipe, the artifacts of it that are there or on their way already, and all that is wrong."""

    recipe: Pipeline
    jobs: list[Job] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    faults: list[RequestFault] = field(default_factory=list)
    _done: dict[str, _Done] = field(default_factory=dict)

    def add(self, step: PipelineStep, known: ArtifactCatalog, submit_options: SubmitOptions) -> None:
        """Plan one step; what is wrong with it is kept, and those that follow are planned as if it were sound."""
        faults, request = self._read(step, submit_options)
        key = "after"
        try:
            if request is not None:
                awaited = self._awaited([*request.after, *_references(step.table)], known)
                key = ""
                self._done[step.id] = self._plan(request, awaited, known)
        except UserError as problem:
            faults = [(key, problem)]
        if faults:
            self._done[step.id] = _pretend(step, known)
        self.faults += [RequestFault(step.where(self.recipe.path, key), problem) for key, problem in faults]

    def _read(
        self, step: PipelineStep, submit_options: SubmitOptions
    ) -> tuple[list[tuple[str, UserError]], SubmitRequest | None]:
        values, faults = {}, {}
        for key, value in step.table.items():
            try:
                values[key] = self._filled(value)
            except UserError as problem:
                values[key], faults[key] = value, problem
        values.pop("id", None)
        request = read_request(values, submit_options)
        if isinstance(request, list):
            faults = {**dict(request), **faults}
        in_order = sorted(faults.items(), key=lambda fault: step.line_of(fault[0]))
        return in_order, None if faults or isinstance(request, list) else request

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
            raise UserError(f"There is no step or variable {name!r}.", _those_there_are(name, steps, variables))
        if name not in self._done:
            raise UserError(f"The step {name} does not come before this one.", f"Move the step {name} up")
        made = self._done[name].made
        if not made:
            raise UserError(f"The step {name} makes no artifact.", f'To wait for it write: after = ["{name}"]')
        if len(made) > 1:
            raise UserError(f"The step {name} makes several artifacts.", f"Write the name of one: {', '.join(made)}")
        return made[0]

    def _plan(self, request: SubmitRequest, awaited: Iterable[str], known: ArtifactCatalog) -> _Done:
        submit_options = replace(request.submit_options, after=(*request.submit_options.after, *awaited))
        try:
            jobs = plan(known, request.kind.name, request.values, name=request.name, submit_options=submit_options)
        except ArtifactTaken as taken:
            if not _makes_the_same(request.kind, taken, known):
                raise
            _refuse_changed_source(request, taken, known)
            self.reused += taken.makes
            producers = (known.producer_of(artifact) for artifact in taken.makes)
            return _Done(_names(taken.makes), next((producer for producer in producers if producer), None))
        self.jobs += jobs
        return _Done(_names(jobs[-1].artifacts), jobs[-1].id)

    def _awaited(self, words: Iterable[str], known: ArtifactCatalog) -> list[str]:
        """The jobs that these words mean: each that of an earlier step, else one that is there."""
        awaited = []
        for word in words:
            if word in self._done:
                awaited += [self._done[word].job_id or ""]
            elif word in [step.id for step in self.recipe.steps]:
                raise UserError(f"The step {word} does not come before this one.", f"Move the step {word} up")
            elif word not in self.recipe.variables:
                awaited += [find_job(known.ledger, word).id]
        return [job_id for job_id in awaited if job_id]


def plan_recipe(known: ArtifactCatalog, recipe: Pipeline, submit_options: SubmitOptions) -> Plan:
    """The jobs of all steps, parents before their children; nothing is submitted.

    A step is not done again when what it makes is there, or on its way, by the same kind with the same parameters.
    """
    planned = Plan(recipe, faults=list(recipe.faults))
    for step in recipe.steps:
        planned.add(step, known, submit_options)
    return planned


def _references(values: Mapping[str, Any]) -> list[str]:
    return [name for value in values.values() if isinstance(value, str) for name in _REFERENCE.findall(value)]


def _those_there_are(name: str, steps: list[str], variables: Mapping[str, Any]) -> str:
    return f"{near(name, [*steps, *variables])}Steps: {', '.join(steps)}; variables: {', '.join(variables) or 'none'}"


def _makes_the_same(kind: JobKind, taken: ArtifactTaken, known: ArtifactCatalog) -> bool:
    """Whether all that is there was asked for alike. A value that is not known before its model is there fits any."""
    return all(_is_there(kind, artifact, wanted, known) for artifact, wanted in taken.makes.items())


def _refuse_changed_source(request: SubmitRequest, taken: ArtifactTaken, known: ArtifactCatalog) -> None:
    """UserError for a download that is there, of files that changed since."""
    source = local_path(str(request.values.get("source", ""))) if request.kind.name == "download" else None
    if source is None:
        return
    for name in _names(taken.makes):
        refuse_if_changed(source, "datasets", name, known)


def _is_there(kind: JobKind, artifact: str, wanted: dict[str, Any], known: ArtifactCatalog) -> bool:
    family, _, name = artifact.partition("/")
    if known.is_pending(family, name):
        kind_name, params = known.pending_params(family, name)
    else:
        manifest = known.manifest(family, name) or {}
        kind_name, params = manifest.get("kind", ""), manifest.get("params", {})
    return kind_name == kind.name and all(
        None in (value, params.get(key)) or params[key] == value for key, value in wanted.items()
    )


def _pretend(step: PipelineStep, known: ArtifactCatalog) -> _Done:
    """A faulty step as if it were valid, so that its error is reported once, and not by the steps that need it."""
    name = step.table.get("name")
    name = slug(name if isinstance(name, str) else step.id)
    for family in FAMILIES:
        known.planned.setdefault(f"{family}/{name}", Job("", str(step.table.get("kind")), name, "", {}))
    return _Done((name,), None)


def _names(artifacts: Iterable[str]) -> tuple[str, ...]:
    return tuple(artifact.partition("/")[2] for artifact in artifacts)
