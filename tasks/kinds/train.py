"""`train`: a sparse autoencoder on what passes one hook of a language model."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.job import Context, Estimate, JobKind, Known, Request, option
from tasks.problem import Problem
from tasks.sae import choices
from tasks.sae.architectures import names

if TYPE_CHECKING:
    from tasks.activations import Vectors
    from tasks.sae.schedule import TrainConfig
    from tasks.wiring import Wiring

#: The sites of a model that can be read and written; see tasks.hooks.
SITES = ("resid", "mlp", "attn", "mlp-in")


@dataclass(frozen=True)
class Common:
    """What to train on, what to train, how long: what all architectures share."""

    model: str | None = option(None, help="A model in the store, a model folder, or a Hub id", artifact="models")
    dataset: str | None = option(
        None, help="Tokens or a dataset in the store, a file or folder, or a Hub id", artifact="tokens"
    )
    layer: int | None = option(None, help="Which layer; the first is 0", minimum=0)
    activations: str | None = option(
        None, help="Stored activations, in place of a model, a dataset, a layer and a hook", artifact="activations"
    )
    hook: str = option(
        "resid",
        help="The residual stream, what MLP or attention add to it, or what the MLP reads",
        choices=SITES,
    )
    target: str | None = option(None, help="Make it a transcoder, which writes what passes this", choices=SITES)
    target_layer: int | None = option(None, help="The layer of --target; default: --layer", minimum=0)
    skip: bool = option(False, help="Give a transcoder a linear way past the features")
    crosscode: str | None = option(None, help="Layers of a crosscoder, as 2,4,6, in place of --layer")
    skip_bos: bool = option(
        True, help="Leave out BOS and the first token of each row, whose activations are many times as long as others"
    )
    arch: str = option("topk", help="Architecture of the SAE", choices=names())
    init_from: str | None = option(
        None, help="Begin with this SAE of the store instead of at random: fine-tune it", artifact="saes"
    )
    width: int | None = option(None, help="Number of features; default: --expansion times the model's width", minimum=1)
    expansion: int = option(8, help="Features for each dimension of the residual stream", minimum=1)
    tokens: int = option(10_000_000, help="How many tokens to train on; passes over the data are repeated", minimum=1)
    steps: int | None = option(None, help="How many batches to train on, instead of --tokens", minimum=1)
    batch: int = option(4096, help="Tokens in a batch", minimum=1)
    lr: float | None = option(None, help="Learning rate of Adam; default: by width", minimum=0)
    warmup: float = option(0.05, help="Share of the training in which the learning rate rises", minimum=0)
    decay: float = option(0.2, help="Share of the training, at its end, in which the learning rate falls", minimum=0)
    sparsity_warmup: float = option(0.05, help="Share of the training in which the sparsity penalty rises", minimum=0)
    clip: float = option(1.0, help="Longest gradient; 0: any", minimum=0)
    accumulate: int = option(1, help="Parts in which a batch goes through the SAE, to hold less memory", minimum=1)
    evaluate: int = option(4, help="How often to measure on held-out tokens, the end included; 0: not", minimum=0)
    patience: int = option(
        0, help="End when the FVU on held-out tokens was not better for so many measurements; 0: never", minimum=0
    )
    resample: int = option(
        0, help="How often dead features are drawn anew, in the first half of the training", minimum=0
    )
    seed: int = option(0, help="Seed of the weights and of the order of the data", minimum=0)
    log: str | None = option(
        None, help="Metrics also to tensorboard or wandb (W&B), or to both with a comma between them"
    )
    checkpoint_s: float = option(30.0, help="Seconds between checkpoints", minimum=0)


#: With the options of every architecture, from their files.
Params = dataclasses.make_dataclass("Params", choices.fields(), bases=(Common,), frozen=True)


def default_name(params: Common) -> str:
    """Model, layer, architecture and sparsity."""
    from tasks.training.place import label

    sparsity = choices.chosen(params.arch, params).label()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{label(params)}-{params.arch}-{sparsity}")


def prepare(params: Common, known: Known) -> tuple[Common, list[Request]]:
    """Find what to train on, or ask for the jobs that make it; refuse what cannot work."""
    from tasks.training.logs import asked_for
    from tasks.training.place import resolve

    asked_for(params.log)
    params, d_model, requests = resolve(params, known)
    if params.init_from is not None:
        from tasks.training.start import resolve_start

        params = resolve_start(params, known)
    if params.width is None and d_model is not None:
        params = dataclasses.replace(params, width=params.expansion * d_model)
    options = choices.chosen(params.arch, params)
    if params.width is not None:
        options.check(params.width)
    return dataclasses.replace(params, **dataclasses.asdict(options)), requests


def estimate(params: Common, known: Known) -> Estimate:
    """Memory and disk by the shapes; time by a training of like shape in the store."""
    from tasks.estimate import seconds_like_earlier
    from tasks.sae.footprint import TrainingShape, of_training
    from tasks.training.place import place_of, wiring

    alike = ("model", "activations", "hook", "target", "crosscode", "arch", "width", "expansion", "batch")
    tokens = params.steps * params.batch if params.steps else params.tokens
    seconds = seconds_like_earlier(
        known, "saes", tokens, lambda told: all(told.get(key) == getattr(params, key) for key in alike)
    )
    options = choices.chosen(params.arch, params)
    wired = wiring(params)
    part = -(-params.batch // params.accumulate)
    shape = TrainingShape(
        getattr(options, "k", None),
        params.width,
        params.expansion,
        params.batch,
        part,
        len(wired.reads),
        len(wired.writes),
    )
    place = place_of(params)
    stored = None if params.activations is None else known.manifest("activations", params.activations)
    read = (stored or {}).get("result")
    return dataclasses.replace(of_training(known, place.model, place.dataset, shape, read), seconds=seconds)


def goes_on_at(workdir: Path) -> str | None:
    """The step of the newest checkpoint, by the name that `tasks.sae.checkpoint` gives its folder."""
    steps = [int(state.parent.name.rpartition("-")[2]) for state in workdir.glob("checkpoint-*/state.json")]
    return f"step {max(steps)}" if steps else None


KIND = JobKind(
    "train",
    queue="training",
    params=Params,
    summary="Train a sparse autoencoder on a layer of a model",
    module=__name__,
    produces="saes",
    default_name=default_name,
    prepare=prepare,
    estimate=estimate,
    goes_on_at=goes_on_at,
)


def run(params: Common, context: Context) -> dict[str, Any]:
    """Train, resuming from the newest checkpoint; save the SAE; measure it and its baselines on held-out rows."""
    from tasks.activations import ActivationStream, split_rows
    from tasks.sae.baselines import compare
    from tasks.sae.formats import save_density
    from tasks.sae.metrics import measure
    from tasks.sae.trainer import Trainer
    from tasks.training.evaluation import Evaluation
    from tasks.training.place import open_vectors, wiring
    from tasks.training.pulse import Pulse
    from tasks.training.saving import save
    from tasks.training.start import begin_from

    context.progress("loading", 0, None, "tokens")
    wired, vectors = wiring(params), open_vectors(params, context.store, context.device)
    width = vectors.d_in // len(vectors.points)
    train_rows, held_rows = split_rows(vectors.shape[0], _held_out(vectors.shape, vectors.d_in), params.seed)

    pulse = Pulse(params.checkpoint_s, params.patience, context)
    stream = ActivationStream(vectors, train_rows, params.batch, params.seed, pulse.beat, context.workdir)
    pulse.trainer = trainer = Trainer(_config(params, wired, width), wired.source(stream, width), context.device)
    if params.init_from is not None:
        begin_from(trainer, context.store.path("saes", params.init_from), params.init_from)
    pulse.evaluation = Evaluation(trainer, vectors, wired, held_rows, params.evaluate)
    speed = pulse.train(params.log, dataclasses.asdict(params))
    save(params, context, trainer, vectors)

    def read(rows: Any) -> tuple[Any, Any]:
        return trainer.scaled(wired.split(_read(vectors, rows, context), width))

    held_out = read(held_rows)
    found = measure(trainer.coder, *held_out)
    save_density(context.output, found.density)
    return {
        **compare(found, read(train_rows[: 2 * len(held_rows)])[1], held_out[1]),
        **pulse.evaluation.last(context.workdir),
        **speed,
        "steps": trainer.step,
        "steps_in_last_attempt": trainer.step - pulse.first,
        "d_in": trainer.config.coder.d_in,
        "d_sae": trainer.config.coder.d_sae,
        "hook": vectors.points[0].module,
    }


def _held_out(shape: tuple[int, int], d_in: int) -> int:
    """How many rows are kept from training."""
    from tasks.sae.footprint import HELD_OUT_NUMBERS, HELD_OUT_SHARE, HELD_OUT_VECTORS

    rows, context = shape
    if rows < 2:
        raise Problem("There is only one row of tokens: too little to train and to measure on.", "Use more text")
    vectors = min(HELD_OUT_VECTORS, HELD_OUT_NUMBERS // d_in)
    return max(1, min(int(rows * HELD_OUT_SHARE), vectors // context))


def _config(params: Common, wired: Wiring, d: int) -> TrainConfig:
    """What is trained on vectors of `d` numbers at each hook."""
    from tasks.sae.coder import CoderConfig, default_rate
    from tasks.sae.schedule import TrainConfig

    blocks = len(wired.reads)
    width = params.width or params.expansion * d
    options = choices.chosen(params.arch, params)
    options.check(width)
    steps = params.steps or -(-params.tokens // params.batch)
    return TrainConfig(
        coder=CoderConfig(params.arch, blocks * d, width, options, d if wired.writes else None, params.skip, blocks),
        steps=steps,
        batch=params.batch,
        lr=params.lr or default_rate(width),
        warmup=params.warmup,
        decay=params.decay,
        sparsity_warmup=params.sparsity_warmup,
        clip=params.clip,
        accumulate=params.accumulate,
        resample=params.resample,
        dead_after=min(TrainConfig.dead_after, steps * params.batch // 8),
        seed=params.seed,
    )


def _read(vectors: Vectors, rows: Any, context: Context) -> Any:
    """The vectors of those rows, (vectors, d_in)."""
    import torch

    pieces: list[Any] = []
    for piece in vectors.read(rows):
        pieces.append(piece)
        context.progress("measuring", sum(map(len, pieces)), int(vectors.counts[rows].sum()), "tokens")
    return torch.cat(pieces)
