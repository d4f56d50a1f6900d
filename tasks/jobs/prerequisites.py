"""Whether what a job needs first is there or under way, and was made as it is wanted now."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tasks.errors import UserError
from tasks.jobs.kind import Catalog, Request, flag_of, kind_named


def exists_or_pending(request: Request, known: Catalog) -> bool:
    """Whether the artifact of a request exists, or an unfinished job makes it.

    Raises UserError where an artifact of that name was made by another kind, or with other parameters.
    """
    family = kind_named(request.kind).produces or ""
    if (manifest := known.manifest(family, request.name)) is not None:
        _check(request, family, manifest.get("kind", request.kind), manifest.get("params") or {})
    elif known.is_pending(family, request.name):
        _check(request, family, *known.pending_params(family, request.name))
    else:
        return False
    return True


def _check(request: Request, family: str, made_by: str, params: Mapping[str, Any]) -> None:
    kind = kind_named(request.kind)
    if made_by != kind.name:
        raise _other(request, family, f"made by {made_by}", f"by {kind.name}")
    for key, value in dataclasses.asdict(kind.read_params(request.params)).items():
        if key in params and params[key] != value:
            flag = flag_of(key, kind.params)
            raise _other(request, family, f"made {_given(flag, params[key])}", _given(flag, value))


def _given(flag: str, value: Any) -> str:
    return f"without {flag}" if value is None else f"with {flag.removeprefix('--')} {value}"


def _other(request: Request, family: str, made: str, wanted: str) -> UserError:
    return UserError(
        f"{family}/{request.name} was {made}, and is needed {wanted}.",
        f"Give {request.name} as the dataset to use it, "
        f"or make the other first: mistudio submit {request.kind} ... --name NAME",
    )
