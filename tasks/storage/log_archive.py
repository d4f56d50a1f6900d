"""The logs of attempts that are over, in the store: `.logs/JOB/ATTEMPT.log.gz`, each whole or not there at all."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from tasks.storage.store import check_name, remove

_SUFFIX, _DRAFT = ".log.gz", ".part"

#: What reading a damaged archive raises.
_DAMAGED = (EOFError, zlib.error, OSError)


def archives(store: Path) -> Path:
    """The folder with a folder for each job."""
    return store / ".logs"


def archive_of(store: Path, job_id: str, attempt: int) -> Path:
    """Where the log of that attempt is or would be. UserError for an id that cannot be one."""
    return archives(store) / check_name(job_id) / f"{attempt}{_SUFFIX}"


def archived_attempts(store: Path, job_id: str) -> list[int]:
    """The attempts of that job whose logs are there, in their order."""
    numbers = [path.name.removesuffix(_SUFFIX) for path in archive_of(store, job_id, 1).parent.glob(f"*{_SUFFIX}")]
    return sorted(int(number) for number in numbers if number.isascii() and number.isdecimal())


def archive(store: Path, job_id: str, attempt: int, blocks: Iterable[bytes]) -> None:
    """Write the log of an attempt that is over. Raises OSError; then there is nothing new."""
    target = archive_of(store, job_id, attempt)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(target.name + _DRAFT)
    try:
        with gzip.open(draft, "wb", compresslevel=6) as file:
            for block in blocks:
                file.write(block)
        draft.replace(target)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def read_archive(path: Path, start: int = 0) -> Iterator[bytes]:
    """The lines of an archived log from that byte of the log on; of a damaged one as many as can be read."""
    try:
        with gzip.open(path, "rb") as file:
            file.seek(start)
            yield from file
    except _DAMAGED:
        return


def remove_archives(store: Path, job_id: str) -> None:
    """Remove the archived logs of that job."""
    remove(archives(store) / check_name(job_id))
