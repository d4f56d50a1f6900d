"""A device that torch takes for another than the CPU, and on which every wait of the host for it is counted.

Tensors say that they are on `meta`, so code takes the branch that it takes on a card, but each holds numbers on the CPU
and every operation is really done. An operation by which the host would wait for a card is counted by its name; one on
tensors of both sides, which a card refuses, is an error.
"""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CARD = "meta"
#: Operations whose result the host needs, or whose size it does.
_READS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "argwhere", "equal", "is_nonzero", "bincount"),
    *("_unique2", "unique_dim", "unique_consecutive"),
}


class OnCard(torch.Tensor):
    """A tensor of the pretended card, with its numbers in `held`."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnCard:
        """Like `held`, but elsewhere."""
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=CARD, requires_grad=False
        )
        made.held = held
        return made

    def new_tensor(self, data: Any, **_: Any) -> torch.Tensor:
        """Numbers of the host, sent to the card: by dispatch alone that is not seen."""
        return torch.tensor(data, dtype=self.dtype).to(CARD)

    def tolist(self) -> Any:
        """As of a tensor on a card, by a copy."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Only inside the mode is there a card."""
        raise AssertionError(f"{func} outside of PretendedCard")


class PretendedCard(TorchDispatchMode):
    """Inside, `meta` is a card; `waits` counts what makes the host wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation on the numbers that are held; count it if it makes the host wait."""
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
        here = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, OnCard)}
        elsewhere = [tensor for tensor in tensors if not isinstance(tensor, OnCard)]
        name, device = func.overloadpacket.__name__, kwargs.get("device")
        to_card = (device is not None and torch.device(device).type == CARD) or (bool(here) and device is None)
        copies = name in ("_to_copy", "copy_")
        if any(tensor.device.type == CARD for tensor in elsewhere):
            raise AssertionError(f"{name} of a tensor made from numbers of the host on the card: the host waits")
        if here and not copies and any(tensor.dim() for tensor in elsewhere):
            raise AssertionError(f"{name} of tensors on the card and on the host: a card refuses it")
        if self._waits(name, func, args, kwargs, here, elsewhere, to_card):
            self.waits[name] += 1
        if to_card and device is not None:
            kwargs["device"] = "cpu"
        made = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        return tree_map(lambda leaf: _wrapped(leaf, here), made) if to_card else made

    @staticmethod
    def _waits(
        name: str, func: Any, args: Any, kwargs: Any, here: dict, elsewhere: list[torch.Tensor], to_card: bool
    ) -> bool:
        if name in ("_to_copy", "copy_"):
            crosses = bool(here) != to_card or bool(here and elsewhere)
            return crosses and not (kwargs.get("non_blocking") or (name == "copy_" and True in args[2:]))
        if not here:
            return False
        if name in ("index", "index_put", "index_put_"):
            return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        if name == "repeat_interleave":
            return func._overloadname == "Tensor" and kwargs.get("output_size") is None
        return name in _READS


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, OnCard) else leaf


def _wrapped(leaf: Any, here: dict[int, OnCard]) -> Any:
    """What came out, on the card; what was changed in place is the tensor that it was."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    known = here.get(id(leaf))
    return OnCard(leaf) if known is None else known


def allow_fused_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch's fused Adam, which is written for a list of devices, work on the pretended card."""
    adam = import_module("torch.optim.optimizer")
    devices = [*adam._get_fused_kernels_supported_devices(), CARD]
    monkeypatch.setattr(adam, "_get_fused_kernels_supported_devices", lambda: devices)
