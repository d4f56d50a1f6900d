"""Checks whether a job's card has fallen off the bus: now and then during the job, and when CUDA reports an error."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tasks.accelerators import nvml_process
from tasks.accelerators.devices import UNREADABLE, Device
from tasks.errors import UserError

#: How often the driver is asked beside a job's work, and how long it may take to answer: a process is started for it.
LOOK_EVERY_S = 15.0
_PATIENCE_S = 10.0
#: How long a look waits by itself: the answer is asked for again at the next one, so that nothing else is held up.
_GLANCE_S = 0.05

_VISIBLE = "CUDA_VISIBLE_DEVICES"
#: CUDA's errors, as torch reports them; and those that say themselves that the card is gone or broken.
_ERRORS = ("CUDA error", "CUDA driver error")
_OF_THE_CARD = ("no CUDA-capable device is detected", "uncorrectable ECC error encountered")


class CardWatch:
    """Asks the driver every LOOK_EVERY_S whether it has lost the card that `visible` names; "" names none."""

    def __init__(self, visible: str) -> None:
        self._visible = visible
        self._next_look = time.monotonic() + LOOK_EVERY_S

    def lost(self) -> tuple[str, str] | None:
        """What happened to the card and what fixes it, when it is lost. None else, and between the looks."""
        now = time.monotonic()
        if not self._visible or now < self._next_look:
            return None
        found = nvml_process.read(_GLANCE_S)
        if not found.devices and (found.reason or "").startswith(UNREADABLE) and now < self._next_look + _PATIENCE_S:
            return None
        nvml_process.close()  # it would hold memory for as long as the job runs
        self._next_look = now + LOOK_EVERY_S
        card = _lost_among(found.devices, self._visible)
        return None if card is None else describe_loss(card)


@contextmanager
def card_errors_translated() -> Iterator[None]:
    """Inside, UserError in place of an error of CUDA's where the card of this process is lost or broken."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not any(words in text for words in _ERRORS):
            raise
        if (card := lost_card(os.environ.get(_VISIBLE, ""))) is not None:
            raise UserError(f"{describe_loss(card)[0]}.", describe_loss(card)[1]) from error
        if words := next((words for words in _OF_THE_CARD if words in text), None):
            raise UserError(f"A GPU of {socket.gethostname()} failed: {words}.", _FIX) from error
        raise


_FIX = "Reset the GPU or restart the machine, then: mistudio jobs retry ID"


def describe_loss(card: Device) -> tuple[str, str]:
    """A clause on a card that is lost, and what fixes it."""
    return f"GPU {card.label} of {socket.gethostname()} fell off the bus: {card.problem}", _FIX


def lost_card(visible: str) -> Device | None:
    """The card that CUDA_VISIBLE_DEVICES names by that index or UUID, if the driver says that it is lost.

    One that is lost may not even report its UUID: then it is the one that is lost where none has that UUID.
    """
    return _lost_among(nvml_process.read(_PATIENCE_S).devices, visible)


def _lost_among(found: Sequence[Device], visible: str) -> Device | None:
    lost = [device for device in found if device.is_lost]
    if visible.isdecimal():
        return next((device for device in lost if str(device.index) == visible), None)
    if own := [device for device in found if visible and device.uuid == visible]:
        return own[0] if own[0].is_lost else None
    return None if "/" in visible else next(iter(lost), None)  # older names of MIG instances have one
