"""Who else may change what jobs create: nobody but the user and the group, unless the setting `umask` allows it."""

from __future__ import annotations

import os

from tasks.settings import current

_OTHERS_WRITE = 0o002


def narrow_umask() -> None:
    """Narrow the umask that this process inherited, or take the one that is set. UserError for a wrong one."""
    mask = current("umask")
    inherited = os.umask(0o077)
    os.umask(inherited | _OTHERS_WRITE if mask is None else int(mask, 8))
