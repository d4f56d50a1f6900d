"""What the person at the screen has chosen: the pane, its selected row, filters, sorting, what is open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mistudio_cli.top.details.lines import Details
    from mistudio_cli.top.frame.columns import Widths

#: The panes, by the keys 1 to 5.
PANES = ("jobs", "queues", "gpus", "workers", "hosts")


@dataclass(frozen=True)
class Selected:
    """The selected row: its id, and where it was should that id be gone. It is the first one until one is chosen."""

    id: str = ""
    index: int = 0
    is_chosen: bool = False


@dataclass(frozen=True)
class Question:
    """What is asked before something is changed; `act` does it and returns what became of it."""

    text: str
    act: Callable[[], str]


@dataclass
class View:
    """The state of the screen. Only keys change it, and what the last frame has measured."""

    pane: str = "jobs"
    selected: dict[str, Selected] = field(default_factory=dict)
    offset: dict[str, int] = field(default_factory=dict)
    filters: dict[str, str] = field(default_factory=dict)
    sorts: dict[str, str] = field(default_factory=dict)
    reversed: set[str] = field(default_factory=set)
    typing: str | None = None  # the filter that is being typed
    question: Question | None = None
    message: str = ""
    frozen_s: float | None = None  # how long the screen has been frozen
    help: bool = False
    details: Details | None = None
    scroll: int = 0  # in details and help
    follow: bool = False
    has_keys: bool = True  # False where nobody can press any
    widths: Widths = field(default_factory=dict)

    @property
    def is_overlaid(self) -> bool:
        """Whether details or the help are open."""
        return self.help or self.details is not None
