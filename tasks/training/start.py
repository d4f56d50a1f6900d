"""A training that begins with an SAE that is there: the only place where one is made ready to learn on.

A saved SAE takes activations as they are and may have decoder rows of any length. In training activations are scaled,
and most architectures keep the rows at length 1; so what a row loses its feature's codes get, and the other way round.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.job import Known
from tasks.problem import Problem
from tasks.sae.architectures import coder_class
from tasks.sae.formats import load_sae, read_config

if TYPE_CHECKING:
    from tasks.kinds.train import Common
    from tasks.sae.coder import Coder
    from tasks.sae.formats import Scales
    from tasks.sae.trainer import Trainer

#: Parameters in the units of codes. TopK chooses among features by these, so their lengths must not differ there.
_OF_CODES = ("b_enc", "b_gate", "b_mag", "threshold")
_UNEVEN = 1e-3


def take_up(coder: Coder, loaded: Coder, scales: Scales, name: str) -> None:
    """Give `coder` the weights of a loaded SAE, for activations that are scaled like this.

    Raises Problem where that one has another shape or codes of another kind, or could not choose the same features.
    """
    mine, its = coder.config, loaded.config
    shapes = [(config.d_in, config.d_sae, config.d_out, config.skip, config.blocks) for config in (mine, its)]
    if coder.saved_as != loaded.saved_as or shapes[0] != shapes[1]:
        raise Problem(
            f"saes/{name} is a {its.architecture} SAE of {its.d_sae} features that reads {its.d_in} numbers: "
            f"a {mine.architecture} one of {mine.d_sae} features that reads {mine.d_in} cannot begin with it.",
            "Give the --arch, --width, --layer and --hook that it was trained with",
        )
    tensors = scales.unfold(loaded)
    lengths = tensors["W_dec"].norm(dim=1).clamp_min(1e-8)
    if coder.has_unit_decoder:
        if mine.architecture == "topk" and float(lengths.max() / lengths.min()) > 1 + _UNEVEN:
            raise Problem(f"The decoder rows of saes/{name} have different lengths, which a TopK SAE cannot take over.")
        tensors = {
            **tensors,
            "W_dec": tensors["W_dec"] / lengths[:, None],
            "W_enc": tensors["W_enc"] * lengths[:, None],
        }
        tensors |= {key: tensors[key] * lengths for key in _OF_CODES if key in tensors}
    for key, parameter in coder.parameters.items():
        parameter.copy_(tensors[key])


def begin_from(trainer: Trainer, folder: Path, name: str) -> None:
    """Have a trainer begin with the SAE in that folder, once it knows how activations are scaled."""
    trainer.start = lambda begun: take_up(begun.coder, load_sae(folder, begun.device), begun.scales, name)


P = TypeVar("P", bound="Common")


def resolve_start(params: P, known: Known) -> P:
    """The parameters with the width of the SAE that they begin with. Problem when it is not there or another kind."""
    name = params.init_from
    if name is None or (known.manifest("saes", name) is None and known.coming("saes", name)):
        return params
    if known.manifest("saes", name) is None:
        raise Problem(f"The store has no saes/{name}.", "See what there is: mistudio saes ls")
    told: dict[str, Any] = read_config(known.path("saes", name))
    if told["architecture"] != coder_class(params.arch).saved_as and params.target is None and params.crosscode is None:
        raise Problem(
            f"saes/{name} is a {told['architecture']} SAE: a {params.arch} one cannot begin with it.",
            "Give an --arch that is saved as that: see docs/formats.md",
        )
    if params.width not in (None, told["d_sae"]):
        raise Problem(f"saes/{name} has {told['d_sae']} features, not {params.width}.", "Leave --width out")
    return dataclasses.replace(params, width=told["d_sae"])
