"""Checkpoints of a training: how one is written, found and dropped, and where its files of lines are kept.

A checkpoint is a folder with `tensors.safetensors` and `state.json` that appears by one rename, so a killed process
leaves a whole one or none; a damaged one counts as none. The newest is kept, and the one with the best score. A file
of lines, such as the metrics, holds one JSON object with its step a line and is cut back to the checkpoint from which a
training resumes, so each step is in it once.
"""

from __future__ import annotations

import json
import os
import shutil
from math import inf
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tasks.errors import UserError
from tasks.parsing.tensor_files import save_tensors
from tasks.paths import replace_text
from tasks.sae.training.checkpoint_list import PREFIX, STATE, TENSORS, every, state_of, whole
from tasks.storage.store import sync_folder, write_json

METRICS = "metrics.jsonl"
_DRAFT = "checkpoint.part"


def save(
    folder: Path, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any], score: float | None = None
) -> Path:
    """Write the checkpoint of `step` into `folder`, then drop all others but the one with the least score."""
    draft, target = folder / _DRAFT, folder / f"{PREFIX}{step:09d}"
    if state_of(target) is not None:
        return target
    for half in (draft, target):
        shutil.rmtree(half, ignore_errors=True)
    draft.mkdir()  # not its parents: the folder of an attempt that has lost its lease is gone, and stays so
    save_tensors(draft / TENSORS, tensors)
    _sync(draft / TENSORS)
    write_json(draft / STATE, {**state, "step": step, "score": score})
    for lines in folder.glob("*.jsonl"):  # those of the steps before it must not be lost without it
        _sync(lines)
    draft.rename(target)
    sync_folder(folder)
    try:
        keep = {target, best(folder, state["fingerprint"])}
        others = [path for path in every(folder) if path not in keep]
    except OSError:  # one cannot be read now, so none is judged
        return target
    for other in others:
        shutil.rmtree(other, ignore_errors=True)
    return target


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def newest(folder: Path, fingerprint: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Tensors and state of the newest whole checkpoint whose state has that `fingerprint`, or None."""
    for path, state in reversed(whole(folder).items()):
        if state["fingerprint"] == fingerprint:
            return load_file(path / TENSORS), state
    return None


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and state of the checkpoint in that folder. Raises UserError for a damaged one."""
    state = state_of(path)
    if state is None:
        raise UserError(f"The checkpoint {path} is damaged.", "Begin again: mistudio jobs retry ID --from-scratch")
    return load_file(path / TENSORS), state


def best(folder: Path, fingerprint: str) -> Path | None:
    """The whole one of that `fingerprint` with the least score, the earliest of equals; None when none has a score."""
    scored = [(state["score"], path) for path, state in whole(folder).items() if state["fingerprint"] == fingerprint]
    return min((found for found in scored if found[0] is not None), default=(None, None))[1]


def cut(folder: Path, step: int) -> None:
    """Drop from the files of lines those of steps after `step`, and lines that are no JSON or were not finished."""
    for path in folder.glob("*.jsonl"):
        _cut(path, step)


def _cut(path: Path, step: int) -> None:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and _step_of_line(line) <= step]
    replace_text(path, "".join(kept))


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """The lines of the file of that name; none when there is no such file."""
    path = folder / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def append(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Add one line a row, each with its `step`, to the file of that name."""
    with (folder / name).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _step_of_line(line: str) -> float:
    """The step that a line is of; infinity for a line that cannot be read."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return inf
