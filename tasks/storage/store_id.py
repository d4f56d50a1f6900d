"""The identity of a store: a file at its root, made once, so that hosts can know whether they share one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from tasks.errors import UserError
from tasks.parsing.documents import read_json_object

FILE = ".mistudio-store"


def read_store_id(root: Path) -> str | None:
    """The id of the store at `root`; None where there is no store yet. OSError or UserError for one that cannot be
    read.

    An empty folder where a shared store should be mounted has none.
    """
    try:
        found = read_json_object(root / FILE).get("id")
    except FileNotFoundError:
        return None
    if not isinstance(found, str) or not found:
        raise UserError(f"{root / FILE} names no store.", "Restore it from the host that has the store")
    return found


def make_store_id(root: Path) -> str:
    """The id of the store at `root`, given to it now if it has none: of several that do so at once one succeeds."""
    if (found := read_store_id(root)) is not None:
        return found
    root.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=root, prefix=FILE)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"id": os.urandom(8).hex()}, file)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).chmod(0o644)
        try:
            (root / FILE).hardlink_to(draft)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            if not (root / FILE).exists():
                Path(draft).rename(root / FILE)
    finally:
        Path(draft).unlink(missing_ok=True)
    found = read_store_id(root)
    assert found is not None
    return found
