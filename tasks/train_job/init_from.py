"""Initialization from an existing SAE (fine-tuning): prepares its weights to be trained further.

A saved SAE takes activations as they are and may have decoder rows of any length. In training activations are scaled,
and most architectures keep the rows at length 1; so what a row loses its feature's codes get, and the other way round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import UserError
from tasks.jobs.kind import Catalog
from tasks.sae.architectures import coder_class
from tasks.sae.coder import fill
from tasks.sae.formats.native import load_sae, read_shape
from tasks.train_job.vector_source import shape_of

if TYPE_CHECKING:
    from tasks.sae.coder import Coder, CoderConfig
    from tasks.sae.formats.native import Scales
    from tasks.sae.training.trainer import Trainer
    from tasks.train_job.params import P

#: Parameters in the units of codes. TopK chooses among features by these, so their lengths must not differ there.
_OF_CODES = ("b_enc", "b_gate", "b_mag", "threshold")
_UNEVEN = 1e-3


def take_up(coder: Coder, loaded: Coder, scales: Scales, name: str) -> None:
    """Give `coder` the weights of a loaded SAE, for activations that are scaled like this.

    Raises UserError where that one has another shape or codes of another kind, or could not choose the same features.
    """
    _refuse_difference(name, loaded.config, coder.config)
    tensors = scales.unfold(loaded)
    lengths = tensors["W_dec"].norm(dim=1).clamp_min(1e-8)
    if coder.has_unit_decoder:
        if coder.config.architecture == "topk" and float(lengths.max() / lengths.min()) > 1 + _UNEVEN:
            raise UserError(
                f"The decoder rows of saes/{name} have different lengths, which a TopK SAE cannot take over."
            )
        tensors = {
            **tensors,
            "W_dec": tensors["W_dec"] / lengths[:, None],
            "W_enc": tensors["W_enc"] * lengths[:, None],
        }
        tensors |= {key: tensors[key] * lengths for key in _OF_CODES if key in tensors}
    for key, parameter in coder.parameters.items():
        fill(key, parameter, tensors)


def initialize_from(trainer: Trainer, folder: Path, name: str) -> None:
    """Have a trainer begin with the SAE in that folder, once it knows how activations are scaled."""
    trainer.start = lambda begun: take_up(begun.coder, load_sae(folder, begun.device), begun.scales, name)


def resolve_start(params: P, known: Catalog, d_model: int | None) -> P:
    """The parameters with the width of the SAE that they begin with. UserError when it is not there or has another
    shape.

    Where the model's width `d_model` is not known yet, it is taken to be the one that the SAE has been trained on.
    """
    name = params.init_from
    if name is None or (known.manifest("saes", name) is None and known.is_pending("saes", name)):
        return params
    if known.manifest("saes", name) is None:
        raise UserError(f"The store has no saes/{name}.", "See what there is: mistudio saes ls")
    its = read_shape(known.path("saes", name))
    if params.width not in (None, its.d_sae):
        raise UserError(f"saes/{name} has {its.d_sae} features, not {params.width}.", "Leave --d-sae out")
    params = dataclasses.replace(params, width=its.d_sae)
    _refuse_difference(name, its, shape_of(params, d_model or its.d_in // its.blocks))
    return params


#: What must be the same of an SAE and of the one that begins with it: what is said of it, by the option that decides.
_SAID: dict[str, Callable[[CoderConfig], str]] = {
    "--arch": lambda shape: f"has {coder_class(shape.architecture).saved_as} codes",
    "--d-sae": lambda shape: f"has {shape.d_sae} features",
    "--crosscode": lambda shape: f"reads {shape.blocks} layers" if shape.blocks > 1 else "reads one layer",
    "--model": lambda shape: f"reads {shape.d_in // shape.blocks} numbers of a layer",
    "--target": lambda shape: (
        f"writes {shape.d_out} numbers of another place" if shape.d_out else "writes what it reads"
    ),
    "--skip": lambda shape: f"has {'a' if shape.skip else 'no'} way past its features",
}


def _refuse_difference(name: str, its: CoderConfig, mine: CoderConfig) -> None:
    """Raise UserError with the differences between `saes/NAME`, of shape `its`, and the SAE that is to start
    from it.
    """
    said = {option: (of(its), of(mine)) for option, of in _SAID.items() if of(its) != of(mine)}
    if said:
        there, here = (" and ".join(words) for words in zip(*said.values(), strict=True))
        raise UserError(
            f"saes/{name} {there}: one that {here} cannot begin with it.",
            f"Choose {' and '.join(said)} as for its own training; what is saved as what: docs/formats.md",
        )
