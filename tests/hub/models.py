"""A Hub with models: branches, tags and commits, a gated one, and one without an owner that moved to where it has one.

As of the real Hub: the listing of a gated repository is open and its files are not, an unknown revision has an error
code of its own, and the oldest names answer with a redirect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tests.hub.server import Hub, serve

_NO_REVISION = {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}
_NO_ENTRY = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
_NO_REPO = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
_GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}


@dataclass
class Repo:
    """The files of each commit, and which commit a branch or tag is at."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Add a commit with these files at the head of that branch; its id."""
        name = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode(), usedforsecurity=False).hexdigest()
        self.commits[name], self.refs[ref] = files, name
        return name

    def at(self, revision: str) -> str | None:
        """The whole id of the commit that a branch, a tag or the beginning of an id means."""
        found = [name for name in self.commits if len(revision) >= 7 and name.startswith(revision)]
        return self.refs.get(revision) or (found[0] if found else None)


class Models(Hub):
    """One request to a Hub with models."""

    repos: ClassVar[dict[str, Repo]]
    moved: ClassVar[dict[str, str]]

    def _serve(self) -> None:
        path = self.path.split("?")[0].replace("%2F", "/")
        for old, new in self.moved.items():
            if f"/{old}/" in f"{path}/" and new not in path:
                return self._answer(307, b"", {"Location": path.replace(f"/{old}", f"/{new}", 1)})
        repo = next((name for name in self.repos if f"/{name}/" in f"{path}/"), None)
        if repo is None:
            return self._answer(404, b"{}", _NO_REPO)
        held, rest = self.repos[repo], path.split(repo, 1)[1].strip("/")
        verb, _, rest = rest.partition("/")
        if verb == "resolve":
            return self._file_at(held, *self._split(held, rest))
        return self._list(repo, held, verb, rest)

    def _split(self, held: Repo, rest: str) -> tuple[str | None, str]:
        """The commit and the file of `refs/pr/1/config.json`: a revision may have slashes."""
        parts = rest.split("/")
        for end in range(1, len(parts)):
            if commit := held.at("/".join(parts[:end])):
                return commit, "/".join(parts[end:])
        return None, rest

    def _list(self, repo: str, held: Repo, verb: str, revision: str) -> None:
        commit = held.at(revision if verb in ("revision", "tree") else "main")
        if commit is None:
            return self._answer(404, b"{}", _NO_REVISION)
        if verb == "tree":
            return self._json([_entry(name, content) for name, content in held.commits[commit].items()])
        files = [{"rfilename": name, "size": len(content)} for name, content in held.commits[commit].items()]
        result: dict[str, Any] = {"id": repo, "sha": commit, "siblings": files, "tags": [], "private": False}
        return self._json(result | {"gated": "manual" if held.gated else False})

    def _file_at(self, held: Repo, commit: str | None, name: str) -> None:
        if held.gated:
            return self._answer(401 if not self.headers.get("Authorization") else 403, b"{}", _GATED)
        if commit is None:
            return self._answer(404, b"{}", _NO_REVISION)
        content = held.commits[commit].get(name)
        if content is None:
            return self._answer(404, b"", {**_NO_ENTRY, "X-Repo-Commit": commit})
        tag = hashlib.sha256(content).hexdigest()
        return self._answer(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": commit})


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "oid": "0" * 40, "size": len(content)}


@contextmanager
def serve_models(moved: dict[str, str] | None = None) -> Iterator[tuple[str, dict[str, Repo]]]:
    """The address of a running Hub, and its repositories by name; `moved` are old names with the new ones."""
    repos: dict[str, Repo] = {}
    with serve(type("FreshModels", (Models,), {"repos": repos, "moved": moved or {}})) as address:
        yield address, repos


def as_files(folder: Any) -> dict[str, bytes]:
    """The files of a folder, as a commit holds them."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
