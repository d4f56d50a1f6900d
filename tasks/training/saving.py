"""The artifact of a training: the only place that says what its metadata tell."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from tasks.job import Context
from tasks.sae.formats import save_sae
from tasks.training import logs
from tasks.training.place import wiring

if TYPE_CHECKING:
    from tasks.activations import Vectors
    from tasks.kinds.train import Common
    from tasks.sae.trainer import Trainer


def save(params: Common, context: Context, trainer: Trainer, vectors: Vectors) -> None:
    """Write the trained SAE and its files of lines into the job's output."""
    for lines in context.workdir.glob("*.jsonl"):
        shutil.copyfile(lines, context.output / lines.name)
    logs.take_over(context.workdir, context.output)
    about = {
        "model_name": params.model,
        **_hooks(params, vectors),
        "context_size": vectors.shape[1],
        "prepend_bos": False,
        **vectors.mask.told(),
        "dataset_path": params.dataset,
        "training_tokens": trainer.step * trainer.config.batch,
        "activation_scale": list(trainer.scales.read),
    }
    save_sae(context.output, trainer.coder, trainer.scales, about)


def _hooks(params: Common, vectors: Vectors) -> dict[str, Any]:
    """What was read and, of a transcoder, written: by TransformerLens' names, and the modules."""
    wired = wiring(params)
    reads, writes = vectors.points[: len(wired.reads)], vectors.points[len(wired.reads) :]
    told: dict[str, Any] = {
        "hook_name": reads[0].name,
        "hook_module": reads[0].module,
        "hook_layer": wired.reads[0].layer,
    }
    if len(reads) > 1:
        told |= {"hook_names": [point.name for point in reads], "hook_modules": [point.module for point in reads]}
    if writes:
        told |= {
            "hook_name_out": writes[0].name,
            "hook_module_out": writes[0].module,
            "hook_layer_out": wired.writes[0].layer,
        }
    return told
