"""`mistudio fleet`: what holds for all who share a Redis: quotas of owners, rights of Redis users."""

from __future__ import annotations

from typing import Annotated

import typer

from mistudio_cli import completion, session
from mistudio_cli.error_messages import unread_as_json
from mistudio_cli.errors import NotFound
from mistudio_cli.jobs import new_home
from mistudio_cli.terminal import output
from mistudio_cli.views import quota_view
from tasks.errors import UserError
from tasks.fleet import acl
from tasks.fleet.job_owner import check_owner
from tasks.ledger.client import Ledger
from tasks.ledger.quotas import LIMITS, Quota, set_quota, unset_quota
from tasks.parsing.safe_text import shown

app = typer.Typer(help="Manage what all users of one Redis share: quotas, permissions", no_args_is_help=True)
quota = typer.Typer(help="Limit the jobs of each owner", no_args_is_help=True)
app.add_typer(quota, name="quota")

Owner = Annotated[str, typer.Argument(metavar="OWNER", help="A Redis user, an OS user, or a name given with --owner")]
Json = Annotated[bool, typer.Option("--json", help="As JSON")]


@app.callback()
def noun() -> None:
    """Manage what all users of one Redis share."""


@app.command("acl")
def print_acl(
    role: Annotated[
        str | None,
        typer.Argument(
            metavar="[ROLE]",
            help="admin, worker, submitter or reader; default: all",
            autocompletion=completion.of(lambda: [role.name for role in acl.ROLES]),
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the Redis user; default: mistudio-ROLE")
    ] = None,
) -> None:
    """Print commands for redis-cli that create a Redis user for each role. Put a password in each first."""
    if name is not None and role is None:
        raise UserError("A name is for the user of one role.", "Give a role: mistudio fleet acl submitter --name NAME")
    if name is not None:
        check_owner(name)
    chosen = tuple(known for known in acl.ROLES if role in (None, known.name))
    if not chosen:
        raise UserError(
            f"There is no role {shown(role or '')}.", f"Roles: {', '.join(known.name for known in acl.ROLES)}"
        )
    output.data("\n".join(acl.lines(session.current_address(), chosen, name)))


@quota.command("set")
def set_(
    owner: Owner,
    running: Annotated[int | None, typer.Option(min=0, help="Maximum running jobs")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="Maximum running jobs on GPUs")] = None,
    queued: Annotated[int | None, typer.Option(min=0, help="Maximum queued and waiting jobs")] = None,
) -> None:
    """Limit the jobs of an owner. Limits not given stay unchanged; running jobs are not stopped."""
    check_owner(owner)
    limits = Quota(running, gpus, queued)
    if limits == Quota():
        raise UserError("No limit given.", f"Give at least one of {', '.join(f'--{name} N' for name in LIMITS)}")
    ledger = _ledger(start=True)
    set_quota(ledger.client, owner, limits)
    output.talk(quota_view.sentence(ledger, owner))


@quota.command("unset")
def unset(owner: Owner) -> None:
    """Remove all limits of an owner."""
    check_owner(owner)
    ledger = new_home.ledger_to_read(session.current_settings())
    if isinstance(ledger, new_home.EmptyLedger) or not unset_quota(ledger.client, owner):
        raise NotFound(f"{owner} has no quota.", "See: mistudio fleet quota ls")
    output.talk(f"{owner} has no quota any more.")


@quota.command("ls")
def ls(as_json: Json = False) -> None:
    """List quotas of owners and their usage."""
    with unread_as_json({"quotas": None}, as_json=as_json):
        ledger = _ledger()
        used, now = quota_view.read_used(ledger), ledger.now()
    if as_json:
        output.data_json(quota_view.shape(now, used))
        return
    output.table(*quota_view.table(used))
    if not used:
        output.talk("No owner has a quota. Set one: mistudio fleet quota set OWNER --running N")


def _ledger(*, start: bool = False) -> Ledger:
    return session.connect_ledger(session.current_settings(), supervise=start)
