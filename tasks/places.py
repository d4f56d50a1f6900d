"""Where things lie on disk: the only place a path under MISTUDIO_HOME is spelled."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

#: The path of a unix socket may have 107 bytes on Linux and 103 on macOS.
SOCKET_PATH_MAX = 103


def default_home() -> Path:
    """The platform's folder for a user's data."""
    import platformdirs

    return Path(platformdirs.user_data_dir("mistudio", appauthor=False))


def config_dir() -> Path:
    """Where `mistudio.toml` and the user's own profiles lie."""
    import platformdirs

    return Path(os.environ.get("MISTUDIO_CONFIG_DIR") or platformdirs.user_config_dir("mistudio", appauthor=False))


@dataclass(frozen=True)
class Places:
    """The folders and files of one home. Nothing is created by asking."""

    home: Path
    store: Path

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
    def seats(self) -> Path:
        """The workers' places: locks, and notes of who sits there."""
        return self.run / "seats"

    def seat(self, worker: str) -> Path:
        """One worker's place, by its name without the host."""
        return self.seats / worker

    @property
    def logs(self) -> Path:
        """Logs of the supervisor, Redis and the workers."""
        return self.home / "logs"

    def job_log(self, job_id: str) -> Path:
        """The log of one job, all attempts."""
        return self.logs / "jobs" / f"{job_id}.log"

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
    def redis_socket(self) -> Path:
        """The socket of the home's own Redis server."""
        return self._socket("redis.sock")

    @property
    def supervisor_socket(self) -> Path:
        """The socket on which the supervisor answers."""
        return self._socket("supervisor.sock")

    def _socket(self, name: str) -> Path:
        path = self.run / name
        if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
            return path
        return short_run_dir(self.home) / name


def short_run_dir(home: Path) -> Path:
    """A short private folder for the sockets of a home whose own path is too long for one."""
    import hashlib  # brings OpenSSL, which takes longer to load than all else that a command needs to find its home
    import tempfile

    tag = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(base) / f"mistudio-{os.getuid()}-{tag}"


def make_private(folder: Path) -> Path:
    """Create a folder only its owner can enter; Problem-free to call again. PermissionError if it is another's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    folder.chmod(0o700)
    return folder
