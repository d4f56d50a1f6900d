"""Slices of the positions of a row, as SAELens' `seqpos_slice` writes them."""

from __future__ import annotations

from typing import Any

from tasks.errors import UserError

#: The arguments of a slice; (None,) is every position.
Positions = tuple[int | None, ...]
EVERYWHERE: Positions = (None,)

#: An upper bound on the positions of a row.
_FURTHEST = 1 << 31


def positions_of(value: Any) -> Positions:
    """The slice of positions that SAELens' `seqpos_slice` means: up to three of start, end and step, or nothing.

    Raises UserError for anything else, and for a step that is not above 0.
    """
    if value in (None, [], ()):
        return EVERYWHERE
    if (
        not isinstance(value, (list, tuple))
        or len(value) > 3
        or not all(item is None or (type(item) is int and abs(item) < _FURTHEST) for item in value)
        or (len(value) == 3 and value[2] is not None and value[2] < 1)
    ):
        raise UserError(
            f"seqpos_slice is {str(value)[:80]!r}, expected start, end and a step above 0, each may be null."
        )
    return tuple(value)
