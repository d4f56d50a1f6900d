"""What people type by habit works, or says what to type; help shows the program's own names alone."""

from __future__ import annotations

import importlib

import pytest
import typer

from mistudio_cli import aliases, app
from mistudio_cli.errors import Code
from tests.cli.conftest import Cli

ROOT = typer.main.get_command(app.app)


def group_of(noun: str) -> object:
    return typer.main.get_command(importlib.import_module(f"mistudio_cli.commands.{noun}").app)


@pytest.mark.parametrize("noun", aliases.VERBS)
def test_every_alias_of_a_verb_leads_to_a_command_and_hides_none(noun: str) -> None:
    there = set(group_of(noun).commands)
    for alias, verb in aliases.VERBS[noun].items():
        assert alias not in there, f"{noun} {alias} is a command of its own"
        assert verb in there or verb in aliases._OF_ALL.values()
    assert all(verb in there for alias, verb in aliases.VERBS[noun].items() if alias not in aliases._OF_ALL)


def test_every_alias_of_a_noun_leads_to_a_command_and_hides_none() -> None:
    assert not set(aliases.NOUNS) & set(app.COMMANDS)
    assert set(aliases.NOUNS.values()) <= set(app.COMMANDS)
    for words in aliases.SHORT.values():
        assert words[0].startswith("--") or words[1] in group_of(words[0]).commands


def test_every_alias_of_a_flag_leads_to_a_flag_of_some_command() -> None:
    there = set()
    for noun in app.COMMANDS:
        group = group_of(noun)
        for command in getattr(group, "commands", {"": group}).values():
            there |= {flag for param in command.params for flag in param.opts}
    assert {flag for flags in aliases.FLAGS.values() for flag in flags} <= there


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("workers ls --json", "workers status --json"),
        ("worker list", "workers status"),
        ("status", "workers status"),
        ("job ls", "jobs ls"),
        ("ps --json", "jobs ls --json"),
        ("jobs list -o json", "jobs ls --json"),
        ("jobs ls --output=json", "jobs ls --json"),
        ("jobs ls -o table", "jobs ls"),
        ("jobs ls -n 3", "jobs ls --limit 3"),
        ("jobs ls -q training --status queued -t x", "jobs ls --queue training --state queued --tag x"),
        ("queues status", "queue ls"),
        ("queue unpause datasets", "queue resume datasets"),
        ("sae list", "saes ls"),
        ("version", "--version"),
        ("help", "--help"),
        ("config list", "config show"),
        ("profile get full", "profiles show full"),
        ("train --model m", "submit train --model m"),
        ("toy-model", "submit toy-model"),
    ],
)
def test_a_habit_means_a_command(typed: str, meant: str) -> None:
    words = aliases.resolve(typed.split(), app.COMMANDS, ROOT.params)
    if not words[0].startswith("-"):
        params = group_of(words[0]).commands[words[1]].params
        words = [*words[:2], *aliases.translated(words[2:], params)]
    assert words == meant.split()


@pytest.mark.parametrize("flag", [flag for param in ROOT.params if not param.is_flag for flag in param.opts])
def test_a_habit_may_follow_any_option_of_the_root_with_its_value(flag: str) -> None:
    words = aliases.resolve([flag, "value", "workers", "list"], app.COMMANDS, ROOT.params)
    assert words == [flag, "value", "workers", "status"]


@pytest.mark.parametrize("typed", ["worker list -o json", "ps -n 3", "version"])
def test_a_habit_does_what_the_command_does(cli: Cli, typed: str) -> None:
    result = cli(*typed.split())
    assert (result.code, bool(result.out)) == (Code.OK, True), result.err


@pytest.mark.parametrize(
    "words",
    [
        "--learning-rate 1e-3 --d-sae 64 --batch-size 512 --max-grad-norm 0.5 --training-tokens 10k --layer 1",
        "--learning-rate 1e-3 --d-sae 64 --batch_size 512 --max-grad-norm 0.5 --training_tokens 10k --hook-layer 1",
        "--lr 1e-3 --width 64 --batch 512 --clip 0.5 --tokens 10k --layer 1",
    ],
    ids=["ours", "other libraries", "earlier versions"],
)
def test_flags_of_other_libraries_and_of_earlier_versions_set_the_same_parameters(cli: Cli, words: str) -> None:
    corpus = str(cli.home / "corpus.txt")
    (cli.home / "corpus.txt").write_text("some text\n" * 99)
    made = cli("submit", "toy-model", "--dataset", corpus, "--name", "toy")
    assert made.code == Code.OK, made.err
    result = cli("submit", "train", "--model", "toy", "--dataset", corpus, *words.split(), "--dry-run", "--json")
    assert result.code == Code.OK, result.err
    params = result.json["jobs"][-1]["params"]
    wanted = {"lr": 1e-3, "width": 64, "batch": 512, "clip": 0.5, "tokens": 10_000, "layer": 1}
    assert {name: params[name] for name in wanted} == wanted


@pytest.mark.parametrize("words", ["--d-model 64 --context-length 32", "--width 64 --context 32"])
def test_a_toy_models_flags_are_those_of_its_configuration(cli: Cli, words: str) -> None:
    (cli.home / "corpus.txt").write_text("some text\n" * 99)
    corpus = str(cli.home / "corpus.txt")
    result = cli("submit", "toy-model", "--dataset", corpus, *words.split(), "--dry-run", "--json")
    assert result.code == Code.OK, result.err
    assert {"width": 64, "context": 32}.items() <= result.json["jobs"][-1]["params"].items()


def test_celerys_flags_start_a_worker(cli: Cli) -> None:
    result = cli("workers", "start", "-Q", "nope", "-c", "2")
    assert result.code == Code.USAGE
    assert "nope" in result.err
    assert "No such option" not in result.err


@pytest.mark.parametrize("words", ["queue ls --watch", "jobs ls -w", "workers status --watch"])
def test_watching_leads_to_the_live_view(cli: Cli, words: str) -> None:
    result = cli(*words.split())
    assert (result.code, result.out) == (Code.USAGE, "")
    assert "mistudio top" in result.err


def test_a_format_there_is_not_leads_to_json(cli: Cli) -> None:
    result = cli("jobs", "ls", "-o", "yaml")
    assert (result.code, result.err) == (Code.USAGE, "-o 'yaml' is not an output format.\n  For JSON: --json\n")


def test_values_are_never_taken_for_flags(cli: Cli) -> None:
    assert "'-o' is none of" in cli("jobs", "ls", "--state", "-o").err
    assert "There is no job '-w'" in cli("jobs", "show", "--", "-w").err


@pytest.mark.parametrize("words", ["--help", "workers --help", "jobs ls --help", "submit train --help"])
def test_help_has_the_names_of_this_program_alone(cli: Cli, words: str) -> None:
    text = cli(*words.split()).out
    assert not {"--lr", "--width", "--clip", "--watch", "--output", "--status"} & set(text.replace(",", " ").split())


def test_what_is_no_word_at_all_is_still_refused(cli: Cli) -> None:
    for words in ("nothing", "jobs nothing", "jobs ls --nothing"):
        result = cli(*words.split())
        assert (result.code, result.out) == (Code.USAGE, "")
        assert "No such" in result.err
