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

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.activations import ModelVectors

#: Numbers in the logits of one pass.
_LOGITS = 1 << 24


@dataclass(frozen=True)
class Spliced:
    """Means over the positions that count; nats a token.

    `recovered` is 1 where the reconstruction changes nothing and 0 where it does as badly as zeros.
    """

    clean: float  # cross-entropy of the model itself
    spliced: float  # with the reconstruction
    ablated: float  # with zeros
    kl: float  # of the predictions with the reconstruction from the model's own

    @property
    def recovered(self) -> float:
        """The share of the loss between zeros and the model itself."""
        return (self.ablated - self.spliced) / (self.ablated - self.clean)


@torch.no_grad()
def splice(
    source: ModelVectors, numbers: np.ndarray, reads: int, reconstruct: Callable[[torch.Tensor], torch.Tensor]
) -> Spliced:
    """Run the source's model on those rows as it is, with what `reconstruct` makes, and with zeros.

    The first `reads` of the source's points are read, (n, d_in); what the rest would have had, or else the same, is
    replaced by (n, d_out). Positions that do not count keep what they have.
    """
    totals, count = torch.zeros(4, dtype=torch.float64), 0
    stride = max(1, _LOGITS // (source.shape[1] * int(source.model.config.get_text_config().vocab_size)))
    for start in range(0, len(numbers), stride):
        rows = source.tokens[numbers[start : start + stride]]
        told, positions = _losses(source, rows, reads, reconstruct)
        totals += told
        count += positions
    return Spliced(*(totals / max(1, count)).tolist())


def can_splice(source: Any) -> bool:
    """Whether what the vectors come from is a model that predicts the next token, without looking at it."""
    model = getattr(source, "model", None)
    return model is not None and model.get_output_embeddings() is not None and _is_causal(model)


@torch.no_grad()
def _is_causal(model: PreTrainedModel) -> bool:
    """Whether another last token changes no prediction before it."""
    same = torch.tensor([[0, 1, 0, 1], [0, 1, 0, 0]], device=model.device)
    one, other = _predictions(model, {"input_ids": same})[:, :-1]
    return torch.allclose(one, other, atol=1e-3)


def _losses(
    source: ModelVectors, rows: np.ndarray, reads: int, reconstruct: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, int]:
    """Sums over the positions that count of what `Spliced` has, and how many there are."""
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
        clean = _predictions(model, inputs)
    written = source.points[reads:] or source.points
    x = torch.cat([found[point].float()[kept] for point in source.points[:reads]], dim=-1)
    made = reconstruct(x).chunk(len(written), dim=-1)
    counted = kept[:, :-1] & kept[:, 1:]
    sums = [_cross_entropy(clean, ids, counted)]
    for values in (made, [torch.zeros_like(part) for part in made]):
        whole = [_put(found[point], kept, part) for point, part in zip(written, values, strict=True)]
        with replaced(model, written, whole):
            changed = _predictions(model, inputs)
        sums.append(_cross_entropy(changed, ids, counted))
        if values is made:
            kl = functional.kl_div(changed, clean, reduction="none", log_target=True).sum(-1)[:, :-1][counted].sum()
    return torch.stack([*sums, kl]).double().cpu(), int(counted.sum())


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
        first = output[0] if isinstance(output, tuple) else output
        new = value.to(first.dtype).reshape(first.shape)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return hook


def _predictions(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Log-probabilities of the next token: (batch, context, vocabulary) float32."""
    return model(**inputs, use_cache=False).logits.float().log_softmax(-1)


def _cross_entropy(predicted: torch.Tensor, ids: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Summed over the positions (batch, context - 1) whose next token counts."""
    return -predicted[:, :-1].gather(2, ids[:, 1:, None])[:, :, 0][counted].sum()


def _put(there: torch.Tensor, kept: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """`there` (batch, context, d) with `part` (n, d) at the n positions that count."""
    whole = there.clone()
    whole[kept] = part.to(whole.dtype)
    return whole
