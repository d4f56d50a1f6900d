"""A Hub to which models can be pushed, and from which they come back: the real one's protocol, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from tests.hub.server import COMMIT, Hub, serve

#: The token that may write, and one that may not.
WRITER, READER = "hf_" + "w" * 34, "hf_" + "r" * 34


class Repos(Hub):
    """One request; the repositories are the class's own, as are the blobs that were uploaded for them."""

    held: ClassVar[dict[str, dict[str, bytes]]]
    private: ClassVar[set[str]]
    blobs: ClassVar[dict[str, bytes]]
    commits: ClassVar[list[str]]

    def do_PUT(self) -> None:  # noqa: N802 - the name it is called by
        """A large file, as the answer to its batch request said."""
        self.blobs[self.path.rsplit("/", 1)[1]] = self._body()
        self._answer(200, b"")

    def do_POST(self) -> None:  # noqa: N802
        """What makes and changes repositories, and asks how."""
        body, path = self._body(), self.path.split("?")[0]
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {WRITER}":
            return self._answer(403, b'{"error": "Forbidden"}')
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith("/info/lfs/objects/batch"):
            return self._json({"transfer": "basic", "objects": [self._batch(o) for o in json.loads(body)["objects"]]})
        repo, verb, _ = path.removeprefix("/api/models/").rsplit("/", 2)
        if verb == "preupload":
            return self._json({"files": [_mode(file["path"]) for file in json.loads(body)["files"]]})
        return self._commit(repo, [json.loads(line) for line in body.splitlines()])

    def _create(self, result: dict[str, Any]) -> None:
        repo = f"{result['organization']}/{result['name']}"
        created = json.dumps({"url": f"{self._address}/{repo}"}).encode()
        if repo in self.held:
            return self._answer(409, created)
        self.held[repo] = {}
        if result.get("private") or result.get("visibility") == "private":  # by the age of the client
            self.private.add(repo)
        return self._answer(200, created)

    def _batch(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return {**wanted, "actions": {"upload": {"href": f"{self._address}/blobs/{wanted['oid']}"}}}

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            result = line["value"]
            if line["key"] == "header":
                self.commits.append(result["summary"])
            elif line["key"] == "file":
                self.held[repo][result["path"]] = base64.b64decode(result["content"])
            else:
                self.held[repo][result["path"]] = self.blobs[result["oid"]]
        self._json({"success": True, "commitOid": COMMIT, "commitUrl": f"{self._address}/{repo}/commit/{COMMIT}"})

    def _serve(self) -> None:
        path = self.path.split("?")[0]
        repo = "/".join(path.removeprefix("/api/models/").strip("/").split("/")[:2])
        if repo not in self.held:
            return super()._serve()
        if "/tree/" in path:
            return self._json([_entry(name, content) for name, content in self.held[repo].items()])
        if "/resolve/" in path:
            return self._give(self.held[repo], path.split("/resolve/")[1].partition("/")[2])
        return self._json({"id": repo, "sha": COMMIT, "siblings": [], "tags": []})

    def _give(self, files: dict[str, bytes], name: str) -> None:
        if name not in files:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        tag = hashlib.sha256(files[name]).hexdigest()
        return self._answer(200, files[name], {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    @property
    def _address(self) -> str:
        return f"http://{self.headers['Host']}"


def _mode(path: str) -> dict[str, Any]:
    large = path.endswith(".safetensors")
    return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": None}


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "oid": "0" * 40, "size": len(content)}


@contextmanager
def serve_repos() -> Iterator[tuple[str, type[Repos]]]:
    """The address of a running Hub, and the class that holds what is in it."""
    fresh: dict[str, Any] = {"held": {}, "private": set(), "blobs": {}, "commits": []}
    handler = type("FreshRepos", (Repos,), fresh)
    with serve(handler) as address:
        yield address, handler
