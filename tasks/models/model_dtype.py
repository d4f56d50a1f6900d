"""The dtype a model runs in: its checkpoint's own where the device computes fast in it, float32 elsewhere.

A checkpoint in bfloat16 runs in it where a product of its MLP's shape does (`tasks.models.bfloat16`), one in float16
only on CUDA: CPUs have no units for it. A job keeps the dtype that it began with, on whichever machine it resumes:
other activations would be other data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tasks.errors import UserError
from tasks.models import bfloat16
from tasks.models.bfloat16 import ProductSpeed
from tasks.paths import replace_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.models.model_files import Saved

AUTO, FLOAT32, BF16 = "auto", "float32", "bf16"
#: The words of --model-dtype.
CHOICES = (AUTO, FLOAT32, BF16)
HELP = "Dtype of the model: the checkpoint's own where that is fast (auto), float32 or bf16"

#: torch's names of the types of numbers in files of weights; double precision is read as float32.
_OF_FILES = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BFLOAT16, FLOAT16 = "bfloat16", "float16"
#: Tokens of a product that stands for those of a forward pass: see tasks.activations.stream.
_TOKENS = 4096
_NOTE = "model-dtype.txt"


class Wanted(NamedTuple):
    """What was asked for: a word of CHOICES, and torch's name of the dtype in which the job has begun, if it has."""

    word: str = AUTO
    kept: str | None = None


#: What is asked for where nothing is said.
OWN = Wanted()


class Chosen(NamedTuple):
    """torch's name of a dtype, and a clause that says why it is that one."""

    dtype: str
    reason: str


def dtype_in_files(saved: Mapping[str, Saved]) -> str:
    """torch's name of the dtype of most numbers in a checkpoint; float32 where none is a float."""
    numbers: Counter[str] = Counter()
    for tensor in saved.values():
        if tensor.dtype in _OF_FILES:
            numbers[_OF_FILES[tensor.dtype]] += tensor.numbers
    return max(numbers, key=numbers.__getitem__, default=FLOAT32)


def choose(wanted: Wanted, in_files: str, mlp: tuple[int, int] | None, device: str, model: str) -> Chosen:
    """The dtype to run a model in whose files have numbers of the dtype `in_files`.

    `mlp` is its d_model and d_mlp, None where its config.json does not say. Raises UserError for bf16 where it was
    asked for and is slower on this device.
    """
    if wanted.kept is not None:
        return Chosen(wanted.kept, "this job began with it")
    if wanted.word == BF16:
        refuse_slow(mlp, device, model)
        return Chosen(BFLOAT16, "it was asked for")
    if wanted.word == FLOAT32:
        return Chosen(FLOAT32, "it was asked for")
    if in_files == FLOAT32:
        return Chosen(FLOAT32, "its checkpoint has it")
    if in_files == FLOAT16:
        return Chosen(
            *((FLOAT32, "a CPU is slow in float16") if device == "cpu" else (FLOAT16, "its checkpoint has it"))
        )
    if device != "cpu":  # in float32 it would need twice the memory
        return Chosen(BFLOAT16, "its checkpoint has it")
    speed = _speed(mlp, device)
    return Chosen(BFLOAT16 if speed.is_worth_it else FLOAT32, speed.reason)


def expected(word: str, in_files: str, mlp: tuple[int, int] | None, device: str) -> str:
    """The dtype that `choose` is likely to find, without torch and without measuring anything."""
    if word == BF16:
        return BFLOAT16
    if word == FLOAT32 or in_files == FLOAT32:
        return FLOAT32
    if in_files == FLOAT16:
        return FLOAT32 if device == "cpu" else FLOAT16
    is_large = mlp is not None and not bfloat16.is_small(_TOKENS, *mlp)
    return BFLOAT16 if device != "cpu" or (is_large and bfloat16.has_units()) else FLOAT32


def refuse_slow(mlp: tuple[int, int] | None, device: str, model: str) -> None:
    """Raise UserError where a model with that MLP is slower in bfloat16 on the device than in float32, or too small."""
    speed = _speed(mlp, device)
    if not speed.is_worth_it and (speed.ratio is None or speed.ratio < 1):
        raise UserError(f"--model-dtype bf16 gains nothing for {model}: {speed.reason}.", "Leave --model-dtype out")


def _speed(mlp: tuple[int, int] | None, device: str) -> ProductSpeed:
    if mlp is None:
        return ProductSpeed(None, "its config.json does not say how wide it is")
    return bfloat16.measured(_TOKENS, *mlp, device)


def wanted(word: str, workdir: Path, has_begun: bool, device: str) -> Wanted:
    """What a job asks for with that word, and the dtype of its earlier attempts by the note in its work folder.

    Work that has begun without a note is of a version that ran every model in float32 on a CPU.
    """
    if before := _noted(workdir):
        return Wanted(word, before)
    return Wanted(word, FLOAT32 if has_begun and device == "cpu" else None)


def keep(model: PreTrainedModel, workdir: Path, report: Callable[[str], None]) -> None:
    """Note the model's dtype for later attempts of the job; report one that is not that of earlier attempts."""
    dtype = name_of(model.dtype)
    before = _noted(workdir) or dtype
    if before != dtype:
        report(f"the model runs in {dtype}: it ran in {before} until now, which it cannot on this machine")
    replace_text(workdir / _NOTE, dtype)


def _noted(workdir: Path) -> str:
    """The dtype of earlier attempts; "" without a note, or with one that a power cut has emptied."""
    note = workdir / _NOTE
    return note.read_text(encoding="utf-8") if note.exists() else ""


def name_of(dtype: object) -> str:
    """torch's name of a torch.dtype, such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")
