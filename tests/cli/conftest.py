"""What the tests of the command line share: the command itself, and a home with one real worker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tasks.ledger.client import Ledger
from tests.conftest import PATIENCE_S, PATIENT, RedisServer, patient_client, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EXTRA = Path(__file__).parent.parent / "extra"
MISTUDIO = str(Path(sys.executable).parent / "mistudio")
NOT_INHERITED = ("MISTUDIO_", "CELERY_", "COLUMNS", "LINES", "NO_COLOR")
#: The one without windows draws the same pages with a third less work.
CHROMIUM = (
    os.environ.get("MISTUDIO_TEST_CHROMIUM") or shutil.which("chromium-headless-shell") or shutil.which("chromium")
)
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Cli:
    """The command line as a person of this home types it."""

    home: Path
    broker_url: str
    ledger: Ledger

    @property
    def environment(self) -> dict[str, str]:
        result = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
        result |= {"MISTUDIO_HOME": str(self.home), "MISTUDIO_CONFIG_DIR": str(self.home / "config")}
        result |= {"PYTHONPATH": str(EXTRA), "OMP_NUM_THREADS": "1"}
        result |= PATIENT
        return result | {"CELERY_BROKER_URL": self.broker_url}

    def start(self, *words: str, **changes: Any) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [MISTUDIO, *words], env=self.environment, stdout=pipe, stderr=pipe, text=True, **changes
        )

    def __call__(self, *words: str, timeout_s: float = 400, **environment: str) -> Ended:
        done = subprocess.run(
            [MISTUDIO, *words],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
        )
        return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def cli(session_redis: RedisServer, tmp_path: Path) -> Iterator[Cli]:
    """A home whose Redis is empty and has no workers."""
    url = session_redis.url.replace("virtual_host=0", "virtual_host=2")
    client = patient_client(url)
    client.call("FLUSHDB")
    yield Cli(tmp_path, url, Ledger(client))
    client.close()


@contextmanager
def repeated(cli: Cli, send: Callable[[Ledger], object]) -> Iterator[None]:
    """Send heartbeats again and again while the block runs: several commands may take longer than one counts."""
    is_over = threading.Event()

    def send_until_over() -> None:
        with closing(patient_client(cli.broker_url)) as client:
            ledger = Ledger(client)
            while not is_over.wait(0.5):
                send(ledger)

    send(cli.ledger)
    sender = threading.Thread(target=send_until_over)
    sender.start()
    try:
        yield
    finally:
        is_over.set()
        sender.join()


@pytest.fixture(scope="session")
def world(session_redis: RedisServer) -> Iterator[Cli]:
    """A home with one real worker that serves all queues with two slots."""
    home = Path(tempfile.mkdtemp(prefix="ms-"))
    url = session_redis.url.replace("virtual_host=0", "virtual_host=3")
    client = patient_client(url)
    cli = Cli(home, url, Ledger(client))
    command = [sys.executable, "-P", "-m", "tasks.worker", "--name", "all-queues", "--slots", "2"]
    with (home / "worker.log").open("ab") as log:
        worker = subprocess.Popen(command, cwd=home, env=cli.environment, stdout=log, stderr=log)
    try:
        until(lambda: cli.ledger.workers(), f"the worker to answer: {(home / 'worker.log').read_text()}")
        yield cli
    finally:
        worker.terminate()
        worker.wait(PATIENCE_S)
        client.close()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium; of a module, because no event loop can run beside Playwright's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS, timeout=PATIENCE_S * 1000)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_server(world: Cli) -> Iterator[httpx.Client]:
    """A client with the token, of a server of the home with a worker."""
    from tests.cli.test_rest_routes import BEARER, server_of

    with server_of(world) as client:
        client.headers.update(BEARER)
        yield client
