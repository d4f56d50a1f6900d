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
    layer: int | None = option(None, help="Which layer; the first is 0", minimum=0, mark="l")
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
        True, help="Leave out BOS and the first token of each row, whose activation norms are far larger"
    )
    allow_no_bos: bool = option(False, help="Accept tokens without BOS for a model or an SAE that expects it")
    model_dtype: str = option(AUTO, help=HELP, choices=CHOICES)
    arch: str = option("topk", help="Architecture of the SAE", choices=names())
    init_from: str | None = option(
        None, help="Begin with this SAE of the store instead of at random: fine-tune it", artifact="saes"
    )
    width: int | None = option(
        None, flag="--d-sae", help="SAE width (d_sae); default: --expansion times d_in", minimum=1
    )
    expansion: int = option(8, help="Features for each dimension of the residual stream", minimum=1)
    tokens: int | None = option(
        None,
        flag="--training-tokens",
        help="Training tokens, by default 10,000,000; the data are repeated (epochs) if needed",
        minimum=1,
    )
    steps: int | None = option(None, help="Training steps (batches), instead of --training-tokens", minimum=1)
    batch: int = option(4096, flag="--batch-size", help="Batch size in tokens", minimum=1)
    lr: float | None = option(
        None, flag="--learning-rate", help="Adam learning rate; default: 8e-4 / sqrt(d_sae / 2^14)", minimum=1e-12
    )
    warmup: float = option(0.05, help="Share of the training in which the learning rate rises", minimum=0, maximum=1)
    decay: float = option(
        0.2, help="Share of the training, at its end, in which the learning rate falls", minimum=0, maximum=1
    )
    sparsity_warmup: float = option(
        0.05, help="Share of the training in which the sparsity penalty rises", minimum=0, maximum=1
    )
    clip: float = option(1.0, flag="--max-grad-norm", help="Max gradient norm (clipping); 0 disables", minimum=0)
    accumulate: int = option(1, help="Parts in which a batch goes through the SAE, to hold less memory", minimum=1)
    evaluate: int = option(4, help="How often to measure on held-out tokens, the end included; 0: not", minimum=0)
    eval_tokens: int = option(
        EVAL_TOKENS, help="Held-out tokens for the final evaluation, at most a tenth of the data", minimum=2
    )
    patience: int = option(
        0, help="End when the FVU on held-out tokens was not better for so many measurements; 0: never", minimum=0
    )
    resample: int = option(
        0, help="How often dead features are drawn anew, in the first half of the training", minimum=0
    )
    precision: str = option(
        precision.AUTO,
        help="Choose active features in bf16, multiply in tf32 (GPUs only), or neither; auto: bf16 where it is faster",
        choices=precision.CHOICES,
    )
    seed: int = option(0, help="Seed of the weights and of the order of the data", minimum=0)
    log: str | None = option(
        None, help="Metrics also to tensorboard or wandb (W&B), or to both with a comma between them"
    )
    checkpoint_s: float = option(30.0, flag="--checkpoint-every", help="Seconds between checkpoints", minimum=0)
    together: dict[str, list[Any]] | None = option(
        None, help="Train all combinations of options with several values in one job, on one forward pass of the model"
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


def goes_on_at(workdir: Path) -> str | None:
    """The step that all have reached of which there is a whole checkpoint."""
    from tasks.sae.training.checkpoint_list import step_of, whole

    newest = [
        step_of([*found][-1])
        for folder in (workdir, *workdir.glob(f"{PARTS}/*"))
        if not (folder / GIVEN_UP).exists() and (found := whole(folder))
    ]
    return f"step {min(newest)}" if newest else None
