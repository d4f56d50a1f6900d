"""Escape sequences, line breaks and bidi overrides from data reach no terminal, and make no line of their own."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from mistudio_cli.error_messages import explain
from mistudio_cli.errors import Code
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, Progress, State
from tests.cli.conftest import Cli
from tests.cli.test_saes import ABOUT, add_sae

EVIL = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202eb\u2028\r\nfailed    job-of-theirs"
SEEN = r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202eb"
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def run_with_evil(cli: Cli, end: State = State.FAILED) -> Job:
    """A job whose source, progress, result and error are somebody else's text."""
    job = cli.ledger.submit(Job(new_job_id(), "download", "a", "datasets", {"source": EVIL, EVIL: 1}))
    claim = cli.ledger.claim(job.id, "all-queues@h", "h")
    assert claim is not None
    cli.ledger.report(claim, Progress(EVIL, 1, 2, EVIL))
    cli.ledger.note(claim, EVIL)
    if end is not State.RUNNING:
        error = {"type": EVIL, "message": EVIL, "traceback": EVIL}
        cli.ledger.finish(claim, end, EVIL, {"columns": [EVIL], "text": EVIL}, error)
    log = cli.home / "logs" / "jobs" / f"{job.id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"{EVIL}\n 10%\r 20%\r")
    return job


@pytest.mark.parametrize(
    "words",
    [
        "jobs show",
        "jobs show --json",
        "jobs explain",
        "jobs explain --json",
        "jobs logs",
        "jobs logs --json",
        "jobs wait",
    ],
)
@pytest.mark.parametrize("end", [State.FAILED, State.RUNNING])
def test_what_a_job_says_steers_nothing(cli: Cli, words: str, end: State) -> None:
    job = run_with_evil(cli, end)
    result = cli(*words.split(), job.id, *["--timeout", "0"] * ("wait" in words))
    assert not STEERS.search(result.out + result.err), ascii(result.out + result.err)
    if "--json" in words:
        records = [json.loads(line) for line in result.out.splitlines()] if "logs" in words else [result.json]
        assert EVIL[:20] in repr(records) or repr(EVIL[:20])[1:-1] in repr(records)
    elif result.out:
        assert SEEN in result.out
    if "logs" not in words:
        assert not re.search(r"^(- )?failed    job-of-theirs", result.out, re.MULTILINE)


def test_lists_and_exports_of_jobs_steer_nothing(cli: Cli) -> None:
    run_with_evil(cli)
    run_with_evil(cli, State.RUNNING)
    for words in ("jobs ls", "jobs ls --json", "jobs export", "top --once", "top --once --json"):
        result = cli(*words.split())
        assert not STEERS.search(result.out + result.err), (words, ascii(result.out + result.err))
        assert result.out


def test_what_an_sae_says_of_itself_steers_nothing(cli: Cli) -> None:
    folder = add_sae(cli.home, "mine", about={**ABOUT, "model_name": EVIL, "hook_name": EVIL, "trained_as": EVIL})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["params"] = {EVIL: EVIL}
    manifest["files"] = {EVIL: {"bytes": EVIL}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for words in ("saes ls", "saes show mine", "saes ls --json", "saes show mine --json"):
        result = cli(*words.split())
        assert result.code == Code.OK, result.err
        assert not STEERS.search(result.out + result.err), (words, ascii(result.out))
    assert SEEN in cli("saes", "show", "mine").out


def test_what_stands_in_a_workers_log_steers_nothing(cli: Cli) -> None:
    log = cli.home / "logs" / "worker-training.log"
    log.parent.mkdir(parents=True)
    log.write_text(EVIL + "\n")
    result = cli("workers", "logs", "worker-training")
    assert SEEN in result.out
    assert not STEERS.search(result.out)


def test_errors_are_one_line_whatever_they_quote(cli: Cli) -> None:
    for words in (
        ["submit", "download", EVIL],
        ["jobs", "ls", "--state", EVIL],
        ["jobs", "show", EVIL],
        [EVIL],
        [f"--{EVIL}"],
    ):
        result = cli(*words)
        assert (result.code, result.out) in ((Code.USAGE, ""), (Code.NOT_FOUND, "")), result.err
        assert not STEERS.search(result.err), (words, ascii(result.err))
        assert len(result.err.splitlines()) <= 3, result.err


def test_an_output_that_knows_ascii_only_gets_ascii(cli: Cli) -> None:
    run_with_evil(cli, State.RUNNING)
    add_sae(cli.home, "mine", about={**ABOUT, "model_name": "modèle"})
    for words in ("jobs ls", "saes ls", "saes show mine", "saes show mine --json", "--help", "top --once"):
        result = cli(*words.split(), PYTHONIOENCODING="ascii")
        assert result.code == Code.OK, result.err
        assert (result.out + result.err).isascii()
    assert cli("saes", "show", "mine", "--json", PYTHONIOENCODING="ascii").json["model"] == "modèle"


@pytest.mark.parametrize(
    ("error", "sentence", "code"),
    [
        (RecursionError("too deep"), "Internal error: RecursionError: too deep", Code.FAULT),
        (KeyError("x"), "Internal error: KeyError: 'x'", Code.FAULT),
        (RuntimeError("at redis://:secret@h"), "Internal error: RuntimeError: at redis://:***@h", Code.FAULT),
        (OSError("AF_UNIX path too long"), "AF_UNIX path too long.", Code.USAGE),
        (MemoryError(), "The command ran out of memory.", Code.FAILED),
        (
            UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates"),
            r"'\udcff' cannot be written as utf-8.",
            Code.USAGE,
        ),
    ],
)
def test_what_is_left_is_an_internal_error_with_the_command_for_a_traceback(
    error: Exception, sentence: str, code: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/mistudio", "--broker-url", "redis://:secret@h", "jobs", "ls"])
    result = explain(error)
    assert (result.sentence, result.code) == (sentence, code)
    if code == Code.FAULT:
        assert result.hint == "For a traceback: mistudio --debug --broker-url redis://:***@h jobs ls"


def test_the_path_of_an_error_is_on_one_line(tmp_path: Path) -> None:
    result = explain(FileNotFoundError(2, "No such file or directory", str(tmp_path / "a")))
    assert result.sentence == f"{tmp_path / 'a'}: No such file or directory."
