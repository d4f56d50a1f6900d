"""Details as lines: text and charts, which are drawn for the width of the screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mistudio_cli.top.details.charts import Chart, drawn
from mistudio_cli.top.frame.text import Line, Span, clean, wrapped

#: A longer line is cut: a log may have lines of megabytes.
_LONGEST = 2000


@dataclass(frozen=True)
class Block:
    """A part of details under a heading: lines of text, or charts."""

    heading: str
    lines: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True)
class Details:
    """What is known of one row of a pane; without blocks while it is being read."""

    pane: str
    id: str
    title: str
    blocks: tuple[Block, ...] = ()
    age_s: float = 0.0
    error: str = ""

    def painted(self, room: int) -> list[Line]:
        """All lines, at most so wide."""
        lines: list[Line] = [(Span(clean(self.error), "alarm"),)] if self.error else []
        if not self.blocks and not self.error:
            return [(Span("reading …", "dim"),)]
        for block in self.blocks:
            lines += [*([()] if lines else []), (Span(block.heading, "bold"),)] if block.heading else []
            lines += [row for text in block.lines for row in wrapped(Span(_shown(text)), room)]
            for chart in block.charts:
                lines += drawn(chart, room)
        return lines


def _shown(text: str) -> str:
    """A line of text with its indentation, and nothing that steers the terminal."""
    text = text[:_LONGEST].expandtabs(4)
    indented = text.lstrip(" ")
    pieces = [indented[at : at + 400] for at in range(0, len(indented), 400)]
    return " " * (len(text) - len(indented)) + "".join(map(_spaced, pieces))


def _spaced(piece: str) -> str:
    """The piece cleaned, with its runs of spaces as they were."""
    return " ".join(clean(word) if word else "" for word in piece.split(" "))


def text_block(heading: str, lines: Sequence[str], otherwise: str = "") -> Block:
    """A block of text; `otherwise` stands where there is none."""
    return Block(heading, tuple(lines) or ((otherwise,) if otherwise else ()))
