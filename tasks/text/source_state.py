"""The state of a local source: from it follows whether files changed since a dataset was made of them."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.jobs.kind import Catalog, kind_named
from tasks.text.files.sources import named_files
from tasks.text.files.splits import skipped_folders


def source_state(source: Path, pattern: str | None, skip: tuple[str, ...]) -> str:
    """A digest of name, size and modification time of each file of a path that can be part of a corpus."""
    digest = hashlib.sha256()
    for line in _lines(source, named_files(source, pattern, skip)):
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _lines(source: Path, files: Iterable[Path]) -> Iterator[str]:
    for path in files:
        try:
            found = path.stat()
        except OSError:
            continue
        yield f"{path.relative_to(source)}\0{found.st_size}\0{found.st_mtime_ns}\n"


def state_of(manifest: Mapping[str, Any] | None) -> str | None:
    """The state of the source when that dataset, or those tokens, were made; None where it is not known."""
    state = ((manifest or {}).get("result") or {}).get("source_state")
    return state if isinstance(state, str) else None


def refuse_if_changed(source: Path, family: str, name: str, known: Catalog) -> None:
    """UserError where the artifact of that name was made of other files than `source` has by now."""
    manifest = known.manifest(family, name)
    before = state_of(manifest)
    if before is None:
        return
    values = (manifest or {}).get("params", {}) if family == "datasets" else {}
    params = kind_named("download").read_params({**values, "source": str(source)})
    if source_state(source, params.pattern, skipped_folders(params.skip, params.split)) != before:
        raise UserError(
            f"{source} has changed since {family}/{name} was made from it.",
            f"To read it again: mistudio submit download {shlex.quote(str(source))} --name NAME, then give NAME; "
            f"to use what was read before, give {name}; or remove {known.path(family, name)}",
        )


def refuse_if_of_earlier(tokens: str, dataset: str, known: Catalog) -> None:
    """UserError for tokens that were made from files as they were before those that the dataset was made from."""
    before, now = state_of(known.manifest("tokens", tokens)), state_of(known.manifest("datasets", dataset))
    if before is not None and now is not None and before != now:
        raise UserError(
            f"tokens/{tokens} were made from an earlier datasets/{dataset}.",
            f"Remove {known.path('tokens', tokens)} to make them again, or give {tokens} to use them",
        )
