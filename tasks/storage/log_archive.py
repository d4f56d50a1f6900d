"""The logs of attempts that are over, in the store: `.logs/JOB/ATTEMPT.log.gz`, each whole or not there at all.

Each block of an archive is a gzip member of its own, so reading can start at any of them.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from tasks.storage.store import check_name, remove

_SUFFIX, _DRAFT = ".log.gz", ".part"

_READ_BYTES = 1 << 14

#: zlib's code for one gzip member.
_GZIP = 31


@dataclass(frozen=True)
class Member:
    """Where a gzip member begins: `offset` in the archive, `start` in the log, in bytes."""

    offset: int = 0
    start: int = 0


FIRST = Member()


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
        with draft.open("wb") as file:
            for block in blocks:
                file.write(gzip.compress(block, 6))
        draft.replace(target)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def read_archive(path: Path, start: int = 0, member: Member = FIRST) -> Iterator[tuple[bytes, Member]]:
    """The lines of an archived log from its byte `start` on, each with the member in which it ends.

    `member` is one that begins there or before. Of a damaged archive come as many lines as can be read.
    """
    line = []
    with suppress(zlib.error, OSError):
        for position, block, found in _blocks(path, member):
            for part in BytesIO(block[max(0, start - position) :]):
                line.append(part)
                if part.endswith(b"\n"):
                    yield b"".join(line), found
                    line.clear()
        if line:
            yield b"".join(line), found


def _blocks(path: Path, member: Member) -> Iterator[tuple[int, bytes, Member]]:
    """Decompressed blocks, each with its position in the log and its member. Raises zlib.error and OSError."""
    with path.open("rb") as file:
        file.seek(member.offset)
        data, position, unpacker = b"", member.start, zlib.decompressobj(_GZIP)
        while data := data or file.read(_READ_BYTES):
            if unpacker.eof:
                member, unpacker = Member(file.tell() - len(data), position), zlib.decompressobj(_GZIP)
            block = unpacker.decompress(data)
            yield position, block, member
            position, data = position + len(block), unpacker.unused_data


def remove_archives(store: Path, job_id: str) -> None:
    """Remove the archived logs of that job."""
    remove(archives(store) / check_name(job_id))
