"""The architectures: one file here is one architecture, and nothing else lists them.

A file defines a subclass of `tasks.sae.coder.Coder` and names it `CODER`; the file's name is the architecture's. Its
`Options` become flags of `mistudio submit train`. Reading a file costs no torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING

from tasks.errors import UserError

if TYPE_CHECKING:
    from tasks.sae.coder import Coder, CoderConfig


@cache
def names() -> tuple[str, ...]:
    """Every architecture's name, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def coder_class(name: str) -> type[Coder]:
    """The architecture of that name; UserError for any other."""
    if name not in names():
        raise UserError(f"There is no SAE architecture {name!r}.", f"Architectures: {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}").CODER


def build(config: CoderConfig, seed: int = 0) -> Coder:
    """A fresh coder of the configured architecture, drawn from `seed`."""
    return coder_class(config.architecture)(config, seed)
