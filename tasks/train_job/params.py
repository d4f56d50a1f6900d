"""The parameters of a training: what all architectures share, what follows from them, where their checkpoints are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tasks.activations.hook_sites import SITES
from tasks.jobs.kind import option
from tasks.models.model_dtype import AUTO, CHOICES, HELP
from tasks.sae import arch_options, precision
from tasks.sae.architectures import names
from tasks.sae.coder import default_rate
from tasks.sae.training.schedule import EVAL_TOKENS

#: Tokens to train on where neither --training-tokens nor --steps is given.
DEFAULT_TOKENS = 10_000_000


@dataclass(frozen=True)
class Common:
    """What to train on, what to train, how long: what all architectures share."""

    model: str | None = option(
        None, help="A model in the store, a model folder, or a Hub id (ID@REVISION)", artifact="models"
    )
    dataset: str | None = option(
        None, help="Tokens or a dataset in the store, a file or folder, or a Hub id", artifact="tokens"
    )
    layer: int | None = option(None, help="Layer index, from 0", minimum=0, mark="l")
    activations: str | None = option(
        None, help="Stored activations, instead of model, dataset, layer and hook", artifact="activations"
    )
    hook: str = option(
        "resid",
        help="Hook point: resid (resid_post), mlp (mlp_out), attn (attn_out) or mlp-in",
        choices=SITES,
    )
    target: str | None = option(
        None, help="Train a transcoder that predicts the activations at this hook", choices=SITES
    )
    target_layer: int | None = option(None, help="Layer of --target; default: --layer", minimum=0)
    skip: bool = option(False, help="Add a linear skip connection to the transcoder")
    crosscode: str | None = option(None, help="Layers of a crosscoder instead of --layer, for example 2,4,6")
    skip_bos: bool = option(
        True, help="Skip BOS and the first token of each row, whose activation norms are far larger"
    )
    allow_no_bos: bool = option(False, help="Accept tokens without BOS for a model or an SAE that expects it")
    model_dtype: str = option(AUTO, help=HELP, choices=CHOICES)
    compile: bool = option(False, help="Compile the model's blocks with torch.compile: starts later, then runs faster")
    arch: str = option("topk", help="Architecture of the SAE", choices=names())
    init_from: str | None = option(None, help="Initialize from this SAE (fine-tune)", artifact="saes")
    width: int | None = option(
        None, flag="--d-sae", help="SAE width (d_sae); default: --expansion times the model's width", minimum=1
    )
    expansion: int = option(8, help="Expansion factor: d_sae / the model's width, of a crosscoder too", minimum=1)
    tokens: int | None = option(
        None,
        flag="--training-tokens",
        help="Training tokens, by default 10,000,000; the data are repeated (epochs) if needed",
        minimum=1,
    )
    steps: int | None = option(None, help="Training steps (batches), instead of --training-tokens", minimum=1)
    batch: int = option(4096, flag="--batch-size", help="Batch size in tokens", minimum=2)
    lr: float | None = option(
        None, flag="--learning-rate", help="Adam learning rate; default: 8e-4 / sqrt(d_sae / 2^14)", minimum=1e-12
    )
    warmup: float = option(0.05, help="Fraction of training for linear LR warmup", minimum=0, maximum=1)
    decay: float = option(0.2, help="Final fraction of training for linear LR decay to 0", minimum=0, maximum=1)
    sparsity_warmup: float = option(0.05, help="Fraction of training for sparsity-penalty warmup", minimum=0, maximum=1)
    clip: float = option(1.0, flag="--max-grad-norm", help="Max gradient norm (clipping); 0 disables", minimum=0)
    accumulate: int = option(1, help="Gradient accumulation: micro-batches per batch, to save memory", minimum=1)
    evaluate: int = option(
        4, help="Number of evaluations on held-out tokens, including the last; 0 disables", minimum=0
    )
    eval_tokens: int = option(
        EVAL_TOKENS, help="Held-out tokens for the final evaluation, at most a tenth of the data", minimum=2
    )
    patience: int = option(0, help="Early stopping: stop after N evaluations without lower FVU; 0 disables", minimum=0)
    resample: int = option(
        0, help="Number of times dead features are resampled, in the first half of training", minimum=0
    )
    precision: str = option(
        precision.AUTO,
        help="Choose active features in bf16, multiply in tf32 (GPUs only), or neither; auto: bf16 where it is faster",
        choices=precision.CHOICES,
    )
    seed: int = option(0, help="Random seed of weights and data order", minimum=0)
    log: str | None = option(None, help="Also log metrics to tensorboard, wandb (W&B), or both (comma-separated)")
    checkpoint_s: float = option(30.0, flag="--checkpoint-every", help="Seconds between checkpoints", minimum=0)
    together: dict[str, list[Any]] | None = option(
        None, help="Train all combinations of comma-separated values in one job, sharing one forward pass per batch"
    )


P = TypeVar("P", bound=Common)


def steps_of(params: Common) -> int:
    """How many batches it trains on."""
    return params.steps or -(-(params.tokens or DEFAULT_TOKENS) // params.batch)


def settled(params: P) -> P:
    """The parameters with what is in force where nothing was said: options, rate by width, how many tokens.

    Where --steps rules there is no number of tokens; that of a record made before this was so is the default.
    """
    own = dataclasses.asdict(arch_options.chosen(params.arch, params))
    tokens = None if params.steps else params.tokens or DEFAULT_TOKENS
    lr = params.lr or (None if params.width is None else default_rate(params.width))
    return dataclasses.replace(params, **own, tokens=tokens, lr=lr)


#: Where in a job's work folder those of its SAEs are, if there are several; and what says of one that it is given up.
PARTS, GIVEN_UP = "parts", "given-up.json"


def resume_point(workdir: Path) -> str | None:
    """The step that all have reached of which there is a whole checkpoint."""
    from tasks.sae.training.checkpoint_list import step_of, whole

    newest = [
        step_of([*found][-1])
        for folder in (workdir, *workdir.glob(f"{PARTS}/*"))
        if not (folder / GIVEN_UP).exists() and (found := whole(folder))
    ]
    return f"step {min(newest)}" if newest else None
