"""torch and NumPy, imported when they are first used.

A file that declares options beside its formulas can so be read by a command that only wants the options.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any


class _Late(ModuleType):
    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), name)
        setattr(self, name, value)
        return value


if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch.nn import functional
else:
    np, torch, functional = _Late("numpy"), _Late("torch"), _Late("torch.nn.functional")

__all__ = ["functional", "np", "torch"]
