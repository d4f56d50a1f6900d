"""A loopback server that speaks as much of the Hub as the real client asks for: one dataset, one gated, one broken."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"train.jsonl": "".join(json.dumps({"text": f"Document {i}."}) + "\n" for i in range(500)).encode()}
_GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to dataset is restricted."}
_REVISION = re.compile(r"/(?:revision|resolve|tree|paths-info)/([^/]+)")
_MISSING = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}


#: What has been sent as `Authorization` to any of these servers.
asked_with: set[str] = set()


class Hub(BaseHTTPRequestHandler):
    """One request to a Hub with the dataset owner/name."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing on stderr."""

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._serve()

    def _serve(self) -> None:
        asked_with.add(self.headers.get("Authorization", ""))
        path, gated = self.path.split("?")[0], False
        if "/gated/" in path + "/":
            if "/resolve/" in path or path.endswith("/auth-check"):  # what the repository is, the Hub says to everyone
                return self._answer(403, b"{}", _GATED)
            gated = "manual"
            path = path.replace("/gated", "/name")
        if (revision := _REVISION.search(path)) and revision[1] not in ("main", COMMIT):
            return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        if "/broken" in path:
            return self._answer(503, b"{}")
        if path.startswith("/datasets/owner/name/resolve/"):
            return self._file(path.rsplit("/", 1)[1])
        if path.startswith("/api/datasets/owner/name/tree/"):
            return self._json([_entry(name) for name in FILES])
        if path.startswith("/api/datasets/owner/name/paths-info/"):
            return self._json([_entry(name) for name in FILES])
        if path.startswith("/api/datasets/owner/name"):
            return self._json(
                {
                    "id": "owner/name",
                    "sha": COMMIT,
                    "gated": gated,
                    "siblings": [{"rfilename": name} for name in FILES],
                    "tags": [],
                }
            )
        return self._answer(404, b"{}", _MISSING)

    def _file(self, name: str) -> None:
        if name not in FILES:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        content, extra, status = FILES[name], {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT}, 200
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(content) - 1), len(content) - 1)
            extra["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        return self._answer(status, content, extra)

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Accept-Ranges": "bytes", **(extra or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _entry(name: str) -> dict[str, object]:
    return {"type": "file", "path": name, "oid": "0" * 40, "size": len(FILES[name])}


@contextmanager
def serve(handler: type[Hub] = Hub) -> Iterator[str]:
    """The address of a running server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
