"""From the bytes of a keyboard to names of keys, whichever of the usual sequences a terminal sends."""

from __future__ import annotations

import codecs
import re

_SEQUENCE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|O.)")
_BEGINNING = re.compile(r"\x1b(\[[0-?]*[ -/]*|O)?")

_NAMES = {
    **dict.fromkeys(("[A", "OA"), "up"),
    **dict.fromkeys(("[B", "OB"), "down"),
    **dict.fromkeys(("[C", "OC"), "right"),
    **dict.fromkeys(("[D", "OD"), "left"),
    **dict.fromkeys(("[H", "OH", "[1~", "[7~"), "home"),
    **dict.fromkeys(("[F", "OF", "[4~", "[8~"), "end"),
    "[5~": "page up",
    "[6~": "page down",
    "[Z": "back tab",
}
_CONTROLS = {
    "\r": "enter",
    "\n": "enter",
    "\t": "tab",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x03": "ctrl-c",
    "\x04": "ctrl-d",
    "\x0c": "ctrl-l",
    "\x15": "ctrl-u",
    " ": "space",
}


#: Buttons of a mouse, as terminals number them in the SGR form.
_LEFT, _WHEEL = 0, {64: "wheel up", 65: "wheel down"}
_MOUSE = re.compile(r"\[<(\d+);\d+;(\d+)M")


def _named(sequence: str) -> list[str]:
    """The key of a sequence; for a mouse "wheel up", "wheel down", or "click" with the line from 0."""
    if mouse := _MOUSE.fullmatch(sequence):
        button = int(mouse[1])
        return [f"click {int(mouse[2]) - 1}"] if button == _LEFT else [_WHEEL[button]] if button in _WHEEL else []
    return [_NAMES[sequence]] if sequence in _NAMES else []


class Keys:
    """Names the keys in a stream of bytes; a letter is its own name."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    @property
    def is_waiting(self) -> bool:
        """Whether more bytes may belong to what has come: Esc alone is recognized by the time that passes."""
        return bool(self._rest)

    def feed(self, chunk: bytes) -> list[str]:
        """The keys that are complete."""
        self._rest += self._decoder.decode(chunk)
        found: list[str] = []
        while self._rest:
            if self._rest[0] != "\x1b":
                letter, self._rest = self._rest[0], self._rest[1:]
                name = _CONTROLS.get(letter, letter)
                found += [name] if len(name) > 1 or name.isprintable() else []
            elif sequence := _SEQUENCE.match(self._rest):
                self._rest = self._rest[sequence.end() :]
                found += _named(sequence[1])
            elif _BEGINNING.fullmatch(self._rest):
                break
            else:
                self._rest = self._rest[1:]
                found.append("esc")
        return found

    def flush(self) -> list[str]:
        """What has come is complete: an Esc on its own, followed by what was typed after it."""
        rest, self._rest = self._rest, ""
        return ["esc", *(letter for letter in rest[1:] if letter.isprintable())] if rest else []
