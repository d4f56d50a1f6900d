"""The server itself: probes, events, its own description, the page, and what Prometheus scrapes."""

from __future__ import annotations

from dataclasses import dataclass

from mistudio_cli.page.files import FOLDERS, file_named
from mistudio_cli.rest.problem import Problem
from mistudio_cli.rest.route import EVENT_STREAM, Answer, Call, param


@dataclass(frozen=True)
class PageFile:
    """A file of the page."""

    name: str = param(help="The file's name", in_path=True)


@dataclass(frozen=True)
class PageFileInFolder(PageFile):
    """A file in a folder of the page."""

    folder: str = param(help="The folder", choices=FOLDERS, in_path=True)


async def get_livez(call: Call) -> Answer:
    """`GET /api/v1/livez`: the process answers."""
    return Answer({"status": "ok"})


async def get_readyz(call: Call) -> Answer:
    """`GET /api/v1/readyz`: the ledger answers; 503 otherwise."""
    await call.services.overview()
    return Answer({"status": "ok"})


async def get_access(call: Call) -> Answer:
    """`GET /api/v1/access`: whether the request's token allows changes."""
    return Answer({"can_change": call.has_token})


async def get_events(call: Call) -> Answer:
    """`GET /api/v1/events`: server-sent events, the full state first, then patches."""
    return Answer(events=call.services.events, media_type=EVENT_STREAM)


async def get_openapi(call: Call) -> Answer:
    """`GET /openapi.json`."""
    from mistudio_cli.rest.documents.openapi import document

    return Answer(document())


async def get_metrics(call: Call) -> Answer:
    """`GET /metrics`: what Prometheus scrapes."""
    from mistudio_cli.metrics.exposition import exposition

    body, media_type = exposition(await call.services.new_snapshot(), call.headers.get("accept", ""))
    return Answer(body, media_type=media_type)


async def get_page(call: Call) -> Answer:
    """`GET /`: the page."""
    return _file_of_page("index.html")


async def get_page_file(call: Call) -> Answer:
    """`GET /static/{name}`: a file of the page."""
    return _file_of_page(call.params.name)


async def get_page_file_in_folder(call: Call) -> Answer:
    """`GET /static/{folder}/{name}`: a file of the page."""
    return _file_of_page(call.params.name, call.params.folder)


def _file_of_page(name: str, folder: str | None = None) -> Answer:
    """`file_named` of the page's package gives bytes, media type and headers, or None where there is no such file."""
    found = file_named(name, folder)
    if found is None:
        raise Problem(404, "There is no such file.")
    body, media_type, headers = found
    return Answer(body, media_type=media_type, headers=headers)
