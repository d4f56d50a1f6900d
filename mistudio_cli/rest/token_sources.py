"""Where the bearer token comes from: the environment, a file that only its owner reads, or one made now."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tasks.errors import UserError

#: Where the token is, unless another variable is named.
TOKEN_VARIABLE = "MISTUDIO_API_TOKEN"  # noqa: S105 - a variable's name

_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")


def read_token(variable: str, file: Path | None) -> str | None:
    """The token in force; the file wins.

    UserError for a file that others may read, or that holds no token, and for a variable that was named and is not set.
    """
    if file is None and variable != TOKEN_VARIABLE and not os.environ.get(variable):
        raise UserError(f"There is no token in the variable {variable}.", "Set it, or leave out --token-env")
    token = os.environ.get(variable) or None if file is None else _of_file(file)
    if token is not None and not _TOKEN.fullmatch(token):
        raise UserError("The token must be 1 to 512 visible ASCII characters without spaces.", "Make one: --new-token")
    return token


def new_token(file: Path | None) -> str:
    """A new token, kept in the file where one is named. UserError when that is there already."""
    import secrets

    token = secrets.token_urlsafe(32)
    if file is not None:
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except FileExistsError as error:
            raise UserError(f"{file} is there already.", "Leave out --new-token, or remove it first") from error
        with os.fdopen(handle, "w") as opened:
            opened.write(f"{token}\n")
    return token


def _of_file(file: Path) -> str:
    with file.open("rb") as opened:
        mode = os.fstat(opened.fileno()).st_mode & 0o777
        if mode & 0o077:
            raise UserError(f"{file} can be read by others (mode {mode:04o}).", f"Run: chmod 600 {file}")
        return opened.read(1024).decode("ascii", "replace").strip()
