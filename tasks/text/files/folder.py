"""The files of a folder: regular files inside it only; links out of it, FIFOs and devices are counted, never opened, as
are files whose names are not wanted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.text.files.skipped_counts import SkippedCounts


@dataclass(frozen=True)
class Folder:
    """A folder whose files are listed, unless `unwanted` has a reason why not, by name.

    Folders named in `skip` and hidden ones are left out.
    """

    path: Path
    unwanted: Callable[[str], str | None]
    skip: tuple[str, ...]
    counts: SkippedCounts

    def files(self) -> Iterator[Path]:
        """The files in a stable order. A link is followed to a file of the folder that is not listed itself."""
        root, followed = self.path.resolve(), set[Path]()
        for path in self._all():
            if (reason := self.unwanted(path.name)) is not None:
                if _is_regular(path):
                    self.counts.skip(str(path.relative_to(self.path)), reason)
            elif (why := why_not(path, root)) is not None:
                self.counts.skip(str(path.relative_to(self.path)), why)
            elif not path.is_symlink():
                yield path
            elif (target := path.resolve()) not in followed and not self._lists(target.relative_to(root)):
                followed.add(target)
                yield path

    def named(self) -> Iterator[Path]:
        """All that has a wanted name, whatever it is, in a stable order."""
        return (path for path in self._all() if self.unwanted(path.name) is None)

    def _all(self) -> Iterator[Path]:
        """All that is not hidden, by any name."""
        for folder, below, names in os.walk(self.path, onerror=self._unreadable):
            below[:] = sorted(name for name in below if self._enters(name))
            for name in below:
                if Path(folder, name).is_symlink():
                    self.counts.skip(str(Path(folder, name).relative_to(self.path)), "a link to a folder")
            yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))

    def _enters(self, name: str) -> bool:
        return name not in self.skip and not name.startswith(".")

    def _lists(self, path: Path) -> bool:
        is_hidden = path.name.startswith(".") or not all(map(self._enters, path.parts[:-1]))
        return not is_hidden and self.unwanted(path.name) is None

    def _unreadable(self, error: OSError) -> None:
        self.counts.refuse(str(error.filename), str(error.strerror))


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def why_not(path: Path, root: Path) -> str | None:
    """Why a path below `root`, which is resolved, is not read; None for a regular file or a link to one below it."""
    try:
        target = path.resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError):
        return "a link to nothing"
    if not target.is_relative_to(root):
        return "a link out of the folder"
    return None if stat.S_ISREG(mode) else "no regular file"
