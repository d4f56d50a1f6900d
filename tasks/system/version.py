"""The version of mistudio that is installed here."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache


@cache
def installed_version() -> str:
    """As its distribution's folder says; "" where there is none. `importlib.metadata` would take longer than a submit.

    It is what this process started with: an upgrade replaces the files under it.
    """
    for folder in sys.path:
        with suppress(OSError):
            for name in os.listdir(folder or "."):
                if name.startswith("mistudio-") and name.endswith(".dist-info"):
                    return name.removeprefix("mistudio-").removesuffix(".dist-info")
    return ""


def named_version(version: str) -> str:
    """A version as people read it."""
    return f"mistudio {version}" if version else "an unknown version of mistudio"
