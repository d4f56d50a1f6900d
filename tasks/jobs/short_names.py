"""Names that are cut to a length and stay distinct."""

from __future__ import annotations

import hashlib

#: As long as the name of an artifact may be.
LONGEST_NAME = 100
_DIGITS = 6


def shortened(name: str, longest: int) -> str:
    """The name itself where it is short enough; else its beginning and a few digits of a hash of the whole name."""
    if len(name) <= longest:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]
    return f"{name[: longest - _DIGITS - 1].rstrip('-._')}-{digest}"
