"""`train`: a sparse autoencoder on what passes one hook of a language model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.job import Context, Estimate, JobKind, Known, Request, option
from tasks.model_dtype import AUTO, CHOICES, HELP
from tasks.problem import Problem
from tasks.redact import HUB_SECRETS, WANDB_SECRETS
from tasks.sae import choices, precision
from tasks.sae.architectures import coder_class, names
from tasks.sae.coder import default_rate
from tasks.sae.schedule import EVAL_TOKENS
from tasks.sites import SITES

if TYPE_CHECKING:
    from tasks.activations import Vectors
    from tasks.hooks import Hook
    from tasks.parts import Parts
    from tasks.sae.footprint import TrainingShape


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


#: With the options of every architecture, from their files.
Params = dataclasses.make_dataclass("Params", choices.fields(), bases=(Common,), frozen=True)


def default_name(params: Common) -> str:
    """Model, layer, architecture and sparsity; of several SAEs the model and what differs."""
    from tasks.training import place, together

    if params.together is not None:
        from tasks.models import model_slug

        return together.label(params, model_slug(params.model or params.activations or ""))
    sparsity = choices.chosen(params.arch, params).label()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{place.label(params)}-{params.arch}-{sparsity}")


def makes(params: P, name: str) -> dict[str, P]:
    """The parameters of each SAE, by its name."""
    from tasks.training.together import members

    return {member.name: member.params for member in members(params, name)}


def prepare(params: P, known: Known) -> tuple[P, list[Request]]:
    """Find what to train on, or ask for the jobs that make it; refuse what cannot work."""
    from tasks.training.place import SETTLED
    from tasks.training.together import each

    prepared = [_prepare_one(one, known) for one in each(params)]
    requests = [request for _, wanted in prepared for request in wanted]
    first = prepared[0][0]
    if params.together is None:
        return first, requests
    settled_alike = (*SETTLED, *(() if "expansion" in params.together else ("width",)))
    alike = {name: getattr(first, name) for name in settled_alike if name not in params.together}
    if len({one.lr for one, _ in prepared}) == 1:
        alike["lr"] = first.lr
    once = [request for place, request in enumerate(requests) if request not in requests[:place]]
    return dataclasses.replace(params, **alike), once


def _prepare_one(params: P, known: Known) -> tuple[P, list[Request]]:
    from tasks.training.logs import asked_for
    from tasks.training.place import resolve, wiring

    params = KIND.read_params(dataclasses.asdict(params))
    asked_for(params.log)
    params, d_model, requests = resolve(params, known)
    if params.init_from is not None:
        from tasks.training.start import resolve_start

        params = resolve_start(params, known, d_model)
    if params.width is None and d_model is not None:
        params = dataclasses.replace(params, width=params.expansion * d_model)
    if d_model is not None and params.expansion != Common.expansion and params.width != params.expansion * d_model:
        raise Problem(f"The SAE has {params.width} features: --expansion does nothing.", "Leave --expansion out")
    _check_course(params)
    options = choices.chosen(params.arch, params)
    if params.sparsity_warmup != Common.sparsity_warmup and hasattr(options, "k"):
        told = f"The number of features, not a penalty, makes {params.arch} sparse: --sparsity-warmup does nothing."
        raise Problem(told, "Leave --sparsity-warmup out")
    if params.width is not None:
        options.check(params.width)
    if params.width is not None and d_model is not None:
        reads, part = len(wiring(params).reads), -(-params.batch // params.accumulate)
        product = precision.Product(part, d_model * reads, params.width, getattr(options, "k", None))
        precision.check_at_submit(params.precision, product)
    return KIND.read_params(dataclasses.asdict(settled(params))), requests


def steps_of(params: Common) -> int:
    """How many batches it trains on."""
    return params.steps or -(-(params.tokens or DEFAULT_TOKENS) // params.batch)


def _check_course(params: Common) -> None:
    """Problem for numbers of which each may be, but not beside the others."""
    steps = steps_of(params)
    if params.steps is not None and params.tokens not in (None, DEFAULT_TOKENS):
        raise Problem("--steps and --training-tokens both set the length of the training.", "Leave one of them out")
    if params.warmup + params.decay > 1:
        told = f"--warmup {params.warmup:g} and --decay {params.decay:g} are more than the whole training."
        raise Problem(told, "Give shares that add up to 1 at most")
    if params.accumulate > params.batch:
        told = f"--accumulate {params.accumulate} is more parts than a batch has tokens: {params.batch}."
        raise Problem(told, "Give a smaller --accumulate")
    if 2 * params.resample > steps:
        told = (
            f"--resample {params.resample} is more often than the first half of the training has steps: {steps // 2}."
        )
        raise Problem(told, "Give a smaller --resample")
    measured = min(params.evaluate, steps)
    if params.patience and measured <= params.patience:
        told = f"--patience {params.patience} ends nothing that is measured {measured} times."
        often = f"Measure more often, for instance --evaluate {4 * params.patience}"
        raise Problem(told, often if steps > params.patience else "Train longer: a step is measured once at most")


def settled(params: P) -> P:
    """The parameters with what is in force where nothing was said: options, rate by width, how many tokens.

    Where --steps rules there is no number of tokens; that of a record made before this was so is the default.
    """
    own = dataclasses.asdict(choices.chosen(params.arch, params))
    tokens = None if params.steps else params.tokens or DEFAULT_TOKENS
    lr = params.lr or (None if params.width is None else default_rate(params.width))
    return dataclasses.replace(params, **own, tokens=tokens, lr=lr)


def in_force(params: P, result: dict[str, Any]) -> P:
    """The parameters with what could be settled only in the run, where the model's width is known at last."""
    return dataclasses.replace(params, width=result["d_sae"], lr=result["lr"])


def estimate(params: Common, known: Known) -> Estimate:
    """Memory and disk by the shapes; time by a training of like shape in the store."""
    from tasks.estimate import seconds_like_earlier
    from tasks.sae.footprint import of_training
    from tasks.training.place import place_of
    from tasks.training.together import each

    alike = ("model", "activations", "hook", "target", "crosscode", "arch", "width", "expansion", "batch")
    tokens = params.steps * params.batch if params.steps else params.tokens or DEFAULT_TOKENS
    seconds = None
    if params.together is None:
        seconds = seconds_like_earlier(
            known, "saes", tokens, lambda told: all(told.get(key) == getattr(params, key) for key in alike)
        )
    trained = each(params)
    stored = None if params.activations is None else known.manifest("activations", params.activations)
    read = (stored or {}).get("result")
    place = place_of(trained[0])
    shapes, hooks = [_shape(one) for one in trained], len(_hooks(trained))
    held = of_training(known, place.model, place.dataset, shapes, hooks, read, params.model_dtype)
    return dataclasses.replace(held, seconds=seconds)


def _shape(params: Common) -> TrainingShape:
    from tasks.sae.footprint import TrainingShape
    from tasks.training.place import wiring

    options, wired = choices.chosen(params.arch, params), wiring(params)
    return TrainingShape(
        getattr(options, "k", None),
        params.width,
        params.expansion,
        params.batch,
        -(-params.batch // params.accumulate),
        len(wired.reads),
        len(wired.writes),
        params.skip,
        params.evaluate,
        calibrates="threshold" in coder_class(params.arch).buffer_names,
        eval_tokens=params.eval_tokens,
        precision=params.precision,
    )


def _hooks(trained: Iterable[Common]) -> list[Hook]:
    """All hooks that are read or written, each once."""
    from tasks.training.place import wiring

    return list(dict.fromkeys(hook for params in trained for hook in wiring(params).hooks))


#: Where in a job's work folder those of its SAEs are, if there are several; and what says of one that it is given up.
PARTS, GIVEN_UP = "parts", "given-up.json"


def goes_on_at(workdir: Path) -> str | None:
    """The step that all have reached of which there is a whole checkpoint."""
    from tasks.sae.checkpoint_list import step_of, whole

    newest = [
        step_of([*found][-1])
        for folder in (workdir, *workdir.glob(f"{PARTS}/*"))
        if not (folder / GIVEN_UP).exists() and (found := whole(folder))
    ]
    return f"step {min(newest)}" if newest else None


KIND = JobKind(
    "train",
    queue="training",
    params=Params,
    summary="Train a sparse autoencoder on a layer of a model",
    module=__name__,
    secrets=(*HUB_SECRETS, *WANDB_SECRETS),
    produces="saes",
    default_name=default_name,
    makes=makes,
    prepare=prepare,
    estimate=estimate,
    in_force=in_force,
    goes_on_at=goes_on_at,
)


def run(params: Common, context: Context) -> dict[str, Any] | Parts:
    """Train, resuming from the newest checkpoints; save each SAE; measure it and its baselines on held-out rows."""
    from tasks.model_dtype import wanted
    from tasks.parts import Parts
    from tasks.products import choose
    from tasks.training.one import Training
    from tasks.training.part import parts_of
    from tasks.training.place import open_vectors, wiring
    from tasks.training.pulse import Pulse
    from tasks.training.reading import Reading
    from tasks.training.together import members

    choose(context.device)
    context.progress("loading", 0, None, "tokens")
    trained, pulse = members(params, context.name), Pulse(params.checkpoint_s, context)
    hooks = _hooks(member.params for member in trained)
    dtype = wanted(params.model_dtype, context.workdir, goes_on_at(context.workdir) is not None, context.device)
    vectors = open_vectors(_pinned(trained[0].params, context), hooks, context.store, context.device, dtype)
    origin = _origin(trained[0].params, vectors, context)
    reading = Reading(vectors, hooks, params.batch, params.seed, pulse.beat, context.workdir, params.eval_tokens)
    contexts: Sequence[Context] = [context] if params.together is None else parts_of(context, trained)
    pulse.trainings = [
        Training(member.params, own, reading.see(wiring(member.params)))
        for member, own in zip(trained, contexts, strict=True)
    ]
    pulse.train()
    ended = dict(zip([member.name for member in trained], pulse.trainings, strict=True))
    told = {}
    for place, (name, training) in enumerate(ended.items()):
        if params.together is not None:
            context.progress("finishing", place, len(ended), "SAEs")
        told[name] = training.finish()
    made = {name: {**result, **origin} for name, result in told.items() if result is not None}
    failed = {name: training.failed for name, training in ended.items() if training.failed is not None}
    return made[context.name] if params.together is None else Parts(made, failed)


def _pinned(params: Common, context: Context) -> Common:
    """The parameters with the model at the commit that an earlier attempt has read."""
    from tasks.model_commit import pinned

    return params if params.model is None else dataclasses.replace(params, model=pinned(params.model, context.workdir))


def _origin(params: Common, vectors: Vectors, context: Context) -> dict[str, str]:
    """What the result says of the model's commit and dtype, which later attempts keep."""
    from tasks.activations import ModelVectors
    from tasks.model_commit import pin
    from tasks.model_dtype import keep

    if isinstance(vectors, ModelVectors):
        pin(vectors.model, context.workdir)
        keep(vectors.model, context.workdir)
        return vectors.origin
    made = context.store.manifest("activations", str(params.activations)).get("result", {})
    return {name: made[name] for name in ("model_commit", "model_dtype") if name in made}
