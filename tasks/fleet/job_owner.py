"""Who owns a job: the Redis user of the connection that submits it, else the name that was given, else the OS user."""

from __future__ import annotations

import os

from tasks.errors import UserError
from tasks.parsing.safe_text import shown
from tasks.parsing.setting_types import OWNER_RULE, owner_name
from tasks.redis_client.redis_url import Address

#: The user of a Redis connection without a user of its own; it says nothing of who connects.
DEFAULT_USER = "default"


def check_owner(name: str) -> str:
    """The name, if it can be an owner's; UserError for any other."""
    try:
        return owner_name(name)
    except ValueError:
        raise UserError(f"{shown(name)} cannot be an owner.", f"Use {OWNER_RULE}") from None


def owner_of(address: Address, given: str | None = None) -> str:
    """The owner of what is submitted over a connection to that address; `given` is the name that a person gave.

    UserError for a name that cannot be one, and for another one than the connection's Redis user.
    """
    if given is not None:
        check_owner(given)
    user = address.username
    if not user or user == DEFAULT_USER:
        return given or os_user()
    if given not in (None, user):
        raise UserError(
            f"The Redis user {user} cannot submit jobs of another owner, {given}.",
            f"Leave out --owner (or MISTUDIO_OWNER), or connect as {given}",
        )
    return user


def os_user() -> str:
    """The name of the user that runs this process; its number where the system has no name for it."""
    try:
        import pwd

        name = pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        name = ""
    try:
        return owner_name(name)
    except ValueError:
        return f"uid-{os.getuid()}"
