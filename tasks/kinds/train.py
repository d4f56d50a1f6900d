"""`train`: a sparse autoencoder on what passes one hook of a language model."""

from __future__ import annotations

import dataclasses
import re
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.job import RESUMABLE_ATTEMPTS, Context, Estimate, JobKind, Known, Request, option
from tasks.problem import Problem
from tasks.sae import choices
from tasks.sae.architectures import names

if TYPE_CHECKING:
    from tasks.activations import Vectors
    from tasks.sae.trainer import TrainConfig, Trainer

#: A checkpoint may take up to this share of the time.
_CHECKPOINT_SHARE = 0.05


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
        choices=("resid", "mlp", "attn", "mlp-in"),
    )
    skip_bos: bool = option(
        True, help="Leave out BOS and the first token of each row, whose activations are many times as long as others"
    )
    arch: str = option("topk", help="Architecture of the SAE", choices=names())
    width: int | None = option(None, help="Number of features; default: --expansion times the model's width", minimum=1)
    expansion: int = option(8, help="Features for each dimension of the residual stream", minimum=1)
    tokens: int = option(10_000_000, help="How many tokens to train on; passes over the data are repeated", minimum=1)
    steps: int | None = option(None, help="How many batches to train on, instead of --tokens", minimum=1)
    batch: int = option(4096, help="Tokens in a batch", minimum=1)
    lr: float | None = option(None, help="Learning rate of Adam; default: by width", minimum=0)
    warmup: float = option(0.05, help="Share of the training in which the learning rate rises", minimum=0)
    decay: float = option(0.2, help="Share of the training, at its end, in which the learning rate falls", minimum=0)
    sparsity_warmup: float = option(0.05, help="Share of the training in which the sparsity penalty rises", minimum=0)
    clip: float = option(0.0, help="Longest gradient; 0: any", minimum=0)
    accumulate: int = option(1, help="Parts in which a batch goes through the SAE, to hold less memory", minimum=1)
    seed: int = option(0, help="Seed of the weights and of the order of the data", minimum=0)
    checkpoint_s: float = option(30.0, help="Seconds between checkpoints", minimum=0)


#: With the options of every architecture, from their files.
Params = dataclasses.make_dataclass("Params", choices.fields(), bases=(Common,), frozen=True)


def default_name(params: Common) -> str:
    """Model, layer, architecture and sparsity."""
    from tasks.models import model_slug

    sparsity = choices.chosen(params.arch, params).label()
    place = _place(params)
    hook = f"l{place.layer}" if params.hook == "resid" else f"l{place.layer}-{params.hook}"
    name = f"{model_slug(place.model)}-{hook}-{params.arch}-{sparsity}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def prepare(params: Common, known: Known) -> tuple[Common, list[Request]]:
    """Find what to train on, or ask for the jobs that make it; refuse what cannot work."""
    params, d_model, requests = (_from_model if params.activations is None else _from_activations)(params, known)
    if params.width is None and d_model is not None:
        params = dataclasses.replace(params, width=params.expansion * d_model)
    if params.width is not None:
        choices.chosen(params.arch, params).check(params.width)
    return dataclasses.replace(params, **choices.filled(params.arch, params)), requests


@dataclass(frozen=True)
class _Place:
    """Where the activations come from."""

    model: str
    dataset: str
    layer: int


def _place(params: Common) -> _Place:
    if params.model is None or params.dataset is None or params.layer is None:
        missing = next(name for name in ("model", "dataset", "layer") if getattr(params, name) is None)
        raise Problem(f"train needs --{missing}.", "Or give --activations, which were read from a model before")
    return _Place(params.model, params.dataset, params.layer)


def _from_model(params: Common, known: Known) -> tuple[Common, int | None, list[Request]]:
    """The parameters with what their model and tokens are called, the width of the model, the jobs to come first."""
    from tasks.models import check_layer, look_up
    from tasks.text.wanted import find_tokens

    place = _place(params)
    model, found = look_up(place.model, known)
    told = found or {}
    check_layer(model, told, place.layer)
    tokens, requests = find_tokens(place.dataset, model, told, known)
    return dataclasses.replace(params, model=model, dataset=tokens), told.get("d_model"), requests


def _from_activations(params: Common, known: Known) -> tuple[Common, int | None, list[Request]]:
    """The same from stored activations: what those were read from, and with."""
    name = str(params.activations)
    manifest = known.manifest("activations", name)
    if manifest is None and not known.coming("activations", name):
        raise Problem(f"The store has no activations/{name}.", "Make them: mistudio submit activations --help")
    told = known.coming_from("activations", name)[1] if manifest is None else manifest["params"]
    for spec in dataclasses.fields(params):
        if spec.name in ("model", "dataset", "layer", "hook", "skip_bos"):
            given, value, flag = getattr(params, spec.name), told[spec.name], "--" + spec.name.replace("_", "-")
            if given not in (spec.default, value):
                raise Problem(f"activations/{name} were read with {flag} {value}, not {given}.", f"Leave {flag} out")
            params = dataclasses.replace(params, **{spec.name: value})
    return params, (manifest or {}).get("result", {}).get("d_in"), []


def estimate(params: Common, known: Known) -> Estimate:
    """Memory and disk by the shapes; time by a training of like shape in the store."""
    from tasks.estimate import ModelShape, seconds_like_earlier
    from tasks.sae.footprint import TrainingShape, of_training

    alike = ("model", "activations", "hook", "arch", "width", "expansion", "batch")
    tokens = params.steps * params.batch if params.steps else params.tokens
    seconds = seconds_like_earlier(
        known, "saes", tokens, lambda told: all(told.get(key) == getattr(params, key) for key in alike)
    )
    options = choices.chosen(params.arch, params)
    part = -(-params.batch // params.accumulate)
    shape = TrainingShape(getattr(options, "k", None), params.width, params.expansion, params.batch, part)
    place = _place(params)
    stored = None if params.activations is None else known.manifest("activations", params.activations)
    read = ModelShape(stored["result"]["d_in"], parameters=0) if stored else None
    return dataclasses.replace(of_training(known, place.model, place.dataset, shape, read), seconds=seconds)


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
    max_attempts=RESUMABLE_ATTEMPTS,
)


def run(params: Common, context: Context) -> dict[str, Any]:
    """Train, resuming from the newest checkpoint; save the SAE; measure it and its baselines on held-out rows."""
    from tasks.activations import ActivationStream, split_rows
    from tasks.sae.baselines import compare
    from tasks.sae.formats import save_density
    from tasks.sae.metrics import measure
    from tasks.sae.trainer import Trainer

    context.progress("loading", 0, None, "tokens")
    vectors = _open(params, context)
    d_in = vectors.d_in
    train_rows, held_rows = split_rows(vectors.shape[0], _held_out(vectors.shape, d_in), params.seed)

    pulse = _Pulse(params, context)
    stream = ActivationStream(vectors, train_rows, params.batch, params.seed, pulse.beat, context.workdir)
    pulse.trainer = trainer = Trainer(_config(params, d_in), stream, context.device)
    tokens_per_s = pulse.train()
    _save(params, context, trainer, vectors)

    def read(rows: Any) -> Any:
        return _read(vectors, rows, context) * trainer.scales.read

    held_out = read(held_rows)
    found = measure(trainer.coder, held_out)
    save_density(context.output, found.density)
    return {
        **compare(found, read(train_rows[: 2 * len(held_rows)]), held_out),
        "tokens_per_s": tokens_per_s,
        "steps": trainer.step,
        "d_in": d_in,
        "d_sae": trainer.config.coder.d_sae,
        "hook": vectors.point.module,
    }


def _open(params: Common, context: Context) -> Vectors:
    """What is trained on: what passes the model's hook, over the tokens; or what did, and was stored."""
    from tasks.activation_files import StoredVectors
    from tasks.activations import open_model
    from tasks.hooks import Hook

    if params.activations is not None:
        return StoredVectors(context.store.path("activations", params.activations), context.device)
    place = _place(params)
    hook = Hook(params.hook, place.layer)
    return open_model(context.store, place.model, place.dataset, hook, params.skip_bos, context.device)


def _held_out(shape: tuple[int, int], d_in: int) -> int:
    """How many rows are kept from training."""
    from tasks.sae.footprint import HELD_OUT_NUMBERS, HELD_OUT_SHARE, HELD_OUT_VECTORS

    rows, context = shape
    if rows < 2:
        raise Problem("There is only one row of tokens: too little to train and to measure on.", "Use more text")
    vectors = min(HELD_OUT_VECTORS, HELD_OUT_NUMBERS // d_in)
    return max(1, min(int(rows * HELD_OUT_SHARE), vectors // context))


def _config(params: Common, d_in: int) -> TrainConfig:
    from tasks.sae.coder import CoderConfig, default_rate
    from tasks.sae.trainer import TrainConfig

    width = params.width or params.expansion * d_in
    options = choices.chosen(params.arch, params)
    options.check(width)
    steps = params.steps or -(-params.tokens // params.batch)
    return TrainConfig(
        coder=CoderConfig(params.arch, d_in, width, options),
        steps=steps,
        batch=params.batch,
        lr=params.lr or default_rate(width),
        warmup=params.warmup,
        decay=params.decay,
        sparsity_warmup=params.sparsity_warmup,
        clip=params.clip,
        accumulate=params.accumulate,
        dead_after=min(TrainConfig.dead_after, steps * params.batch // 8),
        seed=params.seed,
    )


class _Pulse:
    """Progress, checkpoints and the wish to stop, looked at after each step and each forward pass."""

    trainer: Trainer

    def __init__(self, params: Common, context: Context) -> None:
        self.params, self.context = params, context
        self.next_save = time.monotonic() + params.checkpoint_s

    def beat(self) -> None:
        began = time.monotonic()
        if self.context.stopping() or began >= self.next_save:
            self.trainer.save(self.context.workdir)
            now = time.monotonic()
            self.next_save = now + max(self.params.checkpoint_s, (now - began) / _CHECKPOINT_SHARE)
        batch, steps = self.trainer.config.batch, self.trainer.config.steps
        self.context.progress("training", self.trainer.step * batch, steps * batch, "tokens")

    def train(self) -> int | None:
        """Train to the end and keep it; the tokens a second, None when an earlier attempt had done it all."""
        trainer, began = self.trainer, time.monotonic()
        first = trainer.resume(self.context.workdir)
        trainer.run(self.context.workdir, self.beat)
        trainer.save(self.context.workdir)
        seconds, done = time.monotonic() - began, trainer.step - first
        return round(done * trainer.config.batch / seconds) if done else None


def _save(params: Common, context: Context, trainer: Trainer, vectors: Vectors) -> None:
    from tasks.sae.formats import save_sae

    shutil.copyfile(context.workdir / "metrics.jsonl", context.output / "metrics.jsonl")
    about = {
        "model_name": params.model,
        "hook_name": vectors.point.name,
        "hook_module": vectors.point.module,
        "hook_layer": params.layer,
        "context_size": vectors.shape[1],
        "prepend_bos": False,
        **vectors.mask.told(),
        "dataset_path": params.dataset,
        "training_tokens": trainer.config.steps * trainer.config.batch,
        "activation_scale": trainer.scales.read,
    }
    save_sae(context.output, trainer.coder, trainer.scales, about)


def _read(vectors: Vectors, rows: Any, context: Context) -> Any:
    """The vectors of those rows, (vectors, d_in)."""
    import torch

    pieces: list[Any] = []
    for piece in vectors.read(rows):
        pieces.append(piece)
        context.progress("measuring", sum(map(len, pieces)), int(vectors.counts[rows].sum()), "tokens")
    return torch.cat(pieces)
