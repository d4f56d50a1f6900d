"""What is published stays as it is: watches the artifacts of a home."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tasks.storage.store import Store


class PublishedArtifacts:
    """Remembers each artifact by the folder that it was when it was first seen."""

    def __init__(self, store: Store, family: str) -> None:
        self._store, self._folder = store, Path(store.root, family)
        self.known: dict[str, int] = {}

    def __call__(self) -> Iterator[str]:
        """Artifacts that are gone, or were put in the place of another."""
        now: dict[str, int] = {}
        with suppress(FileNotFoundError):
            now = {entry.name: entry.inode() for entry in os.scandir(self._folder)}
        for name, folder in self.known.items():
            if now.get(name) != folder:
                yield f"artifact {name} was published as {folder}, and is {now.get(name)}"
        for name in now.keys() - self.known.keys():
            if not self._store.exists(self._folder.name, name):
                yield f"artifact {name} is there without its manifest"
        self.known |= now
