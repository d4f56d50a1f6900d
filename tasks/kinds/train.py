"""`train`: a sparse autoencoder on what passes one hook of a language model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.jobs.kind import Catalog, Context, Estimate, JobKind, Request
from tasks.parsing.redact import HUB_SECRETS, WANDB_SECRETS
from tasks.sae import arch_options, precision
from tasks.sae.architectures import coder_class
from tasks.train_job.params import DEFAULT_TOKENS, Common, P, resume_point, settled, steps_of
from tasks.train_job.sae_group import default_name

if TYPE_CHECKING:
    from tasks.activations.hook_sites import Hook
    from tasks.activations.stream import Vectors
    from tasks.jobs.multi_result import Parts
    from tasks.sae.memory_estimate import TrainingShape


#: With the options of every architecture, from their files.
Params = dataclasses.make_dataclass("Params", arch_options.fields(), bases=(Common,), frozen=True)


def makes(params: P, name: str) -> dict[str, P]:
    """The parameters of each SAE, by its name."""
    from tasks.train_job.sae_group import members

    return {member.name: member.params for member in members(params, name)}


def prepare(params: P, known: Catalog) -> tuple[P, list[Request]]:
    """Find what to train on, or ask for the jobs that make it; refuse what cannot work."""
    from tasks.train_job.sae_group import each
    from tasks.train_job.vector_source import SETTLED

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


def _prepare_one(params: P, known: Catalog) -> tuple[P, list[Request]]:
    from tasks.train_job.loggers import requested_loggers
    from tasks.train_job.vector_source import resolve, wiring

    params = KIND.read_params(dataclasses.asdict(params))
    requested_loggers(params.log)
    params, d_model, requests = resolve(params, known)
    if params.init_from is not None:
        from tasks.train_job.init_from import resolve_start

        params = resolve_start(params, known, d_model)
    if params.width is None and d_model is not None:
        params = dataclasses.replace(params, width=params.expansion * d_model)
    if d_model is not None and params.expansion != Common.expansion and params.width != params.expansion * d_model:
        raise UserError(f"The SAE has {params.width} features: --expansion does nothing.", "Leave --expansion out")
    _check_course(params)
    options = arch_options.chosen(params.arch, params)
    if params.sparsity_warmup != Common.sparsity_warmup and hasattr(options, "k"):
        message = f"The number of features, not a penalty, makes {params.arch} sparse: --sparsity-warmup does nothing."
        raise UserError(message, "Leave --sparsity-warmup out")
    if params.width is not None:
        options.check(params.width)
    if params.width is not None and d_model is not None:
        reads, part = len(wiring(params).reads), -(-params.batch // params.accumulate)
        product = precision.Product(part, d_model * reads, params.width, getattr(options, "k", None))
        precision.check_at_submit(params.precision, product)
    return KIND.read_params(dataclasses.asdict(settled(params))), requests


def _check_course(params: Common) -> None:
    """UserError for numbers of which each may be, but not beside the others."""
    steps = steps_of(params)
    if params.steps is not None and params.tokens not in (None, DEFAULT_TOKENS):
        raise UserError("--steps and --training-tokens both set the length of the training.", "Leave one of them out")
    if params.warmup + params.decay > 1:
        message = f"--warmup {params.warmup:g} and --decay {params.decay:g} are more than the whole training."
        raise UserError(message, "Give shares that add up to 1 at most")
    if params.accumulate > params.batch:
        message = f"--accumulate {params.accumulate} is more parts than a batch has tokens: {params.batch}."
        raise UserError(message, "Give a smaller --accumulate")
    if 2 * params.resample > steps:
        message = (
            f"--resample {params.resample} is more often than the first half of the training has steps: {steps // 2}."
        )
        raise UserError(message, "Give a smaller --resample")
    measured = min(params.evaluate, steps)
    if params.patience and measured <= params.patience:
        message = f"--patience {params.patience} ends nothing that is measured {measured} times."
        often = f"Measure more often, for instance --evaluate {4 * params.patience}"
        raise UserError(message, often if steps > params.patience else "Train longer: a step is measured once at most")


def in_force(params: P, result: dict[str, Any]) -> P:
    """The parameters with what could be settled only in the run, where the model's width is known at last."""
    return dataclasses.replace(params, width=result["d_sae"], lr=result["lr"])


def estimate(params: Common, known: Catalog) -> Estimate:
    """Memory and disk by the shapes; time by a training of like shape in the store."""
    from tasks.models.size_estimate import seconds_like_earlier
    from tasks.sae.memory_estimate import of_training, with_compiler
    from tasks.train_job.sae_group import each
    from tasks.train_job.vector_source import place_of

    alike = ("model", "activations", "hook", "target", "crosscode", "arch", "width", "expansion", "batch")
    tokens = params.steps * params.batch if params.steps else params.tokens or DEFAULT_TOKENS
    seconds = None
    if params.together is None:
        seconds = seconds_like_earlier(
            known, "saes", tokens, lambda earlier: all(earlier.get(key) == getattr(params, key) for key in alike)
        )
    trained = each(params)
    stored = None if params.activations is None else known.manifest("activations", params.activations)
    read = (stored or {}).get("result")
    place = place_of(trained[0])
    shapes, hooks = [_shape(one) for one in trained], len(_hooks(trained))
    held = of_training(known, place.model, place.dataset, shapes, hooks, read, params.model_dtype)
    if params.compile and stored is None:
        held = with_compiler(held)
    return dataclasses.replace(held, seconds=seconds)


def _shape(params: Common) -> TrainingShape:
    from tasks.sae.memory_estimate import TrainingShape
    from tasks.train_job.vector_source import wiring

    options, wired = arch_options.chosen(params.arch, params), wiring(params)
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
        groups=getattr(options, "groups", 1),
    )


def _hooks(trained: Iterable[Common]) -> list[Hook]:
    """All hooks that are read or written, each once."""
    from tasks.train_job.vector_source import wiring

    return list(dict.fromkeys(hook for params in trained for hook in wiring(params).hooks))


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
    resume_point=resume_point,
)


def run(params: Common, context: Context) -> dict[str, Any] | Parts:
    """Train, resuming from the newest checkpoints; save each SAE; measure it and its baselines on held-out rows."""
    from tasks.activations.stream import ModelVectors
    from tasks.jobs.multi_result import Parts
    from tasks.models.cpu_backend import choose
    from tasks.models.model_dtype import wanted
    from tasks.train_job.batches import Reading
    from tasks.train_job.group_context import parts_of
    from tasks.train_job.loop import TrainingLoop
    from tasks.train_job.sae_group import members
    from tasks.train_job.single_sae import SaeTraining
    from tasks.train_job.vector_source import open_vectors, wiring

    choose(context.device)
    context.progress("loading", 0, None, "tokens")
    trained, loop = members(params, context.name), TrainingLoop(params.checkpoint_s, context)
    hooks = _hooks(member.params for member in trained)
    dtype = wanted(params.model_dtype, context.workdir, resume_point(context.workdir) is not None, context.device)
    vectors = open_vectors(_pinned(trained[0].params, context), hooks, context.store, context.device, dtype)
    origin = _origin(trained[0].params, vectors, context)
    if params.compile and isinstance(vectors, ModelVectors):
        vectors.compile(context.workdir, context.note)
    reading = Reading(vectors, hooks, params.batch, params.seed, loop.after_step, context.workdir, params.eval_tokens)
    contexts: Sequence[Context] = [context] if params.together is None else parts_of(context, trained)
    loop.trainings = [
        SaeTraining(member.params, own, reading.see(wiring(member.params)))
        for member, own in zip(trained, contexts, strict=True)
    ]
    loop.train()
    ended = dict(zip([member.name for member in trained], loop.trainings, strict=True))
    results = {}
    for place, (name, training) in enumerate(ended.items()):
        if params.together is not None:
            context.progress("finishing", place, len(ended), "SAEs")
        results[name] = training.finish()
    made = {name: {**result, **origin} for name, result in results.items() if result is not None}
    failed = {name: training.failed for name, training in ended.items() if training.failed is not None}
    return made[context.name] if params.together is None else Parts(made, failed)


def _pinned(params: Common, context: Context) -> Common:
    """The parameters with the model at the commit that an earlier attempt has read."""
    from tasks.models.model_commit import pinned

    return params if params.model is None else dataclasses.replace(params, model=pinned(params.model, context.workdir))


def _origin(params: Common, vectors: Vectors, context: Context) -> dict[str, str]:
    """What the result says of the model's commit and dtype, which later attempts keep."""
    from tasks.activations.stream import ModelVectors
    from tasks.models.model_commit import pin
    from tasks.models.model_dtype import keep

    if isinstance(vectors, ModelVectors):
        pin(vectors.model, context.workdir)
        keep(vectors.model, context.workdir, context.note)
        return vectors.origin
    made = context.store.manifest("activations", str(params.activations)).get("result", {})
    return {name: made[name] for name in ("model_commit", "model_dtype") if name in made}
