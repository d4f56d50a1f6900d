"""Paths on disk: every path under MISTUDIO_HOME is defined here."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tasks.errors import UserError

#: The path of a unix socket may have 107 bytes on Linux and 103 on macOS.
SOCKET_PATH_MAX = 103


def default_home() -> Path:
    """The platform's folder for a user's data."""
    import platformdirs

    return Path(platformdirs.user_data_dir("mistudio", appauthor=False))


def config_dir() -> Path:
    """The folder of `mistudio.toml` and the user's own profiles."""
    if chosen := os.environ.get("MISTUDIO_CONFIG_DIR"):
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_config_dir("mistudio", appauthor=False))


@dataclass(frozen=True)
class Places:
    """The folders and files of one home. Nothing is created by asking."""

    home: Path
    store: Path

    def __post_init__(self) -> None:
        for what, variable in ((self.home, "MISTUDIO_HOME"), (self.store, "MISTUDIO_STORE")):
            if any(0xD800 <= ord(sign) < 0xE000 for sign in str(what)):  # a byte that is no text
                raise UserError(f"The path {str(what)!a} is not UTF-8, as {variable} must be.", "Choose another folder")

    @classmethod
    def from_environment(cls) -> Places:
        """Places by MISTUDIO_HOME and MISTUDIO_STORE, else the platform's default."""
        home = Path(os.environ.get("MISTUDIO_HOME") or default_home()).expanduser().absolute()
        store = os.environ.get("MISTUDIO_STORE")
        return cls(home, Path(store).expanduser().absolute() if store else home / "store")

    @property
    def redis(self) -> Path:
        """The data of the home's own Redis server."""
        return self.home / "redis"

    @property
    def run(self) -> Path:
        """Sockets, locks, pids."""
        return self.home / "run"

    @property
    def worker_locks(self) -> Path:
        """The workers' places: locks, and notes of who sits there."""
        return self.run / "seats"

    def worker_lock(self, worker: str) -> Path:
        """One worker's place, by its name without the host."""
        return self.worker_locks / worker

    @property
    def logs(self) -> Path:
        """Logs of the supervisor, Redis and the workers."""
        return self.home / "logs"

    def job_log(self, job_id: str) -> Path:
        """The log of one job, all attempts."""
        return self.logs / "jobs" / f"{job_id}.log"

    def attempt_note(self, job_id: str, attempt: int) -> Path:
        """Where it is noted that an attempt began here, until its log is archived; see tasks.logs.log_shipping."""
        return self.run / "attempts" / f"{job_id}.{attempt}"

    def worker_log(self, worker: str) -> Path:
        """The log of one worker, by its name without the host."""
        return self.logs / f"{worker}.log"

    @property
    def supervisor_log(self) -> Path:
        """The log of the supervisor in the background."""
        return self.worker_log("supervisor")

    @property
    def history(self) -> Path:
        """What happened to the workers, as lines of JSON."""
        return self.logs / "events.jsonl"

    @property
    def joined_note(self) -> Path:
        """What `join` changed in the settings, as JSON."""
        return self.run / "joined.json"

    @property
    def redis_socket(self) -> Path:
        """The socket of the home's own Redis server."""
        return self._socket("redis.sock")

    @property
    def supervisor_socket(self) -> Path:
        """The socket on which the supervisor answers."""
        return self._socket("supervisor.sock")

    def _socket(self, name: str) -> Path:
        path = self.run / name
        return path if _fits(path) else self._noted_sockets() / name

    def _noted_sockets(self) -> Path:
        """Where the sockets of a home with a long path are: as the home says, whatever the caller's environment.

        Never a folder that somebody else made, who would receive what a command sends: tokens and passwords.
        """
        noted = self._note()
        if noted is not None and _is_private(noted, self.home):
            return noted
        short = list(_short_folders(self.home))
        private = [folder for folder in short if _is_private(folder, self.home)]
        in_use = [folder for folder in private if (folder / "supervisor.sock").exists()]
        free = [folder for folder in short if not os.path.lexists(folder)]
        return next(iter([*in_use, *private, *free]), None) or _unguessable(self.home)

    def _note(self) -> Path | None:
        try:
            return Path(os.fsdecode((self.run / _NOTE).read_bytes()))
        except OSError:
            return None

    def make_sockets_folder(self) -> None:
        """Create the folder of the sockets, and say in the home where it is. OSError when there is room nowhere."""
        if _fits(self.supervisor_socket) and self.supervisor_socket.parent == self.run:
            make_private(self.run)
            return
        for folder in (self._noted_sockets(), *_short_folders(self.home)):
            try:
                make_private(folder)
                break
            except OSError:
                continue  # another user was there before, or what it lay in is gone
        else:
            folder = Path(_new_folder())
        part = make_private(self.run) / f"{_NOTE}.{os.getpid()}"
        part.write_bytes(os.fsencode(folder))
        part.replace(self.run / _NOTE)


#: The file in `run` that says where the sockets are, when they are not there.
_NOTE = "sockets"


def _fits(socket: Path) -> bool:
    return len(os.fsencode(socket)) <= SOCKET_PATH_MAX


def _short_folders(home: Path) -> Iterator[Path]:
    """Where a home whose path is too long may have its sockets: where no logout and no end of a batch job clears up.

    The last are where earlier versions had them.
    """
    import hashlib  # brings OpenSSL, which takes longer to load than all else that a command needs to find its home
    import tempfile

    name = f"mistudio-{os.getuid()}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}"
    bases = ("/tmp", os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir())  # noqa: S108 - private, by its owner
    yield from (Path(base) / name for base in bases if base and os.access(base, os.W_OK))


def _is_private(folder: Path, home: Path) -> bool:
    """Whether nobody but this user, or the home's, can have put anything there."""
    owners = {os.getuid()}
    with suppress(OSError):
        owners.add(home.stat().st_uid)
    try:
        state = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(state.st_mode) and state.st_uid in owners and not state.st_mode & 0o077


@cache
def _unguessable(home: Path) -> Path:
    """A folder that is not there, where others have taken all that they could expect: the same throughout a process."""
    import tempfile

    return Path(tempfile.gettempdir()) / f"mistudio-{os.urandom(8).hex()}"


def _new_folder() -> str:
    import tempfile

    return tempfile.mkdtemp(prefix="mistudio-")


def make_home(home: Path) -> None:
    """Create the home, for its owner alone whatever the umask. A folder that is there stays as open as it is."""
    if not home.exists():
        make_private(home)


def make_private(folder: Path, home: Path | None = None) -> Path:
    """Create a folder that only its owner can enter, and those above it that are missing; harmless when it is there.

    PermissionError if it is another user's, or a link to elsewhere that another user made. FileNotFoundError when the
    `home` that it is to be in was removed.
    """
    if home is not None:
        home.stat()
    for missing in [above for above in (*reversed(folder.parents), folder) if not above.exists()]:
        missing.mkdir(mode=0o700, exist_ok=True)
    if {folder.stat().st_uid, folder.lstat().st_uid} != {os.getuid()}:
        raise PermissionError(f"{folder} belongs to another user")
    folder.chmod(0o700)
    return folder


def replace_text(path: Path, text: str) -> None:
    """Write a text file whole: readers see the old text or the new, never a part."""
    draft = path.with_name(f"{path.name}.part")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # or a power cut may leave an empty file under the name
    draft.replace(path)
