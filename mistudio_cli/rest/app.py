"""The ASGI application: checks each request, finds its route in the table and sends what the handler answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mistudio_cli.rest.access import AccessRules
from mistudio_cli.rest.event_client import EventResponse
from mistudio_cli.rest.idempotency import KEY_HEADER, check_key
from mistudio_cli.rest.parsing import read_body, read_params
from mistudio_cli.rest.problem import PROBLEM_JSON, Problem, problem_of
from mistudio_cli.rest.route import EVENT_STREAM, JSON, Access, Answer, Call, Route, json_bytes
from mistudio_cli.rest.routes import ROUTES
from mistudio_cli.rest.services import Services

MAX_BODY_BYTES = 1 << 20
BODY_WITHIN_S = 10.0

#: Of every answer; a handler may set others.
SAFE_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}

#: What differs between two answers that say the same.
_NOT_IN_ETAG = ("read_at",)


class RestApp:
    """One server's routes behind its rules."""

    def __init__(self, services: Services, rules: AccessRules) -> None:
        self._services, self._rules = services, rules
        self._paths: list[tuple[re.Pattern[str], dict[str, Route]]] = []
        for path in dict.fromkeys(route.path for route in ROUTES):
            pattern = re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path)))
            self._paths.append((pattern, {route.method: route for route in ROUTES if route.path == path}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - every error is a problem to its client
            response = problem_response(problem_of(error))
        for name, value in SAFE_HEADERS.items():
            response.headers.setdefault(name, value)
        if scope["method"] == "HEAD":
            send = _without_body(send)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        headers = _headers(request.scope)
        self._rules.check_host(headers)
        methods, in_path = self._find(request.scope["path"])
        method = "GET" if request.method == "HEAD" else request.method
        route = methods.get(method)
        if route is None or route.access is not Access.PUBLIC:
            self._rules.check_read(headers)
        if not methods:
            raise Problem(404, "There is no such path here. See /openapi.json")
        if route is None:
            known = [*methods, *(["HEAD"] if "GET" in methods else [])]
            raise Problem(405, f"This path takes {', '.join(known)}.", {"allow": ", ".join(known)})
        if route.access is Access.CHANGE:
            self._rules.check_change(headers, request.scope["scheme"])
            check_key(headers.get(KEY_HEADER))
        params = read_params(route.params, request.scope["query_string"], in_path)
        body = read_body(route.body, await _body(request, headers)) if route.access is Access.CHANGE else None
        if request.method == "HEAD" and route.media_type == EVENT_STREAM:
            return Response(media_type=EVENT_STREAM)
        answer = await route.handler(Call(params, body, headers, self._services, self._rules.has_token(headers)))
        return _response(route, answer, headers)

    def _find(self, path: str) -> tuple[dict[str, Route], dict[str, str]]:
        for pattern, methods in self._paths:
            if found := pattern.fullmatch(path):
                return methods, found.groupdict()
        return {}, {}


def problem_response(problem: Problem) -> Response:
    """The response that says what is wrong."""
    return Response(problem.encoded(), problem.status, problem.headers, PROBLEM_JSON)


def _headers(scope: Scope) -> dict[str, str]:
    """The headers by their names in lower case; of one that is repeated, all with commas."""
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


async def _body(request: Request, headers: Mapping[str, str]) -> bytes:
    """The whole body. Problem 413 for one that is too large, 408 for one that does not come."""
    length = headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and (len(length) > 12 or int(length) > MAX_BODY_BYTES):
        raise Problem(413, "A body has at most 1 MiB.", {"connection": "close"})
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise Problem(413, "A body has at most 1 MiB.", {"connection": "close"})
                chunks.append(chunk)
    except TimeoutError:
        raise Problem(408, f"The body did not come within {BODY_WITHIN_S:g} s.", {"connection": "close"}) from None
    return b"".join(chunks)


def _response(route: Route, answer: Answer, headers: Mapping[str, str]) -> Response:
    if answer.events is not None:
        return EventResponse(answer.events, headers.get("last-event-id"), answer.media_type)
    if answer.media_type != JSON:
        return Response(answer.body, answer.status, answer.headers, answer.media_type)
    status = route.status if answer.status == 200 and not answer.headers else answer.status
    encoded = answer.body if isinstance(answer.body, bytes) else json_bytes(answer.body)
    if not route.lists:
        return Response(encoded, status, answer.headers, JSON)
    tag = _etag(answer.body)
    if tag in [known.strip() for known in headers.get("if-none-match", "").split(",")]:
        return Response(None, 304, {"etag": tag})
    return Response(encoded, status, {**answer.headers, "etag": tag}, JSON)


def _etag(body: dict[str, Any]) -> str:
    import hashlib

    said = {key: value for key, value in body.items() if key not in _NOT_IN_ETAG}
    return f'W/"{hashlib.sha256(json_bytes(said)).hexdigest()[:32]}"'


def _without_body(send: Send) -> Send:
    async def send_headers(message: Any) -> None:
        if message["type"] == "http.response.body":
            message = {"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)}
        await send(message)

    return send_headers
