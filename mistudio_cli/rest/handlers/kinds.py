"""Kinds of job: what may be submitted, with which parameters."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

from mistudio_cli.rest.documents.json_types import JSON_TYPES
from mistudio_cli.rest.handlers.jobs import Submission
from mistudio_cli.rest.route import Answer, Call
from tasks.jobs.kind import JobKind, flag_of, kinds, types_of


async def list_kinds(call: Call) -> Answer:
    """`GET /api/v1/kinds`."""
    return Answer(_kinds())


@cache
def _kinds() -> dict[str, Any]:
    options = [row for row in parameters_of(Submission) if row["name"] not in ("kind", "params")]
    return {"kinds": [_kind(kind) for kind in kinds().values()], "options": options}


def _kind(kind: JobKind) -> dict[str, Any]:
    words = {name: getattr(kind, name) for name in ("name", "queue", "summary", "produces")}
    return {**words, "params": parameters_of(kind.params)}


def parameters_of(params: type) -> list[dict[str, Any]]:
    """Each field of a dataclass whose fields are made by `option` or `param`, in the order of declaration."""
    return [_parameter(spec, params) for spec in dataclasses.fields(params)]


def _parameter(spec: dataclasses.Field[Any], params: type) -> dict[str, Any]:
    details, types = spec.metadata, types_of(params)[spec.name]
    is_required = spec.default is dataclasses.MISSING
    return {
        "name": spec.name,
        "flag": flag_of(spec.name, params),
        "type": next(word for of, word in JSON_TYPES.items() if of in types),
        "nullable": type(None) in types,
        "required": is_required,
        "main": is_required or bool(details.get("artifact") or details.get("mark")),
        "default": None if is_required else spec.default,
        "choices": list(details["choices"]) if details.get("choices") else None,
        **{name: details.get(name) for name in ("minimum", "maximum", "artifact", "help")},
    }
