"""Where a training's vectors come from: resolves it at submit and opens it when the job runs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import UserError
from tasks.jobs.kind import Catalog, Request, flag_of
from tasks.sae import arch_options
from tasks.sae.coder import CoderConfig

if TYPE_CHECKING:
    from tasks.activations.hook_sites import Hook
    from tasks.activations.hook_wiring import HookWiring
    from tasks.activations.stream import Vectors
    from tasks.models.model_dtype import Wanted
    from tasks.storage.store import Store
    from tasks.train_job.params import Common, P

#: What stored activations have settled.
SETTLED = ("model", "dataset", "layer", "hook", "skip_bos", "model_dtype", "compile")


@dataclass(frozen=True)
class Place:
    """A model, what it reads, and after which layers it is looked at."""

    model: str
    dataset: str
    layers: tuple[int, ...]


def place_of(params: Common) -> Place:
    """The place that the parameters name. UserError for one that is missing, or named in two ways."""
    layers = _layers(params)
    if params.model is None or params.dataset is None or not layers:
        given = {"model": params.model, "dataset": params.dataset, "layer": layers or None}
        missing = next(name for name, value in given.items() if value is None)
        raise UserError(f"train needs --{missing}.", "Or give --activations, which were read from a model before")
    return Place(params.model, params.dataset, layers)


def label(params: Common) -> str:
    """The place as a part of an artifact's name: model, layers and hooks."""
    from tasks.models.loading import model_slug

    place = place_of(params)
    words = [model_slug(place.model), "l" + ".".join(map(str, place.layers))]
    words += [] if params.hook == "resid" else [params.hook]
    if params.target is not None:
        there = "" if params.target_layer is None else str(params.target_layer)
        words += [f"to-{params.target}{there}", *(["skip"] if params.skip else [])]
    return "-".join(words)


def wiring(params: Common) -> HookWiring:
    """The hooks that are read and written. UserError where they do not go together."""
    from tasks.activations.hook_wiring import wiring_of

    _check_wiring(params)
    return wiring_of(params.hook, place_of(params).layers, params.target, params.target_layer)


def shape_of(params: Common, d_model: int) -> CoderConfig:
    """What is trained, on a model of that width. UserError for options that do not go together."""
    blocks, written = len(place_of(params).layers), None if params.target is None else d_model
    width, options = params.width or params.expansion * d_model, arch_options.chosen(params.arch, params)
    options.check(width)
    return CoderConfig(params.arch, blocks * d_model, width, options, written, params.skip, blocks)


def resolve(params: P, known: Catalog) -> tuple[P, int | None, list[Request]]:
    """The parameters with what their model and tokens are called, the width of a layer, the jobs to come first."""
    _check_wiring(params)
    return (_from_model if params.activations is None else _from_activations)(params, known)


def open_vectors(params: Common, hooks: Sequence[Hook], store: Store, device: str, dtype: Wanted) -> Vectors:
    """What is trained on: what passes these hooks of the model, over the tokens; or what did, and was stored.

    `dtype` is that of the model.
    """
    from tasks.activations.storage import StoredVectors
    from tasks.activations.stream import open_model

    if params.activations is not None:
        return StoredVectors(store.path("activations", params.activations), device)
    place = place_of(params)
    return open_model(store, place.model, place.dataset, hooks, params.skip_bos, device, params.allow_no_bos, dtype)


def _layers(params: Common) -> tuple[int, ...]:
    if params.crosscode is None:
        return () if params.layer is None else (params.layer,)
    words = params.crosscode.split(",")
    if len(set(words)) < max(2, len(words)) or not all(re.fullmatch(r"\d{1,4}", word) for word in words):
        raise UserError(
            f"{params.crosscode!r} are no layers of a crosscoder.", "Give two or more, as --crosscode 2,4,6"
        )
    if params.layer is not None:
        raise UserError("A crosscoder's layers are those of --crosscode.", "Leave --layer out")
    return tuple(map(int, words))


def _check_wiring(params: Common) -> None:
    """Refuse what contradicts itself."""
    if params.skip and params.target is None:
        raise UserError("Only a transcoder has something to skip past.", "Give --target mlp, or leave --skip out")
    if params.target_layer is not None and params.target is None:
        raise UserError("Only a transcoder has another layer to write.", "Give --target, or leave --target-layer out")
    if params.crosscode is not None and params.target is not None:
        raise UserError("A crosscoder writes the layers that it reads.", "Leave --target or --crosscode out")
    if params.activations is not None and (params.crosscode is not None or params.target is not None):
        raise UserError(
            "Stored activations are of one hook.", "Leave --activations out: the model is read as it is needed"
        )
    if params.target is not None and params.target == params.hook and params.target_layer in (None, params.layer):
        raise UserError("A transcoder writes something else than it reads.", "Give --hook mlp-in --target mlp")


def _from_model(params: P, known: Catalog) -> tuple[P, int | None, list[Request]]:
    from tasks.activations.token_source import find_tokens
    from tasks.models.loading import check_dtype, check_layer, look_up

    place = place_of(params)
    model, found = look_up(place.model, known, readable=True)
    check_dtype(params.model_dtype, model, known)
    values = found or {}
    for layer in (*place.layers, *([] if params.target_layer is None else [params.target_layer])):
        check_layer(model, values, layer)
    tokens, requests = find_tokens(place.dataset, model, values, known, params.allow_no_bos)
    return dataclasses.replace(params, model=model, dataset=tokens), values.get("d_model"), requests


def _from_activations(params: P, known: Catalog) -> tuple[P, int | None, list[Request]]:
    """The same from stored activations: what those were read from, and with."""
    name = str(params.activations)
    manifest = known.manifest("activations", name)
    if manifest is None and not known.is_pending("activations", name):
        raise UserError(f"The store has no activations/{name}.", "Make them: mistudio submit activations --help")
    values = known.pending_params("activations", name)[1] if manifest is None else manifest["params"]
    for spec in dataclasses.fields(params):
        if spec.name in SETTLED:
            given, value = getattr(params, spec.name), values.get(spec.name, spec.default)
            flag = flag_of(spec.name, type(params))
            if given not in (spec.default, value):
                raise UserError(f"activations/{name} were read with {flag} {value}, not {given}.", f"Leave {flag} out")
            params = dataclasses.replace(params, **{spec.name: value})
    return params, (manifest or {}).get("result", {}).get("d_in"), []
