"""Assembles the commands, and holds the one try/except of the command line."""

from __future__ import annotations

import copy
import gc
import importlib
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mistudio_cli import aliases, session
from mistudio_cli.errors import Code
from mistudio_cli.terminal import output
from mistudio_cli.terminal.humanize import one_line

#: The nouns and verbs, in the order of the help; each is a file in `mistudio_cli/commands` with an `app`.
COMMANDS = (
    *("quickstart", "workers", "hosts", "profiles", "submit", "queue", "jobs", "saes"),
    *("top", "serve", "join", "leave", "fleet", "doctor", "config"),
)

#: The exception behind every wrong use of the command line, whichever Click this Typer carries.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
ClickException: type[Exception] = UsageError.__mro__[1]

#: Typer gives these to each app; they belong to the root alone.
_COMPLETION = ("install_completion", "show_completion")

#: Under this name a context keeps the word after the noun.
_VERB = "mistudio.verb"

_debug = False


class Commands(TyperGroup):
    """Imports a noun's file when it is named and builds the verb that is named, so that none pays for another."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands, in the order of the help."""
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names, and the words after it."""
        ctx.meta[_VERB] = args[1] if len(args) > 1 else None
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment] # names alone, to suggest what was meant
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"mistudio_cli.commands.{cmd_name}")
        gc.freeze()  # what is loaded by now stays to the end
        gc.enable()
        command = _built(module.app, ctx.meta.get(_VERB))
        command.name = cmd_name
        command.params = [param for param in command.params if param.name not in _COMPLETION]
        aliases.with_flags(command)
        return _plain(command)


def _built(app: typer.Typer, verb: str | None) -> Any:
    """The command of an app; with its other verbs left out when `verb` is one of them."""
    named = [command for command in app.registered_commands if verb and command.name == verb]
    if not named:
        return typer.main.get_command(app)
    app = copy.copy(app)
    app.registered_commands = named
    return typer.main.get_group(app)


def _plain(command: Any) -> Any:
    """The command with plain help: Rich would cost as much to import as all the rest, and cut lines in a pipe."""
    command.rich_markup_mode = None
    for below in getattr(command, "commands", {}).values():
        _plain(below)
    return command


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

app = typer.Typer(cls=Commands, rich_markup_mode=None, context_settings=_CONTEXT)


@app.callback()
def root(
    home: Annotated[str | None, typer.Option(help="Folder for Redis data, logs and sockets", metavar="DIR")] = None,
    store: Annotated[str | None, typer.Option(help="Folder for artifacts", metavar="DIR")] = None,
    broker_url: Annotated[
        str | None, typer.Option(help="Redis to use instead of the home's own", metavar="URL")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Prefix of this installation's keys in a shared Redis", metavar="WORD")
    ] = None,
    result_backend: Annotated[str | None, typer.Option(help="Redis URL for Celery results", metavar="URL")] = None,
    owner: Annotated[
        str | None,
        typer.Option(help="Owner of submitted jobs; default: the Redis user, else the OS user", metavar="NAME"),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit", is_eager=True, callback=lambda yes: _print_version(yes)
        ),
    ] = False,
) -> None:
    """Train sparse autoencoders on language models: queues, workers, jobs, features."""
    global _debug
    _debug = debug
    flags = {"home": home, "store": store, "broker_url": broker_url, "prefix": prefix}
    session.remember_flags({**flags, "result_backend": result_backend, "owner": owner})
    output.suggest_with(session.typed_flags(), COMMANDS)


def run_command(argv: list[str]) -> int:
    """Run one command; returns its exit code."""
    try:
        command = typer.main.get_command(app)
        words = aliases.resolve(argv, COMMANDS, command.params) or ["--help"]
        return command(args=words, prog_name="mistudio", standalone_mode=False) or 0
    except ClickException as error:
        return _wrong_use(error)
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        return int(Code.READER_GONE)  # Click's own code for a help text that nobody reads on is another
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the one place where every exception ends
        if _debug:
            output.talk("".join(traceback.format_exception(error)).rstrip())
        from mistudio_cli.error_messages import explain

        explained = explain(error)
        return _print_error(explained.sentence, explained.hint, explained.code)


def _print_version(yes: bool) -> None:
    if yes:
        from importlib.metadata import version

        output.data(f"mistudio {version('mistudio')}")
        raise typer.Exit


def _wrong_use(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        output.talk(error.format_message())
        return int(Code.USAGE)
    where = error.ctx.command_path if getattr(error, "ctx", None) else "mistudio"
    return _print_error(error.format_message(), f"See: {where} --help", Code.USAGE)


def _print_error(sentence: str, fix: str, code: Code) -> int:
    if sentence:
        output.talk(one_line(sentence))
    if fix:
        output.talk(f"  {one_line(fix)}")
    return int(code)
