"""Checkpoints of a training: the only place one is written, found or dropped, and where its files of lines are kept.

A checkpoint is a folder with `tensors.safetensors` and `state.json` that appears by one rename, so a killed process
leaves a whole one or none. The newest is kept, and the one with the best score. A file of lines, such as the metrics,
holds one JSON object with its step a line and is cut back to the checkpoint from which a training goes on, so each step
is in it once.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tasks.store import sync_folder, write_json
from tasks.tensors import save_tensors

METRICS = "metrics.jsonl"
_PREFIX, _DRAFT = "checkpoint-", "checkpoint.part"


def save(
    folder: Path, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any], score: float | None = None
) -> Path:
    """Write the checkpoint of `step` into `folder`, then drop all others but the one with the least score."""
    draft, target = folder / _DRAFT, folder / f"{_PREFIX}{step:09d}"
    if target.exists():
        return target
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save_tensors(draft / "tensors.safetensors", tensors)
    with (draft / "tensors.safetensors").open("rb+") as file:
        os.fsync(file.fileno())
    write_json(draft / "state.json", {**state, "step": step, "score": score})
    draft.rename(target)
    sync_folder(folder)
    keep = {target, best(folder, state["fingerprint"])}
    for other in _there(folder):
        if other not in keep:
            shutil.rmtree(other, ignore_errors=True)
    return target


def newest(folder: Path, fingerprint: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Tensors and state of the newest checkpoint whose state has that `fingerprint`, or None."""
    for path in reversed(_there(folder)):
        if _state(path).get("fingerprint") == fingerprint:
            return load(path)
    return None


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and state of the checkpoint in that folder."""
    return load_file(path / "tensors.safetensors"), _state(path)


def best(folder: Path, fingerprint: str) -> Path | None:
    """The checkpoint of that `fingerprint` with the least score, the earliest of equals; None when none has one."""
    states = [(_state(path), path) for path in _there(folder)]
    scored = [(told["score"], path) for told, path in states if told["fingerprint"] == fingerprint]
    return min((found for found in scored if found[0] is not None), default=(None, None))[1]


def cut(folder: Path, step: int) -> None:
    """Drop from the files of lines those of steps after `step`, and a last line that was not finished."""
    for path in folder.glob("*.jsonl"):
        _cut(path, step)


def _cut(path: Path, step: int) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    draft = path.with_name(path.name + ".part")
    draft.write_text("".join(kept), encoding="utf-8")
    draft.replace(path)


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """The lines of the file of that name; none when there is no such file."""
    path = folder / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def append(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Add one line a row, each with its `step`, to the file of that name."""
    with (folder / name).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _there(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if (path / "state.json").is_file())


def _state(path: Path) -> dict[str, Any]:
    return json.loads((path / "state.json").read_text(encoding="utf-8"))
