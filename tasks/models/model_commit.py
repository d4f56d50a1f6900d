"""Which commit on the Hub a model was loaded from: recorded in results, and kept for a job's later attempts.

A branch can move between two attempts of a job, and between training an SAE and reading its features. What is read
then must be the same weights.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.models.loading import is_hub_id, split_revision
from tasks.paths import replace_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NOTE = "model-commit.txt"
_SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{40})/?")


def commit_of(loaded: PreTrainedModel | PreTrainedTokenizerBase) -> str | None:
    """The commit on the Hub that a model or a tokenizer was loaded from; None for one that is not from there."""
    found = _SNAPSHOT.search(str(loaded.name_or_path))
    return found[1] if found else None


def commit_record(loaded: PreTrainedModel | PreTrainedTokenizerBase) -> dict[str, str]:
    """What a job's result says of the commit: nothing for a model that is not from the Hub."""
    commit = commit_of(loaded)
    return {"model_commit": commit} if commit else {}


def at_commit(reference: str, commit: str | None) -> str:
    """A Hub id at that commit, whatever its branch holds by now; any other reference as it is."""
    return f"{split_revision(reference)[0]}@{commit}" if commit and is_hub_id(reference) else reference


def pinned(reference: str, workdir: Path) -> str:
    """The reference at the commit that an earlier attempt of the job has read, by the note in its work folder."""
    note = workdir / _NOTE
    return at_commit(reference, note.read_text(encoding="utf-8") if note.exists() else None)


def pin(loaded: PreTrainedModel, workdir: Path) -> None:
    """Note the commit for later attempts of the job, which must read the same weights."""
    if commit := commit_of(loaded):
        replace_text(workdir / _NOTE, commit)
