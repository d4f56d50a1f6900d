"""Tokens and passwords are planted where users have them, and then looked for everywhere else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import httpx
import psutil
import pytest
from celery import Celery

from mistudio_cli.jobs.job_logs import as_record
from mistudio_cli.settings import redacted
from tasks.errors import UserError
from tasks.jobs.kind import kinds
from tasks.jobs.record import State
from tasks.ledger import dead_letters
from tasks.parsing.redact import redact
from tasks.submission.plan import submit
from tests.conftest import RedisServer, until
from tests.fixtures.stack import Stack
from tests.hub.server import asked_with, serve

TOKEN = "hf_" + "Plant3d" * 5
PASSWORD = "s3cret/plant#d"
MISTUDIO = str(Path(sys.executable).parent / "mistudio")


@pytest.fixture
def stack(own_redis: RedisServer, short_tmp: Path, kinds_of_the_tests: None) -> Iterator[Stack]:
    """A lab behind a password."""
    open_lab = Stack(own_redis, short_tmp)
    open_lab.ledger.client.call("CONFIG", "SET", "requirepass", PASSWORD)
    open_lab.ledger.client.close()
    open_lab.app.close()
    own_redis.url = f"redis+socket://:{quote(PASSWORD, safe='')}@{own_redis.socket}?virtual_host=0"
    stack = Stack(own_redis, short_tmp)
    yield stack
    stack.ledger.client.close()
    stack.app.close()
    stack.stop_worker()


def everything_in_redis(stack: Stack) -> str:
    """Every key with all it holds."""
    read = {
        "string": lambda key: ("GET", key),
        "list": lambda key: ("LRANGE", key, 0, -1),
        "hash": lambda key: ("HGETALL", key),
        "set": lambda key: ("SMEMBERS", key),
        "zset": lambda key: ("ZRANGE", key, 0, -1),
    }
    cursor, result = "0", []
    while True:
        cursor, keys = stack.ledger.client.call("SCAN", cursor, "COUNT", 1000)
        for key in keys:
            kind = stack.ledger.client.call("TYPE", key)
            result.append(f"{key}: {stack.ledger.client.call(*read[kind](key)) if kind in read else ''}")
        if cursor == "0":
            return "\n".join(result)


def everything_on_disk(stack: Stack, *, and_held_in_redis: bool = True) -> str:
    """Logs, notes, artifacts, and the append-only file of Redis: whatever any key ever held."""
    result = []
    for folder, _, names in os.walk(stack.folder):
        for path in (Path(folder) / name for name in names):
            if "appendonly" in str(path) and not and_held_in_redis:
                continue
            with suppress(OSError):  # a socket, or a job's state of a moment ago, which the next has replaced
                result.append(f"{path}: {path.read_text(errors='replace')}")
    return "\n".join(result)


def command_lines() -> str:
    result = []
    for process in psutil.process_iter(["cmdline"]):
        result.append(" ".join(process.info["cmdline"] or ()))
    return "\n".join(result)


def leaks(text: str) -> list[str]:
    """Lines in which a secret stands, whole or as a URL writes it."""
    secrets = (TOKEN, PASSWORD, quote(PASSWORD, safe=""))
    return [line for line in text.splitlines() if any(secret in line for secret in secrets)]


def rest_answers(environment: dict[str, str]) -> str:
    pipe = subprocess.PIPE
    server = subprocess.Popen([MISTUDIO, "serve", "--port", "0"], env=environment, stdout=pipe, stderr=pipe, text=True)
    try:
        line = server.stderr.readline() if server.stderr else ""
        where = re.search(r"http://[\d.]+:\d+", line)
        assert where, line
        with httpx.Client(base_url=f"{where[0]}/api/v1/workers", trust_env=False, timeout=30) as client:
            return "\n".join(client.get(f"/{name}").text for name in ("queues", "active", "stats", "health"))
    finally:
        server.terminate()
        server.communicate(timeout=30)


def test_planted_secrets_are_found_nowhere(stack: Stack) -> None:
    stack.start_worker(HF_TOKEN=TOKEN)
    failed, running = stack.submit("leak"), stack.submit("nap", ticks=100)
    stack.under_way(running)
    assert leaks(command_lines()) == []
    environment = {**os.environ, "HF_TOKEN": TOKEN, "CELERY_BROKER_URL": stack.redis.url}
    environment["MISTUDIO_HOME"] = str(stack.folder / "home")
    raised = rest_answers(environment)
    for words in (
        ["jobs", "show", failed.id],
        ["jobs", "logs", failed.id],
        ["jobs", "ls", "--json"],
        ["config", "show"],
    ):
        done = subprocess.run([MISTUDIO, *words], env=environment, capture_output=True, text=True, timeout=60)
        raised += done.stdout + done.stderr
    ended = stack.ended(failed)
    assert ended.state is State.FAILED
    assert ended.error is not None
    assert ended.error["message"] == "ValueError: the end: 401 for *** from " + redact(stack.redis.url)
    assert "PermissionError: the cause: 401 for ***" in ended.error["traceback"]
    assert "about to fail: 401 for ***" in everything_on_disk(stack)  # it was logged, and masked
    stack.ended(running)
    assert leaks(raised) == []
    assert leaks(everything_in_redis(stack)) == []
    assert leaks(everything_on_disk(stack)) == []


def test_a_token_as_a_parameter_is_refused_by_name_of_where_it_belongs(stack: Stack) -> None:
    with pytest.raises(UserError, match="Set HF_TOKEN where the workers start") as refusal:
        stack.submit("nap", until=f"/tmp/{TOKEN}")
    assert TOKEN not in str(refusal.value)
    assert stack.ledger.page().jobs == ()


def test_a_foreign_token_is_refused_and_not_kept(stack: Stack) -> None:
    stack.start_worker()
    with Celery("elsewhere", broker=stack.redis.url, backend=stack.redis.url, set_as_current=False) as foreign_app:
        sent = foreign_app.send_task("mistudio.nap", kwargs={"until": TOKEN}, queue="training")
        with pytest.raises(Exception, match="Set HF_TOKEN where the workers start"):
            sent.get(timeout=60)
        foreign_app.send_task("mistudio.nonsense", kwargs={"mine": TOKEN}, queue="datasets")
        stack.ledger.client.call("RPUSH", "datasets", f"not JSON, but {TOKEN}")
        until(lambda: len(dead_letters.read(stack.ledger.client)) == 3)
    assert all(
        "***" in refusal.what and 'body": "W' not in refusal.what for refusal in dead_letters.read(stack.ledger.client)
    )
    assert leaks(everything_in_redis(stack)) == []
    assert leaks(everything_on_disk(stack, and_held_in_redis=False)) == []


@pytest.mark.parametrize("by", ["HF_TOKEN", "HF_TOKEN_PATH"])
def test_the_workers_token_reaches_the_hub_and_nothing_else(stack: Stack, tmp_path: Path, by: str) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    with serve() as address:
        hub = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        hub |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
        stack.start_worker(**hub, **{by: TOKEN if by == "HF_TOKEN" else str(file)})
        done = stack.ended(stack.submit("download", source="owner/name", name="theirs"))
    assert (done.state, f"Bearer {TOKEN}" in asked_with) == (State.SUCCEEDED, True), done.error
    assert leaks(everything_in_redis(stack)) == []
    assert leaks(everything_on_disk(stack)) == []


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"a {TOKEN}, b", "a ***, b"),
        ("redis://me:hunter@host:1/0 and rediss://:hunter@host", "redis://me:***@host:1/0 and rediss://:***@host"),
        ("redis+socket:///tmp/s?password=hunter&virtual_host=0", "redis+socket:///tmp/s?password=***&virtual_host=0"),
        ("Error 111 connecting to redis://:p@ss@w0rd@db:6379/0.", "Error 111 connecting to redis://:***@db:6379/0."),
        ("rediss://p@ssword@host", "rediss://***@host"),
        ("Authorization: Bearer abcdefgh.ijkl", "Authorization: Bearer ***"),
        ("the value of a variable: dr4gonfly!", "the value of a variable: ***"),
        ("AUTH failed for p%40ssword", "AUTH failed for ***"),
        ("AUTH failed for p@ssword", "AUTH failed for ***"),
        ("3 tokens of hf_cache at http://host:80/a@b", "3 tokens of hf_cache at http://host:80/a@b"),
    ],
)
def test_what_is_masked_and_what_is_not(text: str, masked: str) -> None:
    environment = {"MY_API_KEY": "dr4gonfly!", "CELERY_BROKER_URL": "redis://:p%40ssword@h", "X_TOKEN": "short"}
    assert redact(text, environment) == masked


def test_a_secret_is_refused_wherever_a_job_would_keep_it(stack: Stack) -> None:
    links = ["https://me:hunter2@host/x", "redis://hunter2@host", "x?api_key=hunter2"]
    for secret in (TOKEN, "ghp_" + "a1" * 20, *links):
        for values, submit_options in (({"until": secret}, {}), ({}, {"name": secret}), ({}, {"tags": ["x", secret]})):
            with pytest.raises(UserError, match="holds a token or a password") as refusal:
                submit(stack.ledger, stack.store, "nap", values, **submit_options)
            assert secret not in str(refusal.value)
    assert stack.ledger.page().jobs == ()


def test_a_secret_is_given_only_to_jobs_of_kinds_that_declare_it(stack: Stack) -> None:
    stack.start_worker(HF_TOKEN=TOKEN, WANDB_API_KEY="w" * 40, MISTUDIO_API_TOKEN="a" * 40)
    nap, leak = stack.submit("nap", ticks=10_000), stack.submit("leak")
    environment = stack.under_way(nap).environ()
    assert not {"HF_TOKEN", "WANDB_API_KEY", "MISTUDIO_API_TOKEN"} & environment.keys()
    assert environment["CELERY_BROKER_URL"] == stack.redis.url
    failed = stack.ended(leak)
    assert failed.error is not None
    assert "401 for ***" in failed.error["message"]  # it had the token, or this would be a KeyError
    stack.ledger.request_cancel(nap.id)
    stack.ended(nap)


def test_kinds_that_read_from_the_hub_declare_its_token() -> None:
    declared = {name for name, kind in kinds().items() if "HF_TOKEN" in kind.secrets}
    assert declared >= {"activations", "download", "extract", "import", "pull", "push", "tokenize", "train"}
    assert not declared & {"cleanup", "describe", "export", "toy-model"}
    assert [name for name, kind in kinds().items() if "WANDB_API_KEY" in kind.secrets] == ["train"]


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("redis://hunter2@host:1/0", "redis://***@host:1/0"),
        ("REDIS://hunter2@host", "REDIS://***@host"),
        ("rediss://me:hunter2@host", "rediss://me:***@host"),
        (
            "rediss://host?ssl_keyfile_password=hunter2&ssl_ca_certs=/a",
            "rediss://host?ssl_keyfile_password=***&ssl_ca_certs=/a",
        ),
        ("redis+socket:///tmp/s?password=hunter2", "redis+socket:///tmp/s?password=***"),
        ("unix://hunter2@/tmp/s", "unix://***@/tmp/s"),
        ("sentinel://hunter2@a:1,b:2/m/0", "sentinel://***@a:1,b:2/m/0"),
        (
            "sentinels://me:hunter2@a:1,b:2/m?sentinel_password=hunter2",
            "sentinels://me:***@a:1,b:2/m?sentinel_password=***",
        ),
        ("redis://host:6379/0", "redis://host:6379/0"),
    ],
)
def test_a_password_in_a_url_of_redis_is_masked_by_its_place(url: str, seen: str) -> None:
    assert redacted(url) == seen
    assert "hunter2" not in redact(f"cannot reach {url}", {})


def test_a_password_with_a_raw_at_is_masked_wherever_it_is_named() -> None:
    environment = {"CELERY_BROKER_URL": "redis://:p@ssw0rd-Planted@db:6379/0"}
    assert redact("AUTH p@ssw0rd-Planted failed", environment) == "AUTH *** failed"


def test_what_a_job_prints_past_logging_is_masked_where_its_log_is_shown(stack: Stack) -> None:
    job = stack.submit("nap", ticks=1)
    log = stack.folder / "home" / "logs" / "jobs" / f"{job.id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"Authorization: Bearer {TOKEN}\n")
    for flags in ((), ("--json",)):
        command = [MISTUDIO, "jobs", "logs", job.id, *flags]
        done = subprocess.run(command, env=stack.environment(), capture_output=True, text=True, timeout=60)
        assert "Bearer ***" in done.stdout, done.stderr
    record = as_record(f"Authorization: Bearer {TOKEN}", job.id)
    assert record["message"] == "Authorization: Bearer ***"
