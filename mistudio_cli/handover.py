"""Rolling restart: one seat after the other, each handed over only to an heir that stands ready.

An heir loads the new code, and waits at the seat until the old worker has stopped taking jobs. Code that does not even
load therefore replaces nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from mistudio_cli.child import Child
from mistudio_cli.profile import WorkerSpec
from mistudio_cli.states import Status


class Seats(Protocol):
    """What it needs of the crew."""

    children: dict[str, Child]

    def expect(self, spec: WorkerSpec) -> Child:
        """A child for that seat, not yet started."""

    def retire(self, name: str) -> None:
        """Let the worker of that seat finish its jobs and go."""

    def dismiss(self, child: Child) -> None:
        """End a child that has no seat."""

    def is_ready(self, child: Child) -> bool:
        """Whether it waits at its seat, or sits there."""


class Handover:
    """The restarts that are still to be made."""

    def __init__(self, seats: Seats) -> None:
        self.heir: Child | None = None
        self._pending: list[WorkerSpec] = []
        self._failed: dict[str, str] | None = None
        self._seats = seats

    def begin(self, specs: Sequence[WorkerSpec]) -> None:
        """Restart these seats, in this order."""
        self._pending, self._failed = list(specs), None

    def forget(self, names: set[str]) -> None:
        """These are to be stopped: restart them no more."""
        self._pending = [spec for spec in self._pending if spec.name not in names]

    def told(self) -> dict[str, Any]:
        """Seats that are still to be restarted, and the one whose heir failed, as records that JSON can carry."""
        return {"pending": [spec.name for spec in self._pending], "failed": self._failed}

    def tick(self) -> None:
        """Take the step that is due."""
        spec = self._pending[0] if self._pending else None
        if self.heir is not None and (spec is None or spec.name != self.heir.spec.name):
            self._drop_heir()
        elif spec is not None and self.heir is None:
            self.heir = self._seats.expect(spec)
            self.heir.start()
        elif self.heir is not None:
            self._follow(self.heir)

    def _follow(self, heir: Child) -> None:
        name = heir.spec.name
        sits = self._seats.children.get(name) is heir
        if heir.status is Status.RUNNING:
            self._pending.pop(0)
            self.heir = None
        elif heir.status is not Status.STARTING:  # it died: nobody else is to follow it
            then = "it is tried again" if sits else "the old one goes on"
            self._failed = {"name": name, "why": f"{heir.last_exit or 'it was stopped'}; {then}"}
            self._pending = []
            self._drop_heir()
        elif not sits and self._seats.is_ready(heir):
            if name in self._seats.children:
                self._seats.retire(name)
            self._seats.children[name] = heir

    def _drop_heir(self) -> None:
        assert self.heir is not None
        if self._seats.children.get(self.heir.spec.name) is not self.heir:
            self._seats.dismiss(self.heir)
        self.heir = None
