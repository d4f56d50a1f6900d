"""`mistudio profiles`: which workers a profile means, what they need, and how to write one's own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mistudio_cli import completion, session
from mistudio_cli.errors import Code
from mistudio_cli.profile import profile_export
from mistudio_cli.profile.resources import read_machine, shortfalls
from mistudio_cli.profile.rules import (
    ProfileFile,
    file_of,
    load_profile,
    profile_files,
    read_profile,
    user_folder,
    validating,
    workers_of,
)
from mistudio_cli.terminal import output
from mistudio_cli.views import profile_json, profile_tables
from tasks.errors import UserError

app = typer.Typer(help="List, inspect and validate worker profiles", no_args_is_help=True)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A profile's name", autocompletion=completion.of(completion.profiles))
]
Json = Annotated[bool, typer.Option("--json", help="As JSON")]


class ExportFormat(StrEnum):
    """How a profile can be written down."""

    TOML = "toml"
    CELERY = "celery"


@app.command("ls")
def ls(as_json: Json = False) -> None:
    """List profiles with their workers and requirements."""
    found = [read_profile(file) for file in profile_files()]
    if as_json:
        output.data_json(profile_json.profiles(found))
        return
    output.table(*profile_tables.profiles(found), wrap=True)
    for read in found:
        if read.faults:
            output.talk(f"{read.file.name} is not sound: {validating(read.file.name)}")
    output.talk(f"Your own are TOML files in {user_folder()}: mistudio profiles export --help")


@app.command("show")
def show(name: Name, as_json: Json = False) -> None:
    """Show a profile: its keys, its workers and their command lines, and what this machine lacks for them."""
    file, profile = file_of(name), load_profile(name)
    short = shortfalls(f"The profile {name}", workers_of(profile), read_machine())
    if as_json:
        output.data_json(profile_json.profile_in_full(file, profile, short))
        return
    output.data("\n".join(profile_tables.profile_facts(file, profile)) + "\n")
    output.table(*profile_tables.profile_workers(profile))
    output.data("\n" + profile_export.command_lines(profile))
    for missing in short:
        output.talk(missing.sentence)


@app.command("validate")
def validate(
    which: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE|NAME...]", help="Files or names; default: all profiles")
    ] = None,
    as_json: Json = False,
) -> None:
    """Report all errors in profiles and how to fix them; fails if there is one."""
    files = [_file(word) for word in which] if which else profile_files()
    found = [read_profile(file) for file in files]
    if as_json:
        output.data_json(profile_json.validated(found))
    else:
        output.table(*profile_tables.validated(found), wrap=True)
        for read in found:
            for fault in read.faults:
                output.talk(f"{read.file.name}: {fault.what}: {fault.hint}")
    if any(read.faults for read in found):
        raise typer.Exit(int(Code.USAGE))


@app.command("export")
def export(
    name: Name,
    form: Annotated[
        ExportFormat, typer.Option("--as", help="toml: a profile file; celery: a script of worker command lines")
    ] = ExportFormat.TOML,
    to: Annotated[Path | None, typer.Option(help="Write to this new file", metavar="FILE")] = None,
) -> None:
    """Export a profile with every key as a template, or as plain command lines."""
    profile = load_profile(name)
    if form is ExportFormat.TOML:
        text = profile_export.as_toml(profile)
    else:
        text = profile_export.as_commands(profile, session.current_settings())
    if to is None:
        output.data(text.rstrip("\n"))
        return
    _write_new(to, text)
    own = form is ExportFormat.TOML and to.absolute().parent == user_folder().absolute()
    output.talk(f"Written to {to}." + (f" Start it with: mistudio workers start {to.stem}" if own else ""))


def _file(word: str) -> ProfileFile:
    """What is to be validated: a path has a slash or the ending of a profile's file."""
    is_path = "/" in word or word.endswith(".toml")
    return ProfileFile(Path(word).stem, Path(word), "file") if is_path else file_of(word)


def _write_new(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UserError(f"{path} is there already.", "Choose another name, or remove it first") from error
