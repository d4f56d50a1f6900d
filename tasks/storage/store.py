"""Artifacts on disk: publishes, reads and discards them; no other module does.

An attempt at a job writes into a folder of its own and its output becomes an artifact by one rename, so nothing
half-written is ever visible. Each artifact is a folder `FAMILY/NAME` with a `manifest.json` that says what it is and
where it is from.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.jobs.record import FAMILIES
from tasks.parsing.documents import read_json_object

log = logging.getLogger("mistudio.store")

MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CHUNK = 1 << 20
#: How the name of what is being removed begins.
GONE = ".gone-"


def is_name(name: str) -> bool:
    """Whether that can be the name of an artifact."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """The name itself; UserError for one that could leave the store or trip up a shell."""
    if not is_name(name):
        raise UserError(
            f"{name!r} cannot be the name of an artifact.",
            "Use up to 100 letters, digits, dots, dashes and underscores, starting with a letter or digit",
        )
    return name


class Store:
    """The artifacts below one folder. Nothing is created by asking."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, family: str, name: str) -> Path:
        """Where that artifact is or would be; UserError for a bad family or name."""
        if family not in FAMILIES:
            raise UserError(f"There are no {family!r} in the store.", f"Families: {', '.join(FAMILIES)}")
        return self.root / family / check_name(name)

    def exists(self, family: str, name: str) -> bool:
        """Whether that artifact has been published."""
        return (self.path(family, name) / MANIFEST).is_file()

    def find_manifest(self, family: str, name: str) -> dict[str, Any] | None:
        """What that artifact is, or None when there is none. Malformed, a UserError, for a damaged manifest."""
        try:
            return read_json_object(
                self.path(family, name) / MANIFEST, f"Remove {family}/{name} from the store", strict=False
            )
        except FileNotFoundError:
            return None

    def manifest(self, family: str, name: str) -> dict[str, Any]:
        """What that artifact is; UserError when there is none."""
        found = self.find_manifest(family, name)
        if found is None:
            there = ", ".join(self.names(family)) or "none"
            raise UserError(f"The store has no {family}/{name}.", f"There are: {there}")
        return found

    def names(self, family: str) -> list[str]:
        """The published artifacts of a family, by name."""
        folder = self.root / family
        if not folder.is_dir():
            return []
        return sorted(entry.name for entry in folder.iterdir() if (entry / MANIFEST).is_file())

    def work_folder(self, job_id: str) -> Path:
        """Where the folders of the job's attempts are or would be: see tasks.storage.attempts."""
        return self.root / ".tmp" / check_name(job_id)

    def work_folders(self) -> list[str]:
        """The ids of the jobs that have one."""
        folder = self.root / ".tmp"
        entries = folder.iterdir() if folder.is_dir() else ()
        return sorted(entry.name for entry in entries if not entry.name.startswith(GONE))

    def seal(self, output: Path, manifest: dict[str, Any]) -> None:
        """Complete the job's output with its manifest, and flush all to the disk; the umask says who may read it."""
        write_json(output / MANIFEST, {**manifest, "files": describe_files(output)})
        _open_as_umask_says(output)

    def publish(self, output: Path, family: str, name: str) -> Path:
        """Make the job's sealed output the artifact `family/name`, at once and whole, by one rename.

        UserError when another job's artifact has that name.
        """
        target = self.path(family, name)
        there = self.find_manifest(family, name)
        if there is not None:
            raise UserError(
                f"{family}/{name} is there already, made by job {there.get('job')}.", "Submit again with --name"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        output.rename(target)
        sync_folder(target.parent)
        return target

    def discard(self, job_id: str) -> bool:
        """Remove the folders of the job's attempts, and nothing else; no job can adopt a part of them. See `remove`."""
        return remove(self.work_folder(job_id))


def remove(path: Path) -> bool:
    """Remove a file, a link or a folder. It is out of the way at once, whole, even if its removal is cut short.

    False, and a warning, where it must stay, as in a folder in which this user may not write.
    """
    gone = path.with_name(f"{GONE}{path.name}-{os.urandom(4).hex()}")
    try:
        path.rename(gone)
    except FileNotFoundError:  # somebody else was faster
        return True
    except OSError as error:
        log.warning("%s cannot be removed: %s", path, error.strerror)
        return False
    if gone.is_dir() and not gone.is_symlink():
        shutil.rmtree(gone, ignore_errors=True)
    else:
        gone.unlink(missing_ok=True)
    return True


def size_of(path: Path) -> int:
    """Bytes of the files there and below."""
    return sum(entry.st_size for entry in stats(path) if not stat.S_ISDIR(entry.st_mode))


def stats(path: Path) -> Iterator[os.stat_result]:
    """The `lstat` of the path and of all below, through no link; none of what somebody else removes meanwhile."""
    try:
        yield (found := path.lstat())
        below = list(path.iterdir()) if stat.S_ISDIR(found.st_mode) else []
    except FileNotFoundError:
        return
    for entry in below:
        yield from stats(entry)


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of each file below `folder`, by its relative path; each is flushed to the disk."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _digest_and_sync(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def _open_as_umask_says(output: Path) -> None:
    """Give each file the permissions of a new one, as the manifest is: some libraries write for the owner alone."""
    mode = (output / MANIFEST).stat().st_mode & 0o777
    for path in output.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o777 != mode:
            path.chmod(mode)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file whole: readers see the old text or the new, never a part."""
    draft = path.with_name(path.name + ".part")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _digest_and_sync(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        os.fsync(file.fileno())
    return digest.hexdigest()
