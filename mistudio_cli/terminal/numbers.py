"""Options that are numbers."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from tasks.errors import UserError


def no_nan(param: typer.CallbackParam, value: float | None) -> float | None:
    """The callback of an option that is a float: UserError for nan, which is neither below a bound nor above one."""
    if value is not None and math.isnan(value):
        raise UserError(f"{param.opts[0]} must be a number, not nan.", f"For instance: {param.opts[0]} 60")
    return value


#: Of commands that wait.
Timeout = Annotated[float, typer.Option(callback=no_nan, min=0, help="Maximum seconds to wait")]
TimeoutOrNone = Annotated[float | None, typer.Option(callback=no_nan, min=0, help="Maximum seconds to wait")]
