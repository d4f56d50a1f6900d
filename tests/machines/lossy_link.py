"""`python lossy_link.py HOST_SPACE HOST_DEVICE HUB_SPACE HUB_DEVICE SHARE SEED`: a cable that drops frames at times.

It makes a device in each network namespace and carries Ethernet frames between them. After SIGUSR1 it drops that share
of them, after SIGUSR2 none. Not every kernel can do so by itself (netem).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import select
import signal
import struct
import sys
from contextlib import suppress

_TUNSETIFF, _TAP, _NO_HEADER, _NEW_NETWORK = 0x400454CA, 0x0002, 0x1000, 0x40000000
_FRAME_BYTES = 1 << 16


def main(spaces: tuple[str, str], devices: tuple[str, str], share: float, seed: int) -> None:
    """Carry frames until the process is ended."""
    chance, losses = random.Random(seed), [0.0]
    signal.signal(signal.SIGUSR1, lambda *_: losses.__setitem__(0, share))
    signal.signal(signal.SIGUSR2, lambda *_: losses.__setitem__(0, 0.0))
    ends = [_device(space, device) for space, device in zip(spaces, devices, strict=True)]
    print("ready", flush=True)
    while True:
        for end in select.select(ends, [], [])[0]:
            frame = os.read(end, _FRAME_BYTES)
            if chance.random() >= losses[0]:
                with suppress(OSError):  # the other end is not up yet
                    os.write(ends[1 - ends.index(end)], frame)


def _device(space: str, name: str) -> int:
    """A device of that name in that namespace, as a file of its frames."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{space}", encoding="ascii") as namespace:
        if libc.setns(namespace.fileno(), _NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP | _NO_HEADER))
    return device


if __name__ == "__main__":
    main((sys.argv[1], sys.argv[3]), (sys.argv[2], sys.argv[4]), float(sys.argv[5]), int(sys.argv[6]))
