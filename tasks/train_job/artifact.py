"""The artifact of a training, and the metadata it records."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from tasks.jobs.kind import Context
from tasks.sae.formats.native import save_sae
from tasks.train_job import loggers, provenance

if TYPE_CHECKING:
    from tasks.sae.training.trainer import Trainer
    from tasks.train_job.batches import Seen
    from tasks.train_job.params import Common


def save(params: Common, context: Context, trainer: Trainer, seen: Seen) -> None:
    """Write the trained SAE and its files of lines into the job's output."""
    for lines in context.workdir.glob("*.jsonl"):
        shutil.copyfile(lines, context.output / lines.name)
    loggers.take_over(context.workdir, context.output)
    about = {
        **_model(params, context, seen),
        **_hooks(seen),
        "context_size": seen.shape[1],
        "prepend_bos": seen.bos == "row",
        "bos": seen.bos,
        **seen.mask.to_dict(),
        **provenance.of_text(context.store, str(params.dataset)),
        "training_tokens": trainer.step * trainer.config.batch,
        "activation_scale": list(trainer.scales.read),
        "training": _in_force(trainer),
    }
    save_sae(context.output, trainer.coder, trainer.scales, about)


def _in_force(trainer: Trainer) -> dict[str, Any]:
    """All that the training depended on besides its batches; the coder's own options stand elsewhere."""
    own = {name: value for name, value in vars(trainer.config).items() if name != "coder"}
    return {**own, "precision": trainer.precisions}


def _model(params: Common, context: Context, seen: Seen) -> dict[str, Any]:
    reads, writes = seen.points[: len(seen.wired.reads)], seen.points[len(seen.wired.reads) :]
    dtype = seen.reading.vectors.model_dtype
    return provenance.of_model(str(params.model), reads, writes, context.store, dtype)


def _hooks(seen: Seen) -> dict[str, Any]:
    """What was read and, of a transcoder, written: by TransformerLens' names, and the modules."""
    wired = seen.wired
    reads, writes = seen.points[: len(wired.reads)], seen.points[len(wired.reads) :]
    metadata: dict[str, Any] = {
        "hook_name": reads[0].name,
        "hook_module": reads[0].module,
        "hook_layer": wired.reads[0].layer,
    }
    if len(reads) > 1:
        metadata |= {"hook_names": [point.name for point in reads], "hook_modules": [point.module for point in reads]}
    if writes:
        metadata |= {
            "hook_name_out": writes[0].name,
            "hook_module_out": writes[0].module,
            "hook_layer_out": wired.writes[0].layer,
        }
    return metadata
