"""Words that people type by habit of kubectl, docker, Celery, SAELens and transformers, and what they are called here.

Help and completion show the names of this program alone.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

from tasks.errors import UserError

NOUNS = {
    "job": "jobs",
    "worker": "workers",
    "host": "hosts",
    "queues": "queue",
    "profile": "profiles",
    "sae": "saes",
    "settings": "config",
}

#: Commands in one word.
SHORT = {
    "status": ("workers", "status"),
    "ps": ("jobs", "ls"),
    "ls": ("jobs", "ls"),
    "list": ("jobs", "ls"),
    "version": ("--version",),
    "help": ("--help",),
    "start": ("workers", "start"),
    "stop": ("workers", "stop"),
    "restart": ("workers", "restart"),
    **{verb: ("jobs", verb) for verb in ("logs", "cancel", "wait", "retry", "show", "explain", "rm")},
}

_OF_ALL = {"list": "ls", "ps": "ls", "get": "show", "info": "show", "log": "logs", "delete": "rm", "remove": "rm"}
VERBS = {
    "jobs": {**_OF_ALL, "status": "show", "describe": "show", "kill": "cancel", "stop": "cancel", "tail": "logs"},
    "workers": {
        **dict.fromkeys(("ls", "list", "ps", "get", "show", "info"), "status"),
        "log": "logs",
        "tail": "logs",
        "run": "start",
        "up": "start",
        "down": "stop",
        "kill": "stop",
    },
    "hosts": {"list": "ls", "ps": "ls", "status": "ls", "get": "show", "describe": "show", "info": "show"},
    "queue": {
        **dict.fromkeys(("list", "ps", "status", "show", "get"), "ls"),
        "stop": "pause",
        "unpause": "resume",
        "start": "resume",
        "clear": "purge",
        "empty": "purge",
    },
    "profiles": {"list": "ls", "get": "show", "describe": "show", "check": "validate"},
    "saes": {"list": "ls", "get": "show", "describe": "show", "info": "show"},
    "config": {"list": "show", "ls": "show", "view": "show"},
}

#: Flags: the first of these names that a command has is meant.
FLAGS: dict[str, tuple[str, ...]] = {
    "-n": ("--limit",),
    "--lines": ("-n",),
    "--tail": ("-n",),
    "-q": ("--queue", "--queues"),
    "-Q": ("--queues", "--queue"),
    "-c": ("--concurrency",),
    "-k": ("--kind",),
    "-t": ("--tag",),
    "-y": ("--yes",),
    "--force": ("--yes",),
    "--no-input": ("--yes",),
    "--status": ("--state",),
    "--label": ("--tag",),
    "--follow": ("-f",),
    "--lr": ("--learning-rate",),
    "--width": ("--d-sae", "--d-model"),
    "--hidden-size": ("--d-model",),
    "--batch": ("--batch-size",),
    "--train-batch-size-tokens": ("--batch-size",),
    "--tokens": ("--training-tokens", "--token-set"),
    "--max-steps": ("--steps",),
    "--clip": ("--max-grad-norm",),
    "--checkpoint-s": ("--checkpoint-every",),
    "--gradient-accumulation-steps": ("--accumulate",),
    "--expansion-factor": ("--expansion",),
    "--warmup-ratio": ("--warmup",),
    "--early-stopping-patience": ("--patience",),
    "--architecture": ("--arch",),
    "--hook-layer": ("--layer",),
    "--model-name": ("--model",),
    "--dataset-path": ("--dataset",),
    "--l1-coefficient": ("--l1",),
    "--l0-coefficient": ("--l0",),
    "--context": ("--context-length",),
    "--context-size": ("--context-length",),
    "--max-seq-length": ("--context-length",),
    "--tokenizer": ("--model",),
    "--report-to": ("--log",),
    "--n-gpus": ("--gpu",),
    "--device": ("--gpu",),
}
_FORMATS = ("-o", "--output", "--format")
_WATCH = ("-w", "--watch")


def resolve(argv: Sequence[str], commands: Sequence[str], params: Sequence[Any]) -> list[str]:
    """The command line with the words of this program for its noun and verb; a kind of job alone is to be submitted.

    `params` are those of the root, which come before the noun.
    """
    at = _first_word(argv, [flag for param in params if not getattr(param, "is_flag", False) for flag in param.opts])
    if at is None:
        return list(argv)
    before, noun, rest = list(argv[:at]), argv[at], list(argv[at + 1 :])
    if noun == "logs" and (not rest or rest[0].startswith("-")):
        return [*before, "workers", "logs", *rest]
    if noun not in commands and noun in SHORT:
        return [*before, *SHORT[noun], *rest]
    noun = NOUNS.get(noun, noun)
    if noun not in commands and _is_kind(noun):
        return [*before, "submit", noun, *rest]
    if rest and noun in VERBS:
        rest[0] = VERBS[noun].get(rest[0], rest[0])
    return [*before, noun, *rest]


def _is_kind(noun: str) -> bool:
    from tasks.jobs.kind import kinds  # most commands need none of it

    return noun in kinds()


def with_flags(command: Any) -> None:
    """Let a command, and those below it, take the flags that people type for its own."""
    for below in getattr(command, "commands", {}).values():
        with_flags(below)
    parse: Callable[[Any, list[str]], list[str]] = command.parse_args
    if not getattr(command, "commands", {}):
        command.parse_args = lambda ctx, args: parse(ctx, list(translated(args, command.params)))


def translated(args: Sequence[str], params: Sequence[Any]) -> Iterator[str]:
    """The arguments with the flags that these parameters have; the rest, and every value, as it is."""
    flags = {flag: param for param in params for flag in (*param.opts, *param.secondary_opts) if flag.startswith("-")}
    words = iter(args)
    for word in words:
        if word == "--":
            yield word
            yield from words
            return
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if name in _FORMATS and name not in flags and "--json" in flags:
            yield from _format(name, value if equals else next(words, ""), flags)
            continue
        if name in _WATCH and name not in flags:
            raise UserError("Lists show one moment.", "Live view: mistudio top")
        name = _flag_meant(name, flags)
        yield name + equals + value
        if not equals and name in flags and not getattr(flags[name], "is_flag", False):
            yield from (next_word for next_word in [next(words, None)] if next_word is not None)


def _first_word(argv: Sequence[str], with_value: Container[str]) -> int | None:
    at = 0
    while at < len(argv):
        if not argv[at].startswith("-"):
            return at
        at += 2 if argv[at] in with_value else 1
    return None


def _format(name: str, value: str, flags: Container[str]) -> Iterator[str]:
    if value == "json":
        yield "--json"
    elif value == "wide" and "--wide" in flags:
        yield "--wide"
    elif value not in ("table", "text", "wide"):
        raise UserError(f"{name} {value!r} is not an output format.", "For JSON: --json")


def _flag_meant(name: str, flags: dict[str, Any]) -> str:
    if name in flags or not name.startswith("-"):
        return name
    dashed = "--" + name[2:].replace("_", "-") if name.startswith("--") else name
    return next((flag for flag in (dashed, *FLAGS.get(dashed, ())) if flag in flags), name)
