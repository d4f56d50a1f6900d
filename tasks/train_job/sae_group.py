"""Several SAEs in one job, on one forward pass: what they share and how each is named.

`together` of the parameters has the options that differ, each with its values; there is an SAE for each combination.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Generic

from tasks.errors import UserError
from tasks.jobs.grid import can_be_swept, combinations, marked, marks
from tasks.jobs.kind import flag_of
from tasks.jobs.short_names import LONGEST_NAME, shortened
from tasks.sae import arch_options
from tasks.train_job import vector_source
from tasks.train_job.params import Common, P, settled
from tasks.train_job.vector_source import SETTLED

#: What those that share their batches cannot have each for itself.
SHARED = ("tokens", "steps", "batch", "seed", "checkpoint_s", "eval_tokens", "precision", "model_dtype", "compile")


@dataclass(frozen=True)
class Member(Generic[P]):
    """One of the SAEs: its name, what distinguishes it from the others, and the parameters as if it were
    trained alone.
    """

    name: str
    words: str
    params: P


def each(params: P) -> list[P]:
    """The parameters of each SAE as if it were trained alone.

    UserError for an option that they must share, and for one that cannot have several values.
    """
    return [one for _, one in _chosen(params)]


def members(params: P, name: str) -> list[Member[P]]:
    """The SAEs of a job of that name: each has its own by default, else the job's with what distinguishes it from
    others.
    """
    if params.together is None:
        return [Member(name, "", params)]
    is_default, found = name == default_name(params), list[Member[P]]()
    for chosen, one in _chosen(params):
        words = marks(type(params), chosen.items())
        found.append(Member(marked(default_name(one) if is_default else name, words), "-".join(words), settled(one)))
    if len({member.name for member in found}) < len(found):
        raise UserError("Two of the SAEs would have the same name.", "Give a --name without any of the values")
    return found


def _chosen(params: P) -> list[tuple[dict[str, Any], P]]:
    """For each SAE the values that it has for itself, and all its parameters."""
    if params.together is None:
        return [({}, params)]
    for option, values in params.together.items():
        _check(params, option, values)
    chosen = list(combinations(params.together))
    if len(chosen) < 2:
        raise UserError("--together is for several SAEs.", "Give an option several values, for instance --k 16,32")
    return [(own, dataclasses.replace(params, together=None, **own)) for own in chosen]


def default_name(params: Common) -> str:
    """Model, layer, architecture and sparsity; of several SAEs the model and what differs."""
    if params.together is not None:
        from tasks.models.loading import model_slug

        return label(params, model_slug(params.model or params.activations or ""))
    sparsity = arch_options.chosen(params.arch, params).label()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{vector_source.label(params)}-{params.arch}-{sparsity}")


def label(params: Common, model: str) -> str:
    """What a job is called: the model, and the values that differ."""
    choices = (params.together or {}).items()
    words = [".".join(marks(type(params), [(option, value) for value in values])) for option, values in choices]
    return shortened(re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([model, *words])), LONGEST_NAME)


def _check(params: Common, option: str, values: Any) -> None:
    kind, specs = type(params), {spec.name: spec for spec in dataclasses.fields(params)}
    flag = flag_of(option, kind)
    if option not in specs or not can_be_swept(specs[option], kind):
        raise UserError(f"{flag} cannot have several values.", "See: mistudio submit train --help")
    if option in SHARED:
        raise UserError(f"SAEs that are trained together share {flag}.", "Leave --together out: each gets its own job")
    if params.activations is not None and option in SETTLED:
        raise UserError(f"activations/{params.activations} are of one {option}.", f"Leave {flag} out")
    if getattr(params, option) != specs[option].default:
        raise UserError(f"{flag} is given a value beside those in --together.", "Leave one of them out")
    if not isinstance(values, list) or None in values or len(set(map(str, values))) < len(values):
        raise UserError(f"{flag} needs a list of different values, not {values!r}.", "For instance: k = [16, 32]")
