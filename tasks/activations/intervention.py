"""The loss increase of a model when an SAE's reconstruction replaces the activations it reads.

At the hooks that a coder writes its reconstruction replaces what was there, and the model reads on (Bricken et al.
2023, "Towards Monosemanticity"; Gao et al. 2024, section 4.1). The baselines are zero ablation and mean ablation;
docs/metrics.md defines each number.

Positions. The SAE replaces those that it is trained on (`Mask.kept`); all others, such as BOS and the first of a row,
keep their value. Both ablations replace every position: with BOS kept, a model of zeros elsewhere is worse than one
that guesses, and any SAE looks good beside it. The cross-entropy is a mean over the same positions in every run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from tasks.activations.hooks import HookPoint, watched
from tasks.activations.token_means import ratio
from tasks.models.cpu_backend import attending

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.activations.stream import ModelVectors

#: Numbers in the logits of one pass, if that has more than a row, and in a slice of what is made of them.
LOGITS, LOGITS_SLICE = 1 << 24, 1 << 22


@dataclass(frozen=True)
class Spliced:
    """Means over the positions whose prediction counts; nats per token. None is what was not asked for.

    `errors` are standard errors by the names of the fields, and of what is recovered.
    """

    clean: float  # cross-entropy of the model itself
    spliced: float  # with the reconstruction
    ablated: float  # with zeros at all positions
    kl: float  # of the predictions with the reconstruction from the model's own, at all positions that are kept
    tokens: int  # how many predictions count
    kl_ablated: float = math.nan  # of the predictions with zeros
    averaged: float | None = None  # with the mean at all positions
    everywhere: float | None = None  # with the reconstruction at all positions
    errors: dict[str, float | None] = field(default_factory=dict)

    @property
    def recovered(self) -> float | None:
        """The part of what zero ablation loses that is kept: 1 where nothing is lost, None where zeros lose nothing."""
        return _recovered(self.clean, self.spliced, self.ablated)

    @property
    def recovered_mean(self) -> float | None:
        """The same against mean ablation."""
        return None if self.averaged is None else _recovered(self.clean, self.spliced, self.averaged)

    @property
    def recovered_everywhere(self) -> float | None:
        """The same against zero ablation, of a reconstruction at all positions."""
        return None if self.everywhere is None else _recovered(self.clean, self.everywhere, self.ablated)

    @property
    def kl_recovered(self) -> float | None:
        """The part of the divergence under zero ablation that the reconstruction avoids."""
        return _recovered(0.0, self.kl, self.kl_ablated)


def _recovered(clean: float, changed: float, ablated: float) -> float | None:
    return (ablated - changed) / (ablated - clean) if ablated > clean else None


@torch.no_grad()
def splice(
    source: ModelVectors,
    numbers: np.ndarray,
    reads: int,
    reconstruct: Callable[[torch.Tensor], torch.Tensor],
    mean: torch.Tensor | None = None,
    everywhere: bool = False,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> Spliced | None:
    """Run the source's model on those rows as it is, with what `reconstruct` makes, and with ablations.

    None where no prediction counts, as in rows of two tokens whose first is left out. The first `reads` of the source's
    points are read, (n, d_in); what the rest would have had, or else the same, is replaced by (n, d_out). `mean` is
    the (d_out,) vector of mean ablation; with `everywhere` the reconstruction is put at all positions, too.
    `on_rows` is called before each pass over some of the rows, and may raise to leave.
    """
    runs = _Runs(source, reads, reconstruct, mean, everywhere)
    stride = max(1, LOGITS // (source.shape[1] * int(source.model.config.get_text_config().vocab_size)))
    sums = []
    for start in range(0, len(numbers), stride):
        on_rows(start, len(numbers))
        sums.append(runs.sums(source.tokens[numbers[start : start + stride]]))
    return _summary({name: torch.cat([part[name] for part in sums]) for name in sums[0]}) if sums else None


def _summary(sums: dict[str, torch.Tensor]) -> Spliced | None:
    """What follows from sums over the positions of each row, and from how many there are: (rows,) float64 each."""
    counted, kept = sums.pop("counted"), sums.pop("kept")
    if not int(counted.sum()):
        return None
    found = {name: ratio(each, kept if name.startswith("kl") else counted) for name, each in sums.items()}
    errors = {name: error for name, (_, error) in found.items()}
    for name, changed, base in (
        ("recovered", "spliced", "ablated"),
        ("recovered_mean", "spliced", "averaged"),
        ("recovered_everywhere", "everywhere", "ablated"),
    ):
        if changed in sums and base in sums and float((between := sums[base] - sums["clean"]).sum()) > 0:
            errors[name] = ratio(sums[base] - sums[changed], between)[1]
    return Spliced(**{name: value for name, (value, _) in found.items()}, tokens=int(counted.sum()), errors=errors)


def can_splice(source: Any) -> bool:
    """Whether what the vectors come from is a model that predicts the next token, without looking at it."""
    model = getattr(source, "model", None)
    if model is None or model.get_output_embeddings() is None or any(p.position_first for p in source.points):
        return False
    return _is_causal(model)


@torch.no_grad()
def _is_causal(model: PreTrainedModel) -> bool:
    """Whether another last token changes no prediction before it.

    The rows are read one by one, so that both are computed alike: where they agree they do so to the last bit, but for
    experts that get another number of tokens.
    """
    rows = (torch.tensor([row], device=model.device) for row in ([0, 1, 0, 1], [0, 1, 0, 0]))
    one, other = (_logits(model, {"input_ids": row})[:, :-1].float().log_softmax(-1) for row in rows)
    return torch.allclose(one, other, atol=max(1e-3, 4 * torch.finfo(model.dtype).eps))


@dataclass(frozen=True)
class _Runs:
    """The model's runs over some rows: as it is, with the reconstruction, and with ablations."""

    source: ModelVectors
    reads: int
    reconstruct: Callable[[torch.Tensor], torch.Tensor]
    mean: torch.Tensor | None
    everywhere: bool

    def sums(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Sums over the positions of each row, by the fields of `Spliced`, and how many positions there are.

        The logits of two passes are held at once, and only slices of what is made of them.
        """
        source, model = self.source, self.source.model
        ids = torch.from_numpy(np.asarray(rows).astype(np.int64)).to(model.device)
        kept = torch.from_numpy(source.mask.kept(rows)).to(model.device)
        inputs = {"input_ids": ids}
        if source.mask.pad is not None:
            inputs["attention_mask"] = (ids != source.mask.pad).long()
        found: dict[HookPoint, torch.Tensor] = {}

        def keep(point: HookPoint, tensor: torch.Tensor) -> None:
            found[point] = tensor.detach().clone().reshape(*ids.shape, -1)

        with watched(model, set(source.points), keep):
            clean = _logits(model, inputs)
        written = source.points[self.reads :] or source.points
        scored = Scored(ids, kept, source.mask.pad)

        def with_values(values: Sequence[torch.Tensor]) -> torch.Tensor:
            with replaced(model, written, values):
                return _logits(model, inputs)

        def with_coder(where: torch.Tensor) -> torch.Tensor:
            x = torch.cat([found[point].float()[where] for point in source.points[: self.reads]], dim=-1)
            made = self.reconstruct(x).chunk(len(written), dim=-1)
            return with_values([_put(found[p], where, part) for p, part in zip(written, made, strict=True)])

        sums = {"counted": scored.counted.sum(1), "kept": kept.sum(1), "clean": scored.cross_entropy(clean)}
        sums |= zip(("spliced", "kl"), scored.compare(clean, with_coder(kept)), strict=True)
        zeros = [torch.zeros_like(found[point]) for point in written]
        sums |= zip(("ablated", "kl_ablated"), scored.compare(clean, with_values(zeros)), strict=True)
        del clean  # large, and what follows compares with nothing
        if self.mean is not None:
            parts = self.mean.to(model.device).chunk(len(written))
            means = [part.expand_as(found[point]) for point, part in zip(written, parts, strict=True)]
            sums["averaged"] = scored.cross_entropy(with_values(means))
        if self.everywhere:
            sums["everywhere"] = scored.cross_entropy(with_coder(self._attended(ids)))
        return {name: values.double().cpu() for name, values in sums.items()}

    def _attended(self, ids: torch.Tensor) -> torch.Tensor:
        """All positions of (batch, context) token ids but padding."""
        return torch.ones_like(ids, dtype=torch.bool) if self.source.mask.pad is None else ids != self.source.mask.pad


class Scored:
    """The positions of (batch, context) token ids whose prediction counts.

    For cross-entropies those that are kept and have a next token that is no padding; for divergences all that are kept.
    """

    def __init__(self, ids: torch.Tensor, kept: torch.Tensor, pad: int | None = None) -> None:
        has_next = torch.ones_like(kept[:, 1:]) if pad is None else ids[:, 1:] != pad
        self.kept, self.counted = kept, functional.pad(kept[:, :-1] & has_next, (0, 1))
        self.following = ids.roll(-1, 1).flatten()

    def compare(self, clean: torch.Tensor, changed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The cross-entropy under the changed logits, and how far they diverge from the clean ones."""
        return self.cross_entropy(changed), self.divergence(clean, changed)

    def cross_entropy(self, logits: torch.Tensor) -> torch.Tensor:
        """Of what comes next under these (batch, context, vocabulary) logits: nats, (batch,) sums over positions."""
        rows = logits.flatten(0, 1)
        return self._sum(
            lambda some: functional.cross_entropy(rows[some].float(), self.following[some], reduction="none"),
            self.counted,
            rows.shape[1],
        )

    def divergence(self, logits: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
        """KL of what the changed logits predict from what the others do: nats, (batch,) sums over the positions."""
        rows, others = logits.flatten(0, 1), changed.flatten(0, 1)

        def of(some: torch.Tensor) -> torch.Tensor:
            own, other = (each[some].float().log_softmax(1) for each in (rows, others))
            return functional.kl_div(other, own, reduction="none", log_target=True).sum(1)

        return self._sum(of, self.kept, rows.shape[1])

    def _sum(self, of: Callable[[torch.Tensor], torch.Tensor], where: torch.Tensor, width: int) -> torch.Tensor:
        """The sum for each row of what `of` says of slices of the positions, whose logits have that width."""
        places, context = where.flatten().nonzero().flatten(), where.shape[1]
        sums = torch.zeros(len(where), dtype=torch.float64, device=where.device)
        for some in places.split(max(1, LOGITS_SLICE // width)):
            sums.index_add_(0, some // context, of(some).double())
        return sums


@contextmanager
def replaced(model: PreTrainedModel, points: Sequence[HookPoint], values: Sequence[torch.Tensor]) -> Iterator[None]:
    """While this lasts, what passes each point is the given (batch, context, d) tensor."""
    with ExitStack() as stack:
        for point, value in zip(points, values, strict=True):
            module = model.get_submodule(point.module)
            hook: Any = (
                module.register_forward_pre_hook(_instead_of_input(value))
                if point.input
                else module.register_forward_hook(_instead_of_output(value))
            )
            stack.callback(hook.remove)
        yield


def _instead_of_input(value: torch.Tensor) -> Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]:
    return lambda _module, args: (value.to(args[0].dtype).reshape(args[0].shape), *args[1:])


def _instead_of_output(value: torch.Tensor) -> Callable[[Any, Any, Any], Any]:
    def hook(_module: Any, _args: Any, output: Any) -> Any:
        is_several = isinstance(output, tuple | list)  # GPT-1's blocks put out a list
        first = output[0] if is_several else output
        new = value.to(first.dtype).reshape(first.shape)
        return type(output)((new, *output[1:])) if is_several else new

    return hook


def _logits(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the model says of each next token: (batch, context, vocabulary), in its own precision."""
    with attending(model.device, inputs["input_ids"].shape[1]):
        return model(**inputs, use_cache=False).logits


def _put(there: torch.Tensor, kept: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """`there` (batch, context, d) with `part` (n, d) at the n positions that count."""
    whole = there.clone()
    whole[kept] = part.to(whole.dtype)
    return whole
