"""The transformer blocks of a model, found by a forward pass over 2 rows of 8 tokens and not by their names.

A list of modules holds the blocks when each one reads what the one before it put out, and everything they put out is
(batch, position, d_model), or for all of them (position, batch, d_model) as in XLNet. A list that is never called (a
vision tower), one of more or fewer dimensions, and one between whose members something else changes the residual stream
are refused with the reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

from tasks.errors import UserError
from tasks.models.model_errors import translated

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Rows and positions of the proof: they differ, so that no output can have them the wrong way round.
ROWS, POSITIONS = 2, 8


class Blocks(NamedTuple):
    """The blocks in order, the path of their list in the model, and which of them end in a norm (post-norm).

    `position_first` is whether they put out (position, batch, d_model).
    """

    path: str
    modules: nn.ModuleList
    normed: tuple[bool, ...]
    position_first: bool


_proven: WeakKeyDictionary[nn.Module, Blocks] = WeakKeyDictionary()


def find_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The list of a model's transformer blocks and its module path, such as `gpt_neox.layers`.

    Raises UserError when no list of modules is proven to be that.
    """
    return prove_blocks(model)[:2]


def prove_blocks(model: PreTrainedModel) -> Blocks:
    """The same, with which blocks end in a norm. One forward pass without the head, once for each model."""
    if model not in _proven:
        _proven[model] = _prove(model)
    return _proven[model]


def run_base(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    """Run the model without its head, on its own device; nothing is cached for a next token."""
    base = model.base_model
    named = inspect.signature(base.forward).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in named.values())
    options = {"use_cache": False} if takes_all or "use_cache" in named else {}
    base(**{name: value.to(model.device) for name, value in inputs.items()}, **options)


def fault_of(model: PreTrainedModel) -> str | None:
    """Why the model, without its head, cannot be run on a few tokens, as a sentence; None where it can."""
    try:
        with translated("it fails"), torch.no_grad():
            run_base(model, some_tokens(model))
    except UserError as problem:
        return problem.sentence
    return None


def some_tokens(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """ROWS x POSITIONS token ids that differ from each other as far as the vocabulary allows."""
    ids = torch.arange(ROWS * POSITIONS).reshape(ROWS, POSITIONS)
    return {"input_ids": ids % int(model.config.get_text_config().vocab_size)}


def first_tensor(output: Any) -> Any:
    """What a module hands on: its output, or the first part of a tuple, a list or a ModelOutput."""
    while isinstance(output, tuple | list | dict) and output:
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output


class _Chain:
    """A list of modules that may be the blocks, and what a forward pass shows of it."""

    def __init__(self, path: str, modules: nn.ModuleList, width: int | None) -> None:
        self.path, self.modules, self.shape = path, modules, (ROWS, POSITIONS, width)
        self.normed: list[bool] = []
        self.position_first = False
        self.fault = ""  # why these are not the blocks
        self._last: torch.Tensor | None = None
        self._norms: list[torch.Tensor] = []

    def watch(self, handles: ExitStack) -> None:
        """Register hooks on the members, and on the norms within them."""
        for number, block in enumerate(self.modules):
            handles.callback(block.register_forward_pre_hook(self._entering(number), with_kwargs=True).remove)
            handles.callback(block.register_forward_hook(self._leaving).remove)
            for module in block.modules():
                if "Norm" in type(module).__name__:
                    handles.callback(module.register_forward_hook(self._normalizing).remove)

    def _entering(self, number: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._norms = []
            given = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
            if number != len(self.normed):
                self._refuse("are not run once each, in their order")
            elif self._last is not None and not any(_same(value, self._last) for value in given):
                self._refuse(f"are not chained: layer {number} reads something else than layer {number - 1} puts out")

        return hook

    def _leaving(self, _module: nn.Module, _args: Any, output: Any) -> None:
        handed_on = first_tensor(output)
        if not isinstance(handed_on, torch.Tensor):
            return self._refuse(f"put out no tensor but {type(handed_on).__name__}")
        shape = tuple(handed_on.shape)
        if not self.normed:
            self.position_first = shape[:2] == (POSITIONS, ROWS)
        if shape != ((POSITIONS, ROWS, self.shape[2]) if self.position_first else self.shape):
            self._refuse(f"put out {shape} where (batch, position, d_model) is {self.shape}")
        self.normed.append(any(_same(value, handed_on) for value in self._norms))
        self._last = handed_on.clone()
        return None

    def _normalizing(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            self._norms.append(output.clone())

    def _refuse(self, why: str) -> None:
        self.fault = self.fault or why


@torch.no_grad()
def _prove(model: PreTrainedModel) -> Blocks:
    name = type(model).__name__
    count, width = _shape_of(model)
    chains = [
        _Chain(path, module, width)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not chains:
        raise UserError(f"The {count} layers of {name} were not found: no list of modules is that long.")
    with _watching(chains), translated(f"{name} cannot be run on {ROWS} x {POSITIONS} tokens"):
        run_base(model, some_tokens(model))
    called = [chain for chain in chains if chain.normed or chain.fault]
    right = [chain for chain in called if not chain.fault and len(chain.normed) == count]
    if not right:
        why = called[0].fault if called else "are not run on tokens"
        raise UserError(f"The {count} layers of {name} cannot be read: they {why or 'are not all run'}.")
    best = min(right, key=lambda chain: chain.path.count("."))
    return Blocks(best.path, best.modules, tuple(best.normed), best.position_first)


def _shape_of(model: PreTrainedModel) -> tuple[int, int]:
    """How many blocks the configuration says there are, and how many numbers they pass on for each token."""
    with translated(f"The configuration of {type(model).__name__} cannot be read"):
        config = model.config.get_text_config()
    count, width = (getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size"))
    if not isinstance(count, int) or not isinstance(width, int):
        raise UserError(f"The configuration of {type(model).__name__} has no num_hidden_layers and hidden_size.")
    return count, width


@contextmanager
def _watching(chains: list[_Chain]) -> Iterator[None]:
    with ExitStack() as handles:
        for chain in chains:
            chain.watch(handles)
        yield


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether they have the same shape and, in whatever precision, the same numbers, NaN included."""
    if a.shape != b.shape:
        return False
    a = a.to(b.dtype)
    return bool(((a == b) | (a.isnan() & b.isnan())).all())
