"""Which checkpoints a training's folder holds, whole or damaged; it costs no torch.

Each is a folder named after its step, with `tensors.safetensors` and `state.json`. One that a power cut or a full disk
has left cut short, or empty, is damaged: a training resumes from another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.parsing.documents import read_json_object
from tasks.parsing.tensor_files import describe, raise_if_unreadable

PREFIX, TENSORS, STATE = "checkpoint-", "tensors.safetensors", "state.json"


def whole(folder: Path) -> dict[Path, dict[str, Any]]:
    """The checkpoints in `folder` that can be read, with what each says of itself, in the order of their steps."""
    return {path: state for path in every(folder) if (state := state_of(path)) is not None}


def damaged(folder: Path) -> list[Path]:
    """The others."""
    return [path for path in every(folder) if state_of(path) is None]


def state_of(path: Path) -> dict[str, Any] | None:
    """What a checkpoint says of itself besides its tensors; None for a damaged one.

    Raises OSError when that cannot be read now: another look may find it whole.
    """
    try:
        state = read_json_object(path / STATE, strict=False)
        describe(path / TENSORS)
    except FileNotFoundError:
        return None
    except UserError as problem:
        raise_if_unreadable(problem)
        return None
    is_complete = isinstance(state.get("step"), int) and isinstance(state.get("fingerprint"), str)
    return state if is_complete and "score" in state else None


def step_of(path: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(path.name.removeprefix(PREFIX))


def every(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, whole or not, in the order of their steps. Reads none."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal())
