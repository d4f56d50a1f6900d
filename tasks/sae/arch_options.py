"""The options of all architectures as parameters of one job: joins them, and splits them again by architecture.

An option of the same name means the same in each architecture that has it; its default may differ.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from tasks.errors import UserError
from tasks.jobs.kind import flag_of, option
from tasks.sae.architectures import coder_class, names
from tasks.sae.coder import CoderOptions


def fields() -> list[tuple[str, Any, Any]]:
    """A dataclass field (name, type, default) for each option of any architecture; None is its default."""
    owners: dict[str, list[tuple[str, dataclasses.Field[Any]]]] = {}
    types: dict[str, Any] = {}
    for name in names():
        options = coder_class(name).Options
        for spec in dataclasses.fields(options):
            owners.setdefault(spec.name, []).append((name, spec))
            types[spec.name] = typing.get_type_hints(options)[spec.name]
    return [(name, types[name] | None, _field(specs)) for name, specs in owners.items()]


def chosen(architecture: str, params: Any) -> CoderOptions:
    """The options that `params` gives to an architecture. UserError for one that it does not have."""
    options = coder_class(architecture).Options
    own = {spec.name for spec in dataclasses.fields(options)}
    given = {name: getattr(params, name) for name, _, _ in fields() if getattr(params, name) is not None}
    for name in given:
        if name not in own:
            flags = ", ".join(flag_of(name) for name in sorted(own))
            raise UserError(f"{flag_of(name)} is no option of a {architecture} SAE.", f"It has: {flags}")
    return options(**given)


def _field(specs: list[tuple[str, dataclasses.Field[Any]]]) -> Any:
    metadata = specs[0][1].metadata
    defaults: dict[Any, list[str]] = {}
    for owner, spec in specs:
        defaults.setdefault(spec.default, []).append(owner)
    by_default = "; ".join(f"{', '.join(owners)}: {_short(default)}" for default, owners in defaults.items())
    bounds = {name: metadata[name] for name in ("choices", "minimum", "maximum")}
    return option(None, help=f"{metadata['help']} ({by_default})", **bounds)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
