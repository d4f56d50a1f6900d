"""How a model does with a coder in its place: the only place where what a model computes is replaced.

At the hooks that a coder writes, its reconstruction takes the place of what was there, and the model reads on. What
that costs is told beside what it costs to put zeros there (Bricken et al. 2023, "Towards Monosemanticity"; Gao et al.
2024, section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from tasks.hooks import Point, watched
from tasks.products import attending

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.activations import ModelVectors

#: Numbers in the logits of one pass, if that has more than a row, and in a slice of what is made of them.
LOGITS, LOGITS_SLICE = 1 << 24, 1 << 22


@dataclass(frozen=True)
class Spliced:
    """Means over the positions whose prediction counts; nats a token.

    `recovered` is 1 where the reconstruction changes nothing and 0 where it does as badly as zeros.
    """

    clean: float  # cross-entropy of the model itself
    spliced: float  # with the reconstruction
    ablated: float  # with zeros
    kl: float  # of the predictions with the reconstruction from the model's own
    tokens: int  # how many positions that is

    @property
    def recovered(self) -> float | None:
        """The share of the loss between zeros and the model itself; None where zeros do no worse than that."""
        between = self.ablated - self.clean
        return (self.ablated - self.spliced) / between if between > 0 else None


@torch.no_grad()
def splice(
    source: ModelVectors, numbers: np.ndarray, reads: int, reconstruct: Callable[[torch.Tensor], torch.Tensor]
) -> Spliced | None:
    """Run the source's model on those rows as it is, with what `reconstruct` makes, and with zeros.

    None where no prediction counts, as in rows of two tokens whose first is left out. The first `reads` of the source's
    points are read, (n, d_in); what the rest would have had, or else the same, is replaced by (n, d_out). Positions
    that do not count keep what they have.
    """
    totals, count = torch.zeros(4, dtype=torch.float64), 0
    stride = max(1, LOGITS // (source.shape[1] * int(source.model.config.get_text_config().vocab_size)))
    for start in range(0, len(numbers), stride):
        rows = source.tokens[numbers[start : start + stride]]
        told, positions = _losses(source, rows, reads, reconstruct)
        totals += told
        count += positions
    if not count:
        return None
    clean, spliced, ablated, kl = (totals / count).tolist()
    return Spliced(clean, spliced, ablated, kl, count)


def can_splice(source: Any) -> bool:
    """Whether what the vectors come from is a model that predicts the next token, without looking at it."""
    model = getattr(source, "model", None)
    if model is None or model.get_output_embeddings() is None or any(p.position_first for p in source.points):
        return False
    return _is_causal(model)


@torch.no_grad()
def _is_causal(model: PreTrainedModel) -> bool:
    """Whether another last token changes no prediction before it."""
    same = torch.tensor([[0, 1, 0, 1], [0, 1, 0, 0]], device=model.device)
    one, other = _logits(model, {"input_ids": same})[:, :-1].float().log_softmax(-1)
    return torch.allclose(one, other, atol=1e-3)


def _losses(
    source: ModelVectors, rows: np.ndarray, reads: int, reconstruct: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, int]:
    """Sums over the positions that count of what `Spliced` has, and how many there are.

    The logits of two passes are held at once, and only slices of what is made of them.
    """
    model, device = source.model, source.model.device
    ids = torch.from_numpy(np.asarray(rows).astype(np.int64)).to(device)
    kept = torch.from_numpy(source.mask.kept(rows)).to(device)
    inputs = {"input_ids": ids}
    if source.mask.pad is not None:
        inputs["attention_mask"] = (ids != source.mask.pad).long()
    found: dict[Point, torch.Tensor] = {}

    def keep(point: Point, tensor: torch.Tensor) -> None:
        found[point] = tensor.detach().clone().reshape(*ids.shape, -1)

    with watched(model, set(source.points), keep):
        clean = _logits(model, inputs)
    written = source.points[reads:] or source.points
    x = torch.cat([found[point].float()[kept] for point in source.points[:reads]], dim=-1)

    def changed(parts: Sequence[torch.Tensor]) -> torch.Tensor:
        whole = [_put(found[point], kept, part) for point, part in zip(written, parts, strict=True)]
        with replaced(model, written, whole):
            return _logits(model, inputs)

    scored = Scored(ids, kept)
    made = reconstruct(x).chunk(len(written), dim=-1)
    ablated = scored.cross_entropy(changed([torch.zeros_like(part) for part in made]))
    spliced = changed(made)
    sums = [scored.cross_entropy(clean), scored.cross_entropy(spliced), ablated, scored.divergence(clean, spliced)]
    return torch.stack(sums).double().cpu(), len(scored.places)


class Scored:
    """The positions of (batch, context) token ids whose prediction counts: those that are kept, as is the next one."""

    def __init__(self, ids: torch.Tensor, kept: torch.Tensor) -> None:
        counted = functional.pad(kept[:, :-1] & kept[:, 1:], (0, 1))
        self.places = counted.flatten().nonzero().flatten()
        self.following = ids.roll(-1, 1).flatten()

    def cross_entropy(self, logits: torch.Tensor) -> torch.Tensor:
        """What comes next, to these (batch, context, vocabulary) logits: nats, summed over the positions."""
        rows = logits.flatten(0, 1)
        return self._sum(
            lambda some: functional.cross_entropy(rows[some].float(), self.following[some], reduction="sum"), rows
        )

    def divergence(self, logits: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
        """KL of what the changed logits predict from what the others do: nats, summed over the positions."""
        rows, others = logits.flatten(0, 1), changed.flatten(0, 1)
        return self._sum(
            lambda some: functional.kl_div(
                others[some].float().log_softmax(1), rows[some].float().log_softmax(1), reduction="sum", log_target=True
            ),
            rows,
        )

    def _sum(self, of: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        """The sum of what holds of slices of the positions, each of a bounded part of the (n, vocabulary) rows."""
        slices = self.places.split(max(1, LOGITS_SLICE // rows.shape[1]))
        return torch.stack([of(some) for some in slices]).sum()


@contextmanager
def replaced(model: PreTrainedModel, points: Sequence[Point], values: Sequence[torch.Tensor]) -> Iterator[None]:
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
