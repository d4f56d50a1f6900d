"""The table of routes as an OpenAPI 3.1 document."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

from mistudio_cli.rest.documents.json_types import JSON_TYPES
from mistudio_cli.rest.handlers.jobs import Submission
from mistudio_cli.rest.idempotency import KEY_HEADER, KEY_PATTERN
from mistudio_cli.rest.parsing import MOST
from mistudio_cli.rest.problem import PROBLEM_JSON, ProblemJson
from mistudio_cli.rest.route import Access, Route
from mistudio_cli.rest.routes import HEALTH, ROUTES
from tasks.jobs.kind import JobKind, kinds, types_of
from tasks.system.version import installed_version


@cache
def document() -> dict[str, Any]:
    """The whole document."""
    schemas: dict[str, Any] = {}
    schema_of(ProblemJson, schemas)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mistudio", "version": installed_version(), "description": "Queues, jobs and workers"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def schema_of(hint: Any, schemas: dict[str, Any], bounds: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The JSON schema of a type; dataclasses go into `schemas`. `bounds` are those of `param`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [schema_of(each, schemas, bounds) for each in arguments]}
    if origin is list:
        return {"type": "array", "items": schema_of(arguments[0], schemas, bounds)}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1], schemas)}
    if dataclasses.is_dataclass(hint):
        name = hint.__name__  # type: ignore[union-attr]
        if name not in schemas:
            schemas[name] = {}
            schemas[name].update(_object(hint, schemas))
        return {"$ref": f"#/components/schemas/{name}"}
    return {"type": JSON_TYPES[hint], **(_bounds(bounds) if bounds and hint is not type(None) else {})}


def _object(of: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(of)
    fields = dataclasses.fields(of)
    properties = {spec.name: schema_of(hints[spec.name], schemas, spec.metadata) for spec in fields}
    required = [spec.name for spec in fields if spec.default is dataclasses.MISSING]
    about = " ".join((of.__doc__ or "").split())
    return {"type": "object", "description": about, "properties": properties, "required": required}


def _bounds(bounds: Mapping[str, Any]) -> dict[str, Any]:
    names = {"choices": "enum", "minimum": "minimum", "maximum": "maximum"}
    found = {names[key]: value for key, value in bounds.items() if key in names and value is not None}
    if bounds.get("pattern"):
        found["pattern"] = f"^({bounds['pattern']})$"
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    content = {route.media_type: _content(route, schemas)}
    problem = {PROBLEM_JSON: {"schema": _reference("ProblemJson")}}
    answer: dict[str, Any] = {"description": "Done", "content": content}
    refused: dict[str, Any] = {"description": "A problem", "content": problem}
    if route.path == HEALTH:
        refused = {**refused, "content": {**content, **problem}}
    found: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.handler.__module__.rpartition(".")[2] + "_" + route.handler.__name__,
        "parameters": _parameters(route, schemas),
        "responses": {str(route.status): answer, "4XX": refused, "5XX": refused},
    }
    if route.lists:
        found["responses"]["304"] = {"description": "Unchanged since the ETag in If-None-Match"}
    if route.access is Access.CHANGE:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": _body(route, schemas)}}}
        found["responses"].setdefault("200", answer)
    if route.access is Access.PUBLIC:
        found["security"] = []
    elif route.access is Access.READ:
        found["security"] = [{}, {"token": []}]
    return found


def _content(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    return {"schema": schema_of(route.result, schemas), "example": route.example}


def _parameters(route: Route, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    hints, rows = typing.get_type_hints(route.params), []
    for spec in dataclasses.fields(route.params):
        bounds = {**spec.metadata, "choices": tuple(kinds())} if spec.name == "kind" else spec.metadata
        schema = schema_of(_without_none(hints[spec.name]), schemas, bounds)
        row: dict[str, Any] = {"name": spec.name, "in": "path" if spec.metadata["in_path"] else "query"}
        row |= {"required": spec.default is dataclasses.MISSING, "description": spec.metadata["help"]}
        if spec.default not in (None, dataclasses.MISSING):
            schema = {**schema, "default": spec.default}
        rows.append({**row, "schema": schema})
    if route.access is Access.CHANGE:
        schema = {"type": "string", "pattern": f"^{KEY_PATTERN}$"}
        rows.append({"name": KEY_HEADER, "in": "header", "required": False, "schema": schema})
    return rows


def _without_none(hint: Any) -> Any:
    rest = [each for each in typing.get_args(hint) if each is not type(None)]
    return rest[0] if isinstance(hint, types.UnionType) and len(rest) == 1 else hint


def _body(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    if route.body is None:
        return {"type": "object", "additionalProperties": False}
    if route.body is Submission:
        return {"oneOf": [_submission(kind, schemas) for kind in kinds().values()]}
    reference = schema_of(route.body, schemas)
    schemas[route.body.__name__]["additionalProperties"] = False
    return reference


def _submission(kind: JobKind, schemas: dict[str, Any]) -> dict[str, Any]:
    """A submission of that kind, with the schema of its parameters."""
    name = f"Submission_{kind.name}"
    schema = _object(Submission, schemas)
    properties = {**schema["properties"], "kind": {"const": kind.name}, "params": _params_of(kind)}
    schemas[name] = {**schema, "description": kind.summary, "properties": properties, "additionalProperties": False}
    return _reference(name)


def _params_of(kind: JobKind) -> dict[str, Any]:
    properties, required = {}, []
    for spec in dataclasses.fields(kind.params):
        words = sorted(JSON_TYPES[each] for each in types_of(kind.params)[spec.name] if each in JSON_TYPES)
        schema: dict[str, Any] = {"type": words, "description": spec.metadata["help"]}
        if {"integer", "number"} & set(words):
            for key, most in (("minimum", -MOST), ("maximum", MOST)):
                bound = spec.metadata.get(key)
                schema[key] = most if bound is None else bound
        if spec.metadata.get("choices"):
            schema["enum"] = [*spec.metadata["choices"], *([None] if "null" in words else [])]
        properties[spec.name] = schema
        if spec.default is dataclasses.MISSING:
            required.append(spec.name)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
