"""Whatever is typed or stands in a file: a sentence and an exit code, no traceback, no hang, no escape sequence."""

from __future__ import annotations

import json
import os
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from mistudio_cli import app, session
from mistudio_cli.errors import Code
from mistudio_cli.profile.profile_export import as_toml
from mistudio_cli.profile.rules import load_profile
from mistudio_cli.submission.pipeline_example import example
from tasks.ledger.client import Ledger
from tests.cli.conftest import Cli
from tests.cli.test_saes import add_sae
from tests.conftest import PATIENCE_S, deadline

DEEPER = os.environ.get("MISTUDIO_TEST_DEEPER") == "1"
CASES = 5000 if DEEPER else 150

#: What starts processes, or listens.
NOT_PLAYED = {("workers", "start"), ("serve", None), ("quickstart", None)}
#: What would wait for what never comes.
SAID_ALWAYS = {("top", ""): ["--once"], ("jobs", "wait"): ["--timeout", "0"]}
NOT_SAID = {"--wait", "--follow", "-f", "--foreground", "--home", "--broker-url", "--result-backend", "--store"}

VALUES = ["", " ", "-", "--", "0", "-1", "1e999", "nan", "9" * 5000, "a,b", ",", "1,1", "٣", "last", "x" * 5000]
VALUES += ["../../etc", "/dev/null", "/proc/self/mem", "~", "\x1b[2J", "a\nb", "\u202e", "\udcff", "[]", "{}", "${x}"]
VALUES += [
    "training",
    "failed",
    "train",
    "nap",
    "2h",
    "9999w",
    "2026-11-24T08:00",
    "0001-01-01",
    "hf_" + "a" * 30,
    "k=1",
]

ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


class Here:
    """Runs commands in this process, and holds each to what every command promises."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys
        self.opened: list[Ledger] = []

    def __call__(self, argv: list[str]) -> int:
        with deadline(PATIENCE_S / 2, repr(argv)[:500]):
            try:
                code = app.run_command(argv)
            except SystemExit as ended:
                code = int(ended.code or 0)
        while self.opened:
            self.opened.pop().close()
        result = self._capsys.readouterr()
        about = f"{argv!r}"[:2000] + f"\n{result.err[-2000:]}"
        assert code in set(Code) - {Code.FAULT}, about
        assert "Traceback" not in result.err, about
        assert not ODD.search(result.out + result.err), about
        return code


@pytest.fixture
def here(cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Here]:
    """Commands of a home whose Redis is there and has no workers."""
    for name, value in cli.environment.items():
        if name.startswith(("MISTUDIO_", "CELERY_")):
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(cli.home)
    nothing = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - till the end of the test
    monkeypatch.setattr(sys, "stdin", nothing)
    here, connect = Here(cli.home, capsys), session.connect_ledger

    def remembered(*args: Any, **values: Any) -> Ledger:
        here.opened.append(connect(*args, **values))
        return here.opened[-1]

    monkeypatch.setattr(session, "connect_ledger", remembered)
    yield here
    nothing.close()
    session.remember_flags({})


def commands() -> list[tuple[list[str], list[str], int]]:
    """Every command that is played: its words, its flags, and how many arguments it takes."""
    found = []
    for noun in app.COMMANDS:
        if (noun, None) in NOT_PLAYED:
            continue
        module = __import__(f"mistudio_cli.commands.{noun}", fromlist=["app"])
        group = typer.main.get_command(module.app)
        for verb, command in getattr(group, "commands", {"": group}).items():
            if (noun, verb) in NOT_PLAYED:
                continue
            flags = [flag for param in command.params for flag in param.opts if flag.startswith("-")]
            arguments = sum(1 for param in command.params if param.param_type_name == "argument")
            words = [noun, verb] if verb else [noun]
            words += SAID_ALWAYS.get((noun, verb), [])
            found.append((words, sorted(set(flags) - NOT_SAID), arguments))
    return found


def test_whatever_is_typed(here: Here) -> None:
    dice, known = random.Random(11), commands()
    assert len(known) > 25
    for number in range(CASES):
        words, flags, arguments = known[number % len(known)]
        argv = [*words, *(dice.choice(VALUES) for _ in range(dice.randrange(arguments + 2)))]
        for flag in dice.sample(flags, min(len(flags), dice.randrange(4))):
            argv += [flag, dice.choice(VALUES)] if dice.random() < 0.8 else [flag]
        here(argv)


JOBS = '{"kind": "download", "source": "/dev/null", "name": "a", "tags": ["x"], "priority": 3}\n\nnull\n'


def doors(home: Path) -> dict[str, tuple[Path, bytes, list[str]]]:
    """What is read from files: where each lies, something sound to spoil, and the command that reads it."""
    model = home / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    sae = add_sae(home, "mine")
    recipe, jobs = home / "r.toml", home / "jobs.jsonl"
    config = json.dumps({"model_type": "gpt_neox", "num_hidden_layers": 2, "hidden_size": 8, "vocab_size": 40})
    train = ["submit", "train", "--dry-run", "--dataset", "/dev/null", "--layer", "1", "--model"]
    return {
        "jsonl": (jobs, JOBS.encode(), ["submit", "many", "--dry-run", str(jobs)]),
        "recipe": (recipe, example().encode(), ["submit", "pipeline", "--dry-run", str(recipe)]),
        "profile": (home / "p.toml", as_toml(load_profile("full")).encode(), ["profiles", "validate", "p.toml"]),
        "settings": (home / "config" / "mistudio.toml", b'store = "s"\n# a\n', ["config", "show"]),
        "config.json": (model / "config.json", config.encode(), [*train, str(model)]),
        "cfg.json": (sae / "cfg.json", (sae / "cfg.json").read_bytes(), ["saes", "show", "mine"]),
        "manifest": (sae / "manifest.json", (sae / "manifest.json").read_bytes(), ["saes", "show", "mine"]),
        "manifests": (sae / "manifest.json", (sae / "manifest.json").read_bytes(), ["saes", "ls"]),
    }


PIECES = [
    b"[" * 2000,
    b"{" * 2000,
    b'{"a":' * 2000,
    b"null",
    b"9" * 5000,
    b"1e999",
    b"NaN",
    b"-1",
    b'"\\ud800"',
    b"\xff",
]
PIECES += [
    b"\x1b[2J",
    b"\n",
    b'"',
    b"'",
    b"=",
    b"[[step]]\n",
    b"true",
    b"[]",
    b"{}",
    b"a." * 300,
    b"\xe2\x80\xae",
    b"\\u001b",
]
PIECES += [b'["x"]', b'"x"', b"0", b"${a}", b"1979-05-27", b"\0", b'"\\u0000"']


def spoiled(dice: random.Random, sound: bytes) -> bytes:
    """The same with a value, or a few bytes, replaced."""
    found = bytearray(sound)
    for _ in range(dice.randrange(1, 4)):
        if dice.random() < 0.6 and (values := [*re.finditer(rb'(?<=[:=] )("[^"]*"|[\w.-]+|\[[^\]]*\])', found)]):
            start, end = dice.choice(values).span()
        else:
            start = dice.randrange(len(found) + 1)
            end = start + dice.randrange(3)
        found[start:end] = dice.choice(PIECES)
    return bytes(found)


def test_whatever_stands_in_a_file(here: Here) -> None:
    dice, known = random.Random(13), doors(here.home)
    codes: dict[str, set[int]] = {name: set() for name in known}
    for number in range(CASES):
        name = [*known][number % len(known)]
        path, sound, argv = known[name]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(spoiled(dice, sound))
        codes[name].add(here(argv))
        path.write_bytes(sound)
        if name == "settings":
            path.unlink()
    assert all(found & {Code.OK, Code.USAGE} for found in codes.values()), codes
