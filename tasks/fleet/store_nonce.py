"""Whether a worker reads the store that the others write: a nonce that one of them writes there each minute.

A copy of the store has its id, and so has a mount that shows what was there long ago; neither shows a recent nonce.
Redis has those of the last minutes and says whose turn it is to write the next. A mount may take a minute to show a new
file, and a full disk takes none: only nonces that were written count against a store that does not show them.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from tasks.ledger import lua_script
from tasks.ledger.client import Ledger

log = logging.getLogger("mistudio.worker")

FILE = ".mistudio-nonce"

#: A store that shows a nonce no older than this, in seconds, is the one that others write.
ACCEPTED_FOR_S = 180.0

#: A nonce that was written this long ago, in seconds, is shown by every mount of the store, whatever it caches.
SHOWN_AFTER_S = 75.0

_WRITTEN_EVERY_S = 60.0


class Proof(StrEnum):
    """Of a worker that it reads the store of the others."""

    GIVEN = "ok"  # or there is nothing to prove
    PENDING = "wait"  # the store may show the nonce in a while
    LACKING = "wrong"


def prove(ledger: Ledger, root: Path, *, may_write: bool = False) -> Proof:
    """Whether the store at `root` shows what the others wrote; writes the next nonce when that is this worker's turn.

    OSError when it cannot be read. Raises Unreachable or Refused.
    """
    turn_s = _WRITTEN_EVERY_S if may_write else ""
    answer = lua_script.evaluate(ledger.client, "check_nonce", _read(root), ACCEPTED_FOR_S, SHOWN_AFTER_S, turn_s)
    if answer != "write":
        return Proof(answer)
    nonce = os.urandom(8).hex()
    lua_script.evaluate(ledger.client, "begin_nonce", nonce)
    try:
        _write(root, nonce)
    except OSError as error:
        log.debug("%s cannot be written, as jobs will say: %s", root / FILE, error.strerror or error)
    else:
        lua_script.evaluate(ledger.client, "confirm_nonce", nonce)
    return Proof.GIVEN


def _read(root: Path) -> str:
    try:
        with (root / FILE).open("rb") as file:
            return file.read(64).decode("ascii", "replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _write(root: Path, nonce: str) -> None:
    draft = root / f"{FILE}.part"
    draft.unlink(missing_ok=True)
    try:
        draft.write_text(f"{nonce}\n", encoding="ascii")
        draft.chmod(0o644)  # for hosts with other users
        draft.replace(root / FILE)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
