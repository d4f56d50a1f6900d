"""Who else may change what jobs create: nobody but the user and the group, unless the setting `umask` allows it."""

from __future__ import annotations

import os

from tasks.settings import current

_OTHERS_WRITE = 0o002


def narrow_umask() -> None:
    """Narrow the umask that this process inherited, or take the one that is set. Problem for a wrong one."""
    told = current("umask")
    inherited = os.umask(0o077)
    os.umask(inherited | _OTHERS_WRITE if told is None else int(told, 8))
