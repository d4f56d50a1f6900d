"""The refusal that `celery -A tasks…` prints: a worker started that way would have neither locks nor slots."""

from __future__ import annotations

from typing import NoReturn

#: Celery prints it with a capital first letter and all others small.
REFUSAL = (
    "workers of mistudio are not started by celery itself but with: mistudio workers start "
    "(for another supervisor: mistudio profiles export minimal --as celery). "
    "celery's other commands need the broker's url alone: celery -b url inspect active."
)


def refuse(module: str, name: str) -> NoReturn:
    """AttributeError for an attribute that is not there: with the refusal for the one that Celery looks for last."""
    raise AttributeError(REFUSAL if name == "celery" else f"module {module!r} has no attribute {name!r}")
