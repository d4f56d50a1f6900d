"""What a dataset value on the command line refers to, and the name of the artifact made from it.

A value is the name of a dataset in the store, a path on this machine, or a Hugging Face Hub id `owner/name`; this
module distinguishes the three. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.jobs.kind import Catalog, Request
from tasks.jobs.short_names import shortened
from tasks.text.files.sources import TABLES, TEXTS
from tasks.text.source_state import refuse_if_changed

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_STORE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
#: Words of the Hub's own addresses: no owner has one of these names, so what begins with one is a mistyped path.
_NO_OWNERS = {"api", "datasets", "docs", "models", "spaces"}
_SLUG_LENGTH = 80


def is_hub_id(value: str) -> bool:
    """Whether the value has the shape `owner/name`, and not that of a path to a text file."""
    return _HUB_ID.fullmatch(value) is not None and Path(value).suffix.lower() not in (*TABLES, *TEXTS)


def is_mistyped_path(value: str) -> bool:
    """Whether a word of the form owner/name is rather a path that leads nowhere: its first folder is here."""
    first, slash, _ = value.partition("/")
    return bool(slash) and (first in _NO_OWNERS or Path(first).is_dir() or Path(value).exists())


def local_path(value: str) -> Path | None:
    """The absolute path of a file or folder that exists, else None."""
    path = Path(value).expanduser()
    return path.absolute() if value and path.exists() else None


def slug(text: str) -> str:
    """The text as part of an artifact's name, shortened: letters, digits, dots, dashes and underscores."""
    return shortened(re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._"), _SLUG_LENGTH) or "data"


def dataset_name(value: str, **options: Any) -> str:
    """The name of the dataset made from a path or a Hub id: the same value and options give the same name.

    A path's name ends in a few digits of a hash of the whole path, so that two `train.jsonl` stay two datasets; options
    that differ from the default (pass only those) are hashed in as well.
    """
    path = local_path(value)
    base, revision = (
        (slug(path.stem if path.is_file() else path.name), [str(path)])
        if path
        else (slug(value.replace("/", "--")), [])
    )
    if options:
        revision.append(json.dumps(options, sort_keys=True))
    return f"{base}-{hashlib.sha256('|'.join(revision).encode()).hexdigest()[:6]}" if revision else base


def resolve_dataset(value: str, known: Catalog) -> tuple[str, list[Request]]:
    """The dataset artifact a value refers to, and the download to submit first when it is a path or a Hub id.

    Raises UserError when the value is none of the three, and for a path whose files changed since a dataset was made.
    """
    if _STORE_NAME.fullmatch(value) and (known.manifest("datasets", value) or known.is_pending("datasets", value)):
        return value, []
    path = local_path(value)
    if path is None and (not is_hub_id(value) or is_mistyped_path(value)):
        raise UserError(
            f"{value!r} is no dataset in the store, no file or folder here, and no Hub id like owner/name.",
            "Make one with: mistudio submit download SOURCE",
        )
    name = dataset_name(value)
    if path is not None:
        refuse_if_changed(path, "datasets", name, known)
    return name, [Request("download", name, {"source": str(path) if path else value})]
