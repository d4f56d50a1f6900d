"""The console entry `mistudio`. Imports nothing else before it is sure that `tasks` is the product's."""

from __future__ import annotations

import gc
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from mistudio_cli.terminal.ascii import write_ascii_where_needed


def run() -> None:
    """The console entry."""
    sys.exit(main(sys.argv[1:]))


def main(argv: list[str]) -> int:
    """Run one command; returns its exit code."""
    _open_what_is_closed()
    write_ascii_where_needed()
    if foreign := foreign_tasks_module():
        sys.stderr.write(
            f"The module `tasks` in {foreign} is not mistudio's.\n"
            "  Take it off PYTHONPATH, or install mistudio in an environment of its own\n"
        )
        return 2
    gc.disable()  # until the command is loaded: an import makes no garbage, and the searches take a tenth of the time
    try:
        from mistudio_cli.app import run_command
    except KeyboardInterrupt:  # most of a short command's time goes by here
        return 130
    return run_command(argv)


def foreign_tasks_module() -> Path | None:
    """The folder of somebody else's `tasks`, when that is what an import would find; it is not run."""
    found = find_spec("tasks")
    if found is None:
        return Path("no folder at all")
    if found.origin is None:  # a folder without __init__.py
        return Path(next(iter(found.submodule_search_locations or ("tasks",)))).parent
    origin, ours = Path(found.origin), Path(__file__).parent.parent
    is_package = origin.name == "__init__.py"
    theirs = origin.parent.parent if is_package else origin.parent
    return None if is_package and os.path.samefile(theirs, ours) else theirs


def _open_what_is_closed() -> None:
    """Give a command that was started with `>&-` or `2>&-` somewhere to write to."""
    nowhere = None if sys.stdout and sys.stderr else open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - till the end
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere


if __name__ == "__main__":
    run()
