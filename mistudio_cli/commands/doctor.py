"""`mistudio doctor`: check this installation and suggest fixes."""

from __future__ import annotations

from typing import Annotated

import typer

from mistudio_cli import session
from mistudio_cli.errors import Code
from mistudio_cli.monitor.check_result import Check
from mistudio_cli.terminal import output

app = typer.Typer()


@app.command(help="Check this installation and suggest fixes")
def doctor(as_json: Annotated[bool, typer.Option("--json", help="As JSON")] = False) -> None:
    """Check packages, home, Redis, workers and this machine; fails when a check does. Changes nothing."""
    from mistudio_cli.doctor import checks  # everything that can be read: too much for `mistudio --help`

    found = list(checks.all_checks(session.current_settings()))
    sound = all(check.verdict != "failed" for check in found)
    if as_json:
        output.data_json({"ok": sound, "checks": [_as_json(check) for check in found]})
    else:
        rows = [[check.name, check.verdict, check.detail] for check in found]
        output.table(["CHECK", "VERDICT", "DETAIL"], rows, wrap=True)
        for fix in dict.fromkeys(f"{check.name}: {check.hint}" for check in found if check.hint):
            output.talk(fix)
    if not sound:
        raise typer.Exit(int(Code.FAILED))


def _as_json(check: Check) -> dict[str, str]:
    return {"name": check.name, "verdict": check.verdict, "detail": check.detail, "mend": check.hint}
