"""`extract`: the strongest examples of every feature of an SAE, with statistics and one HTML page."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.jobs.kind import Catalog, Context, Estimate, JobKind, Request, option
from tasks.models.model_dtype import AUTO, CHOICES, HELP
from tasks.parsing.redact import HUB_SECRETS
from tasks.sae import precision
from tasks.sae.coder import BF16, FLOAT32

if TYPE_CHECKING:
    import numpy as np

    from tasks.activations.stream import ModelVectors
    from tasks.features.top_examples import TopExamples
    from tasks.sae.coder import Coder
    from tasks.storage.store import Store

_SAVE_EVERY_S = 10.0
_STATE = "top.safetensors"


@dataclass(frozen=True)
class Params:
    """Whose features, on which tokens, how many examples."""

    sae: str = option(help="Name of the SAE in the store", artifact="saes")
    tokens: str | None = option(
        None, flag="--token-set", help="Tokens; default: those it was trained on", artifact="tokens"
    )
    model: str | None = option(None, help="Model; default: the one it was trained on", artifact="models")
    max_tokens: int | None = option(1_000_000, help="Maximum tokens to read, evenly spread", minimum=1)
    top: int = option(10, help="Top-activating examples per feature", minimum=1, maximum=10_000)
    window: int = option(12, help="Context tokens on each side of the max activation", minimum=0, maximum=10_000)
    skip_bos: bool | None = option(
        None, help="Skip BOS and the first token of each row; default: as the SAE was trained"
    )
    allow_no_bos: bool = option(False, help="Accept tokens without BOS for a model or an SAE that expects it")
    precision: str = option(
        precision.AUTO,
        help="Choose active features in bf16, multiply in tf32 (GPUs only), or neither; auto: bf16 where it is faster",
        choices=precision.CHOICES,
    )
    model_dtype: str = option(AUTO, help=HELP, choices=CHOICES)
    compile: bool = option(False, help="Compile the model's blocks with torch.compile: starts later, then runs faster")


def default_name(params: Params) -> str:
    """The SAE's name."""
    return params.sae


def prepare(params: Params, known: Catalog) -> tuple[Params, list[Request]]:
    """Refuse an SAE, tokens or a model that are neither there nor coming."""
    from tasks.models.loading import check_dtype, look_up
    from tasks.sae.formats.native import read_config
    from tasks.text.compatibility import check_bos_of_sae
    from tasks.text.tokens import read_info

    for family, name in (("saes", params.sae), ("tokens", params.tokens)):
        if name is not None and known.manifest(family, name) is None and not known.is_pending(family, name):
            raise UserError(f"There is no {family}/{name} in the store.", "See what was made: mistudio jobs ls")
    if params.model is not None:
        params = dataclasses.replace(params, model=look_up(params.model, known, readable=True)[0])
    if model := params.model or _model_of(params.sae, known):
        check_dtype(params.model_dtype, model, known)
    if params.tokens is not None and known.manifest("tokens", params.tokens) and known.manifest("saes", params.sae):
        metadata = read_config(known.path("saes", params.sae)).get("metadata", {})
        bos = read_info(known.path("tokens", params.tokens)).bos
        check_bos_of_sae(params.sae, metadata, f"tokens/{params.tokens}", bos, params.allow_no_bos)
    if known.manifest("saes", params.sae) is not None:
        _origin(params, known)
        _check_precision(params, known)
    return params, []


def _check_precision(params: Params, known: Catalog) -> None:
    """UserError for a precision that gains nothing with the SAE, as far as is known before its rows are."""
    from tasks.sae.formats.native import read_shape
    from tasks.sae.memory_estimate import CODES, FORWARD_TOKENS

    if params.precision not in (precision.AUTO, FLOAT32):
        shape = read_shape(known.path("saes", params.sae))
        rows = max(1, min(FORWARD_TOKENS, CODES // shape.d_sae))
        product = precision.Product(rows, shape.d_in, shape.d_sae, getattr(shape.options, "k", None))
        precision.check_at_submit(params.precision, product)


def _model_of(sae: str, known: Catalog) -> str | None:
    """The model that an SAE of the store was trained on, by its manifest."""
    return _made_from(sae, known).get("models")


def _made_from(sae: str, known: Catalog | Store) -> dict[str, str]:
    """What an SAE of the store was trained on, by family, as its manifest has it."""
    made_from = (known.manifest("saes", sae) or {}).get("made_from", {})
    return dict(value.split("/", 1) for value in made_from.values())


def estimate(params: Params, known: Catalog) -> Estimate:
    """Time by an earlier extraction from the same SAE, GPU memory by shapes; the rest depends on what is found."""
    from tasks.models.size_estimate import seconds_like_earlier
    from tasks.sae.memory_estimate import of_extraction

    model = params.model or _model_of(params.sae, known)
    sae, requested = known.path("saes", params.sae), (params.precision, params.model_dtype)
    tokens = params.tokens or _made_from(params.sae, known).get("tokens")
    held = of_extraction(known, model, tokens, sae, params.top, params.window, *requested) if model else None
    if params.max_tokens is None:
        return Estimate(gpu_memory_bytes=held)
    seconds = seconds_like_earlier(
        known, "features", params.max_tokens, lambda earlier: earlier.get("sae") == params.sae
    )
    return Estimate(seconds, gpu_memory_bytes=held)


def resume_point(workdir: Path) -> str | None:
    """The row in the saved state of `tasks.features.top_examples`."""
    from tasks.parsing.tensor_files import read_notes

    notes = read_notes(workdir / _STATE)
    return f"row {notes['next_row']}" if notes else None


KIND = JobKind(
    "extract",
    queue="extraction",
    params=Params,
    summary="Collect top-activating examples per feature and build an HTML report",
    module=__name__,
    secrets=HUB_SECRETS,
    produces="features",
    default_name=default_name,
    prepare=prepare,
    estimate=estimate,
    resume_point=resume_point,
)


@dataclass(frozen=True)
class _Origin:
    """What the SAE was trained on; with its `metadata`."""

    model: str
    tokens: str
    metadata: dict[str, Any]


def run(params: Params, context: Context) -> dict[str, Any]:
    """One pass over the tokens, then the files: tensors, one line a feature, the page."""
    from tasks.features.collect import choose_rows
    from tasks.features.report import Report
    from tasks.features.token_texts import TokenTexts
    from tasks.models.cpu_backend import choose
    from tasks.parsing.tensor_files import save_tensors
    from tasks.sae.formats.native import load_sae

    choose(context.device)
    context.progress("loading", 0, 1, "models")
    origin = _origin(params, context.store)
    coder = load_sae(context.store.path("saes", params.sae), context.device)
    source = _source(params, context, origin, coder.config.d_in)
    coder.precision = _precision(params, context, coder, source.tokens.shape[1])
    _keep_dtype(source, context, origin)
    if params.compile:
        source.compile(context.workdir, context.note)
    texts = TokenTexts(context.store.path("tokens", origin.tokens) / "tokenizer", f"tokens/{origin.tokens}")
    if not texts.has_tokenizer:
        context.note(f"tokens/{origin.tokens} has no tokenizer: tokens are shown as their numbers")
    numbers = choose_rows(len(source.tokens), source.tokens.shape[1], params.max_tokens)
    seen, began = int(source.counts[numbers].sum()), time.monotonic()
    top, fresh = _collect(params, context, source, coder, numbers)
    seconds = time.monotonic() - began
    tensors = {"top_activations": top.values, "top_positions": top.positions}
    tensors = {name: tensor[:, : params.top].contiguous() for name, tensor in tensors.items()}
    tensors["firing_counts"] = top.fired
    save_tensors(context.output / "features.safetensors", tensors)
    made_of = [("model", origin.model), ("hook", source.points[0].name)]
    report = Report(
        top,
        source.tokens,
        texts,
        params.top,
        lambda done: context.progress("writing", done, len(top.fired), "features"),
    )
    census, interpretable = report.write(context.output, context.name, made_of, seen)
    return {
        "features": len(top.fired),
        "fired": census.fired,
        "live": census.live,
        "patterned_share": round(census.patterned_share, 4),
        "same_token_share": round(census.same_token_share, 4),
        "tokens": seen,
        "tokens_per_s": round(fresh / seconds),
        "precision": coder.precision,
        "unsure_fraction": coder.unsure_fraction,
        "model": origin.model,
        "tokens_from": origin.tokens,
        "layer": int(source.points[0].name.split(".")[1]),
        "hook": source.points[0].module,
        "page": "index.html",
        "telling": interpretable,
        **source.origin,
    }


def _precision(params: Params, context: Context, coder: Coder, length: int) -> str:
    """What the codes of batches of rows of that length are computed in.

    One that resumes where the requested precision gains nothing continues in float32: the values are the same.
    """
    from tasks.features.collect import rows_per_batch

    shape = coder.config
    rows = rows_per_batch(length, shape.d_sae) * length
    product = precision.Product(rows, shape.d_in, shape.d_sae, getattr(coder.options, "k", None))
    if params.precision not in (precision.AUTO, FLOAT32) and (context.workdir / _STATE).exists():
        found = precision.kept(params.precision, product, context.device)
        if found.precision != params.precision:
            context.note(f"continues in float32: {found.reason}")
    else:
        found = precision.decide(params.precision, product, context.device)
    if found.precision == BF16:
        context.note(f"chooses features in bfloat16: {found.reason}")
    return found.precision


def _origin(params: Params, store: Catalog | Store) -> _Origin:
    """The model, tokens and hook, from the parameters or else from the SAE's manifest and metadata.

    UserError where none of these says one of them.
    """
    from tasks.models.model_commit import at_commit
    from tasks.sae.formats.native import read_config

    manifest = store.manifest("saes", params.sae) or {}
    made_from = _made_from(params.sae, store)
    metadata = read_config(store.path("saes", params.sae)).get("metadata", {})
    model, tokens = params.model or made_from.get("models"), params.tokens or made_from.get("tokens")
    if model is None and metadata.get("model_name"):  # of an imported one
        model = "@".join(filter(None, (metadata["model_name"], metadata.get("model_revision"))))
    if model is not None and params.model is None:
        model = at_commit(str(model), manifest.get("result", {}).get("model_commit"))
    layer = manifest.get("params", {}).get("layer")
    hook = metadata.get("hook_name") or (None if layer is None else f"blocks.{layer}.hook_resid_post")
    for what, value, fix in (
        ("model", model, "Give --model NAME"),
        ("tokens", tokens, "Give --token-set NAME"),
        ("layer", hook, "Import it again under another --name, with --layer N"),
    ):
        if value is None:
            raise UserError(f"saes/{params.sae} does not say which {what} it was trained on.", fix)
    return _Origin(str(model), str(tokens), {**metadata, "hook_name": hook})


def _source(params: Params, context: Context, origin: _Origin, d_in: int) -> ModelVectors:
    """The model at the SAE's hook, over the tokens, less what the SAE was never trained on."""
    from tasks.activations.hooks import find_all_again
    from tasks.activations.stream import ModelVectors, check_tokens
    from tasks.activations.token_mask import mask_again, mask_for
    from tasks.models.loading import load_model
    from tasks.models.model_dtype import wanted
    from tasks.text.compatibility import check_bos_of_sae
    from tasks.text.tokens import open_tokens, read_info

    folder = context.store.path("tokens", origin.tokens)
    rows, info = open_tokens(folder), read_info(folder)
    check_bos_of_sae(params.sae, origin.metadata, f"tokens/{origin.tokens}", info.bos, params.allow_no_bos)
    dtype = wanted(params.model_dtype, context.workdir, (context.workdir / _STATE).exists(), context.device)
    model = load_model(origin.model, context.store, context.device, dtype)
    _check_width(d_in, model.config.get_text_config(), origin)
    check_tokens(
        folder, origin.model, model, context.store, params.allow_no_bos or origin.metadata.get("prepend_bos") is False
    )
    mask = mask_again(origin.metadata, info) if params.skip_bos is None else mask_for(info, params.skip_bos)
    return ModelVectors(model, rows, find_all_again(model, origin.metadata), mask, info.bos)


def _keep_dtype(source: ModelVectors, context: Context, origin: _Origin) -> None:
    """Have later attempts keep the model's dtype, and note one that is not that of the SAE's training."""
    from tasks.models.model_dtype import keep

    keep(source.model, context.workdir, context.note)
    of_training = origin.metadata.get("model_dtype")
    if of_training not in (None, source.model_dtype):
        context.note(f"the model runs in {source.model_dtype}; the SAE was trained on it in {of_training}")


def _collect(
    params: Params, context: Context, source: ModelVectors, coder: Coder, numbers: np.ndarray
) -> tuple[TopExamples, int]:
    """The strongest examples, taken up from an earlier attempt's state; and how many tokens were read by this one."""
    from tasks.features.collect import collect
    from tasks.features.feature_records import LIVE_CONTEXTS
    from tasks.features.top_examples import TopExamples

    state, width = context.workdir / _STATE, source.tokens.shape[1]
    # A row gives a feature one example, and has no tokens beyond its ends; patterns are judged by as many as ever.
    most, reach = min(max(params.top, LIVE_CONTEXTS), len(numbers)), min(params.window, width - 1)
    top = TopExamples(coder.config.d_sae, most, reach, context.device)
    first = top.resume(state)
    if not first and state.exists():
        context.note("starts from scratch: its checkpoint is damaged")
    saved_at = time.monotonic()

    def after_batch(done: int) -> None:
        nonlocal saved_at
        if context.stopping() or time.monotonic() - saved_at > _SAVE_EVERY_S:
            top.save(state, done)
            saved_at = time.monotonic()
        context.progress("extracting", done * width, len(numbers) * width, "tokens")

    collect(source, coder, numbers, top, first, after_batch)
    if top.not_finite:
        raise UserError(f"{top.not_finite} activations are not finite numbers: the model or the SAE is broken.")
    return top, (len(numbers) - first) * width


def _check_width(d_in: int, config: Any, origin: _Origin) -> None:
    layers = len(origin.metadata.get("hook_names") or [origin.metadata["hook_name"]])
    if d_in != config.hidden_size * layers:
        raise UserError(f"The SAE reads {d_in} numbers a token, the model's residual stream has {config.hidden_size}.")
