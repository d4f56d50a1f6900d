"""The return value of `run` for a job with several artifacts; a module of its own, since reading commands
need it not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Parts:
    """The result of each artifact by its name, and why others failed.

    The content of each is in the folder of its name in the job's output.
    """

    made: dict[str, dict[str, Any]]
    failed: dict[str, str] = field(default_factory=dict)
