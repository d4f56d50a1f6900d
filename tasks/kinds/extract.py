"""`extract`: the strongest examples of every feature of an SAE, with statistics and one HTML page."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.job import Context, Estimate, JobKind, Known, Request, option
from tasks.problem import Problem

if TYPE_CHECKING:
    import numpy as np

    from tasks.features.top import TopExamples

_SAVE_EVERY_S = 10.0
_STATE = "top.safetensors"


@dataclass(frozen=True)
class Params:
    """Whose features, on which tokens, how many examples."""

    sae: str = option(help="The SAE, in the store", artifact="saes")
    tokens: str | None = option(None, help="The tokens; default: those it was trained on", artifact="tokens")
    model: str | None = option(None, help="The model; default: the one it was trained on", artifact="models")
    max_tokens: int | None = option(1_000_000, help="Read about this many, evenly spread", minimum=1)
    top: int = option(10, help="Examples of each feature", minimum=1)
    window: int = option(12, help="Tokens shown on each side of a peak", minimum=0)


def default_name(params: Params) -> str:
    """The SAE's name."""
    return params.sae


def prepare(params: Params, known: Known) -> tuple[Params, list[Request]]:
    """Refuse an SAE, tokens or a model that are neither there nor coming."""
    from tasks.models import look_up

    for family, name in (("saes", params.sae), ("tokens", params.tokens)):
        if name is not None and known.manifest(family, name) is None and not known.coming(family, name):
            raise Problem(f"There is no {family}/{name} in the store.", "See what was made: mistudio jobs ls")
    if params.model is not None:
        params = dataclasses.replace(params, model=look_up(params.model, known)[0])
    return params, []


def estimate(params: Params, known: Known) -> Estimate:
    """Time by an earlier extraction from the same SAE, GPU memory by shapes; the rest depends on what is found."""
    from tasks.estimate import seconds_like_earlier
    from tasks.sae.footprint import of_extraction

    made_from = dict(v.split("/", 1) for v in (known.manifest("saes", params.sae) or {}).get("made_from", {}).values())
    model = params.model or made_from.get("models")
    held = of_extraction(known, model, known.path("saes", params.sae), params.top, params.window) if model else None
    if params.max_tokens is None:
        return Estimate(gpu_memory_bytes=held)
    seconds = seconds_like_earlier(known, "features", params.max_tokens, lambda told: told.get("sae") == params.sae)
    return Estimate(seconds, gpu_memory_bytes=held)


def goes_on_at(workdir: Path) -> str | None:
    """The row told in the state of `tasks.features.top`."""
    from tasks.store import read_notes

    told = read_notes(workdir / _STATE)
    return f"row {told['next_row']}" if told else None


KIND = JobKind(
    "extract",
    queue="extraction",
    params=Params,
    summary="Find the strongest contexts of an SAE's features and make one HTML page of them",
    module=__name__,
    produces="features",
    default_name=default_name,
    prepare=prepare,
    estimate=estimate,
    goes_on_at=goes_on_at,
)


@dataclass(frozen=True)
class _Origin:
    """What the SAE was trained on."""

    model: str
    tokens: str
    layer: int


def run(params: Params, context: Context) -> dict[str, Any]:
    """One pass over the tokens, then the files: tensors, one line a feature, the page."""
    from safetensors.torch import save_file

    from tasks.features.collect import choose_rows
    from tasks.features.records import token_reader
    from tasks.features.report import Report
    from tasks.text.tokens import open_tokens

    origin = _origin(params, context)
    rows = open_tokens(context.store.path("tokens", origin.tokens))
    numbers = choose_rows(len(rows), rows.shape[1], params.max_tokens)
    seen, began = numbers.size * rows.shape[1], time.monotonic()
    top, fresh = _collect(params, context, origin, rows, numbers)
    seconds = time.monotonic() - began
    tensors = {"top_activations": top.values, "top_positions": top.positions, "firing_counts": top.fired}
    save_file({name: tensor.cpu() for name, tensor in tensors.items()}, context.output / "features.safetensors")
    text = token_reader(context.store.path("tokens", origin.tokens) / "tokenizer")
    made_of = [("model", origin.model), ("layer", str(origin.layer))]
    report = Report(top, rows, text, lambda done: context.progress("writing", done, len(top.fired), "features"))
    census, telling = report.write(context.output, context.name, made_of, int(seen))
    return {
        "features": len(top.fired),
        "fired": census.fired,
        "live": census.live,
        "patterned_share": round(census.patterned_share, 4),
        "same_token_share": round(census.same_token_share, 4),
        "tokens": int(seen),
        "tokens_per_s": round(fresh / seconds),
        "model": origin.model,
        "tokens_from": origin.tokens,
        "layer": origin.layer,
        "page": "index.html",
        "telling": telling,
    }


def _origin(params: Params, context: Context) -> _Origin:
    """The model, tokens and layer, from the parameters or else from the SAE's manifest."""
    manifest = context.store.manifest("saes", params.sae)
    made_from = dict(value.split("/", 1) for value in manifest.get("made_from", {}).values())
    model, tokens = params.model or made_from.get("models"), params.tokens or made_from.get("tokens")
    layer = manifest["params"].get("layer")
    for flag, value in (("--model", model), ("--tokens", tokens), ("a layer", layer)):
        if value is None:
            raise Problem(f"saes/{params.sae} does not say what it was trained on.", f"It needs {flag}")
    return _Origin(str(model), str(tokens), int(str(layer)))


def _collect(
    params: Params, context: Context, origin: _Origin, rows: np.ndarray, numbers: np.ndarray
) -> tuple[TopExamples, int]:
    """The strongest examples, taken up from an earlier attempt's state; and how many tokens were read by this one."""
    from tasks.features.collect import collect
    from tasks.features.top import TopExamples
    from tasks.models import load_model
    from tasks.sae.formats import load_sae

    context.progress("loading", 0, 1, "models")
    coder = load_sae(context.store.path("saes", params.sae), context.device)
    model = load_model(origin.model, context.store, context.device)
    _check_fit(coder.config.d_in, model.config.get_text_config(), context, origin)
    top = TopExamples(coder.config.d_sae, params.top, params.window, context.device)
    state = context.workdir / _STATE
    first = top.resume(state)
    saved_at = time.monotonic()

    def after_batch(done: int) -> None:
        nonlocal saved_at
        if context.stopping() or time.monotonic() - saved_at > _SAVE_EVERY_S:
            top.save(state, done)
            saved_at = time.monotonic()
        context.progress("extracting", done * rows.shape[1], len(numbers) * rows.shape[1], "tokens")

    collect(model, coder, origin.layer, rows, numbers, top, first, after_batch)
    if top.not_finite:
        raise Problem(f"{top.not_finite} activations are not finite numbers: the model or the SAE is broken.")
    return top, (len(numbers) - first) * rows.shape[1]


def _check_fit(d_in: int, config: Any, context: Context, origin: _Origin) -> None:
    from tasks.text.tokens import read_info

    if d_in != config.hidden_size:
        raise Problem(f"The SAE reads {d_in} numbers a token, the model's residual stream has {config.hidden_size}.")
    if read_info(context.store.path("tokens", origin.tokens)).vocab_size > config.vocab_size:
        raise Problem(
            f"tokens/{origin.tokens} were made for a larger vocabulary than {origin.model}'s.",
            "Make tokens with this model's tokenizer and give --tokens",
        )
