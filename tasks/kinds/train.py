"""`train`: a sparse autoencoder on the residual stream of a language model."""

from __future__ import annotations

import dataclasses
import json
import pkgutil
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.job import Context, Estimate, JobKind, Known, Request, kind_named, option
from tasks.problem import Problem

if TYPE_CHECKING:
    from tasks.sae.trainer import TrainConfig, Trainer

#: Each file there is an architecture; listing them by name spares this declaration the import of torch.
_ARCHITECTURES = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parents[1] / "sae/architectures")]))

_CONTEXT = 128
#: A checkpoint may take up to this share of the time.
_CHECKPOINT_SHARE = 0.05


@dataclass(frozen=True)
class Params:
    """What to train on, what to train, how long."""

    model: str = option(help="A model in the store, a model folder, or a Hub id", artifact="models")
    dataset: str = option(help="Tokens or a dataset in the store, a file or folder, or a Hub id", artifact="tokens")
    layer: int = option(help="Train on the residual stream after this layer; the first is 0", minimum=0)
    arch: str = option("topk", help="Architecture of the SAE", choices=_ARCHITECTURES)
    k: int = option(32, help="Active features a token (topk)", minimum=1)
    l1: float = option(2.0, help="Weight of the L1 penalty (standard)", minimum=0)
    width: int | None = option(None, help="Number of features; default: --expansion times the model's width", minimum=1)
    expansion: int = option(8, help="Features for each dimension of the residual stream", minimum=1)
    tokens: int = option(10_000_000, help="How many tokens to train on; passes over the data are repeated", minimum=1)
    steps: int | None = option(None, help="How many batches to train on, instead of --tokens", minimum=1)
    batch: int = option(4096, help="Tokens in a batch", minimum=1)
    lr: float | None = option(None, help="Learning rate of Adam; default: by width", minimum=0)
    seed: int = option(0, help="Seed of the weights and of the order of the data", minimum=0)
    checkpoint_s: float = option(30.0, help="Seconds between checkpoints", minimum=0)


def default_name(params: Params) -> str:
    """Model, layer, architecture and sparsity."""
    from tasks.models import model_slug

    sparsity = f"l1-{params.l1:g}" if params.arch == "standard" else f"k{params.k}"
    name = f"{model_slug(params.model)}-l{params.layer}-{params.arch}-{sparsity}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def prepare(params: Params, known: Known) -> tuple[Params, list[Request]]:
    """Find the model and the tokens, or ask for the jobs that make them; refuse what cannot work."""
    from tasks.models import look_up

    model, told = look_up(params.model, known)
    params = dataclasses.replace(params, model=model)
    told = told or {}
    layers, d_model = told.get("n_layers"), told.get("d_model")
    if layers is not None and params.layer >= layers:
        raise Problem(f"{model} has no layer {params.layer}: its layers are 0 to {layers - 1}.")
    if params.width is None and d_model is not None:
        params = dataclasses.replace(params, width=params.expansion * d_model)
    _check_sparsity(params.arch, params.k, params.width)
    tokens, requests = _find_tokens(params, known, told)
    return dataclasses.replace(params, dataset=tokens), requests


def _check_sparsity(arch: str, k: int, width: int | None) -> None:
    if width is not None and arch != "standard" and k > width:
        raise Problem(f"--k {k} is more than the {width} features of the SAE.", "Give a smaller --k or more features")


def _find_tokens(params: Params, known: Known, told: dict[str, Any]) -> tuple[str, list[Request]]:
    """The name of the tokens to train on, and the jobs that make them where they are not there."""
    from tasks.text.naming import resolve_dataset

    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", params.dataset):
        if known.manifest("tokens", params.dataset) is not None:
            _check_vocabulary(known.path("tokens", params.dataset), params.model, told.get("vocab_size"))
            return params.dataset, []
        if known.coming("tokens", params.dataset):
            return params.dataset, []
    dataset, requests = resolve_dataset(params.dataset, known)
    kind = kind_named("tokenize")
    values = {"dataset": dataset, "model": params.model, "context": min(_CONTEXT, told.get("context") or _CONTEXT)}
    name = kind.default_name(kind.read_params(values)) if kind.default_name else dataset
    if known.manifest("tokens", name) is not None or known.coming("tokens", name):
        return name, []
    return name, [*requests, Request("tokenize", name, values)]


def _check_vocabulary(tokens: Path, model: str, vocab_size: int | None) -> None:
    """Refuse tokens with ids that the model does not have."""
    used = json.loads((tokens / "tokens.json").read_text(encoding="utf-8"))["vocab_size"]
    if vocab_size is not None and used > vocab_size:
        raise Problem(
            f"The tokens {tokens.name} come from a vocabulary of {used}, but {model} has {vocab_size} tokens.",
            f"Tokenize the dataset for this model: mistudio submit tokenize --model {model}",
        )


def estimate(params: Params, known: Known) -> Estimate:
    """Memory and disk by the shapes; time by a training of like shape in the store."""
    from tasks.estimate import seconds_like_earlier
    from tasks.sae.footprint import TrainingShape, of_training

    alike = ("model", "arch", "width", "expansion", "batch")
    tokens = params.steps * params.batch if params.steps else params.tokens
    seconds = seconds_like_earlier(
        known, "saes", tokens, lambda told: all(told.get(key) == getattr(params, key) for key in alike)
    )
    shape = TrainingShape(params.arch, params.k, params.width, params.expansion, params.batch)
    return dataclasses.replace(of_training(known, params.model, params.dataset, shape), seconds=seconds)


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


def run(params: Params, context: Context) -> dict[str, Any]:
    """Train, resuming from the newest checkpoint; save the SAE; measure it and its baselines on held-out rows."""
    from tasks.activations import ActivationStream, block_path, split_rows
    from tasks.models import load_model
    from tasks.sae.baselines import compare
    from tasks.sae.trainer import Trainer
    from tasks.text.tokens import open_tokens

    context.progress("loading", 0, None, "tokens")
    folder = context.store.path("tokens", params.dataset)
    tokens = open_tokens(folder)
    model: Any = load_model(params.model, context.store, context.device)
    _check_vocabulary(folder, params.model, model.get_input_embeddings().num_embeddings)
    module, d_in = block_path(model, params.layer), int(model.config.get_text_config().hidden_size)
    train_rows, held_rows = split_rows(len(tokens), _held_out(tokens.shape, d_in), params.seed)

    pulse = _Pulse(params, context)
    stream = ActivationStream(model, tokens, train_rows, params.layer, params.batch, params.seed, pulse.beat)
    pulse.trainer = trainer = Trainer(_config(params, d_in), stream, context.device)
    tokens_per_s = pulse.train()
    _save(params, context, trainer, module, int(tokens.shape[1]))

    def read(rows: Any) -> Any:
        return _read(model, tokens, rows, params.layer, context) * trainer.scale

    return {
        **compare(trainer.coder, read(train_rows[: 2 * len(held_rows)]), read(held_rows)),
        "tokens_per_s": tokens_per_s,
        "steps": trainer.step,
        "steps_in_last_attempt": trainer.step - pulse.first,
        "d_in": d_in,
        "d_sae": trainer.config.coder.d_sae,
        "hook": module,
    }


def _held_out(shape: tuple[int, ...], d_in: int) -> int:
    """How many rows are kept from training."""
    from tasks.sae.footprint import HELD_OUT_NUMBERS, HELD_OUT_SHARE, HELD_OUT_VECTORS

    rows, context = shape
    if rows < 2:
        raise Problem("There is only one row of tokens: too little to train and to measure on.", "Use more text")
    vectors = min(HELD_OUT_VECTORS, HELD_OUT_NUMBERS // d_in)
    return max(1, min(int(rows * HELD_OUT_SHARE), vectors // context))


def _config(params: Params, d_in: int) -> TrainConfig:
    from tasks.sae.coder import CoderConfig
    from tasks.sae.trainer import TrainConfig, default_lr

    width = params.width or params.expansion * d_in
    _check_sparsity(params.arch, params.k, width)
    steps = params.steps or -(-params.tokens // params.batch)
    return TrainConfig(
        coder=CoderConfig(params.arch, d_in, width, params.k, params.l1),
        steps=steps,
        batch=params.batch,
        lr=params.lr or default_lr(width),
        dead_after=min(TrainConfig.dead_after, steps * params.batch // 8),
        seed=params.seed,
    )


class _Pulse:
    """Progress, checkpoints and the wish to stop, looked at after each step and each forward pass."""

    trainer: Trainer
    first = 0  # the step from which this attempt went on

    def __init__(self, params: Params, context: Context) -> None:
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
        self.first = first = trainer.resume(self.context.workdir)
        if not first and (left := goes_on_at(self.context.workdir)):
            self.context.note(f"starts from scratch: the checkpoint at {left} was made with other settings")
        trainer.run(self.context.workdir, self.beat)
        trainer.save(self.context.workdir)
        seconds, done = time.monotonic() - began, trainer.step - first
        return round(done * trainer.config.batch / seconds) if done else None


def _save(params: Params, context: Context, trainer: Trainer, module: str, row: int) -> None:
    from tasks.activations import hook_name
    from tasks.sae.formats import save_sae

    shutil.copyfile(context.workdir / "metrics.jsonl", context.output / "metrics.jsonl")
    about = {
        "model_name": params.model,
        "hook_name": hook_name(params.layer),
        "hook_module": module,
        "hook_layer": params.layer,
        "context_size": row,
        "prepend_bos": False,
        "dataset_path": params.dataset,
        "training_tokens": trainer.config.steps * trainer.config.batch,
        "activation_scale": trainer.scale,
    }
    save_sae(context.output, trainer.coder, trainer.scale, about)


def _read(model: Any, tokens: Any, rows: Any, layer: int, context: Context) -> Any:
    """The residual stream of those rows, (vectors, d_in)."""
    import torch

    from tasks.activations import read_rows

    pieces: list[Any] = []
    for piece in read_rows(model, tokens, rows, layer):
        pieces.append(piece)
        context.progress("measuring", sum(map(len, pieces)), rows.size * tokens.shape[1], "tokens")
    return torch.cat(pieces)
