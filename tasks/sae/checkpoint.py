"""Checkpoints of a training: the only place one is written, found or dropped, and where the metrics file is kept.

A checkpoint is a folder with `tensors.safetensors` and `state.json` that appears by one rename, so a killed process
leaves a whole one or none. Only the newest is kept. The metrics file holds one JSON object a line and is cut back to
the checkpoint from which a training goes on, so each step is in it once.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tasks.store import sync_folder, write_json

METRICS = "metrics.jsonl"
_PREFIX, _DRAFT = "checkpoint-", "checkpoint.part"


def save(folder: Path, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> Path:
    """Write the checkpoint of `step` into `folder`, then drop the older ones."""
    draft, target = folder / _DRAFT, folder / f"{_PREFIX}{step:09d}"
    if target.exists():
        return target
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, draft / "tensors.safetensors")
    with (draft / "tensors.safetensors").open("rb+") as file:
        os.fsync(file.fileno())
    write_json(draft / "state.json", {**state, "step": step})
    draft.rename(target)
    sync_folder(folder)
    for other in _there(folder):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)
    return target


def newest(folder: Path, fingerprint: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Tensors and state of the newest checkpoint whose state has that `fingerprint`, or None."""
    for path in reversed(_there(folder)):
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if state.get("fingerprint") == fingerprint:
            return load_file(path / "tensors.safetensors"), state
    return None


def cut_metrics(folder: Path, step: int) -> None:
    """Drop the lines of steps after `step` from the metrics file; see `cut_lines`."""
    cut_lines(folder / METRICS, step)


def cut_lines(path: Path, step: int) -> None:
    """Drop the lines of steps after `step`, and a last line that was not finished."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    draft = path.with_name(path.name + ".part")
    draft.write_text("".join(kept), encoding="utf-8")
    draft.replace(path)


def append_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Add one line a row to the metrics file."""
    append_lines(folder / METRICS, rows)


def append_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add one line a row."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _there(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if (path / "state.json").is_file())
