"""Rolling restart: one worker after the other, each replaced only when its replacement is ready.

The replacement starts first and waits for the lock until the old worker has begun to drain. Code that does not even
load therefore replaces nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mistudio_cli.profile.rules import WorkerSpec
from mistudio_cli.supervisor.child import Child
from mistudio_cli.supervisor.states import SILENCE_S, Status


class Workers(Protocol):
    """What it needs of the worker set."""

    children: dict[str, Child]

    def create_child(self, spec: WorkerSpec) -> Child:
        """A child for that worker, not yet started."""

    def drain(self, name: str) -> None:
        """Let the worker of that name finish its jobs and exit."""

    def discard(self, child: Child) -> None:
        """End a child that is no active worker."""

    def is_ready(self, child: Child) -> bool:
        """Whether it waits for its worker lock, or holds it."""


@dataclass(eq=False)
class Restart:
    """One worker's restart: under way until `is_over`; then `failure` is None if its successor answers.

    `is_outdated` is whether it was asked for again with another environment than its replacement was started with.
    """

    spec: WorkerSpec
    is_outdated: bool = False
    is_over: bool = False
    failure: dict[str, str] | None = None  # name of the worker whose restart failed, and why


class RollingRestart:
    """The restarts that are still to be made, and why the last one of a worker failed."""

    def __init__(self, workers: Workers) -> None:
        self.replacement: Child | None = None
        self._pending: list[Restart] = []
        self._failures: dict[str, dict[str, str]] = {}
        self._workers = workers

    def begin(self, specs: Sequence[WorkerSpec], *, in_new_environment: bool = False) -> None:
        """Restart these workers, in this order, after those that are pending; a pending one keeps its turn."""
        for spec in specs:
            self._failures.pop(spec.name, None)
            if (restart := self.pending(spec.name)) is None:
                self._pending.append(Restart(spec))
            else:
                restart.spec = spec
                restart.is_outdated |= in_new_environment

    def forget(self, names: set[str]) -> None:
        """These are to be stopped: restart them no more."""
        for restart in [restart for restart in self._pending if restart.spec.name in names]:
            self._end(restart, {"name": restart.spec.name, "why": "it was stopped"})

    def pending(self, name: str) -> Restart | None:
        """The restart of that worker which is still to be made."""
        return next((restart for restart in self._pending if restart.spec.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Workers that are still to be restarted, and by name why others were not, as records that JSON can carry."""
        return {"pending": [restart.spec.name for restart in self._pending], "failures": dict(self._failures)}

    def tick(self) -> None:
        """Take the step that is due."""
        restart = self._pending[0] if self._pending else None
        if self.replacement is not None and (
            restart is None or restart.is_outdated or restart.spec != self.replacement.spec
        ):
            self._drop_replacement()
        elif restart is not None and self.replacement is None:
            restart.is_outdated = False
            self.replacement = self._workers.create_child(restart.spec)
            self.replacement.start()
        elif restart is not None and self.replacement is not None:
            self._follow(restart, self.replacement)

    def _follow(self, restart: Restart, replacement: Child) -> None:
        name = replacement.spec.name
        is_active = self._workers.children.get(name) is replacement
        if replacement.status is Status.RUNNING:
            self._end(restart, None)
            self.replacement = None
        elif replacement.status is not Status.STARTING:
            then = "it is tried again" if is_active else "the old one continues"
            self._fail(name, f"{replacement.last_exit or 'it was stopped'}; {then}")
        elif replacement.refusal:
            self._fail(name, f"it does not consume: {replacement.refusal}; it waits until it may")
        elif not is_active and self._workers.is_ready(replacement):
            if name in self._workers.children:
                self._workers.drain(name)
            self._workers.children[name] = replacement
        elif not is_active and replacement.age_s > SILENCE_S:
            self._fail(name, f"it has not loaded for {SILENCE_S:g} s; the old one continues")

    def _fail(self, name: str, why: str) -> None:
        """No other worker is to follow one that does not start: all pending restarts end with its failure."""
        for restart in list(self._pending):
            self._end(restart, {"name": name, "why": why})
        self._drop_replacement()

    def _end(self, restart: Restart, failure: dict[str, str] | None) -> None:
        self._pending.remove(restart)
        restart.is_over, restart.failure = True, failure
        if failure is not None:
            self._failures[restart.spec.name] = failure

    def _drop_replacement(self) -> None:
        assert self.replacement is not None
        if self._workers.children.get(self.replacement.spec.name) is not self.replacement:
            self._workers.discard(self.replacement)
        self.replacement = None
