"""The last line of the screen: what is asked or was said, else the panes and the keys."""

from __future__ import annotations

from collections.abc import Sequence

from mistudio_cli.terminal.layout import columns
from mistudio_cli.top.frame.text import Line, Span, clean, fitted, width
from mistudio_cli.top.view import PANES, View

TITLES = {"jobs": "jobs", "queues": "queues", "gpus": "GPUs", "workers": "workers", "hosts": "hosts"}

KEYS = ("? help", "q quit", "/ filter", "Enter details", "c cancel", "R retry", "p pause", "s sort", "Space freeze")


def footer_of(view: View, room: int, keys: Sequence[str]) -> Line:
    """What is asked or was said; else the panes, and as many keys as fit whole."""
    if view.question is not None:
        return fitted((Span(f"{clean(view.question.text)} y/N", "reverse"),), room)
    if view.typing is not None:
        return fitted((Span(f"/{clean(view.typing)}", "reverse"), Span(" Enter to keep, Esc to drop", "dim")), room)
    if view.message:
        return fitted((Span(clean(view.message), "bold"),), room)
    spans: list[Span] = []
    panes = [] if view.is_overlaid else [(f"{number}:{TITLES[key]}", key) for number, key in enumerate(PANES, 1)]
    if sum(len(text) + 1 for text, _ in panes) + len(" ".join(keys[:2])) + 2 > room:
        panes = [(text[0], key) for text, key in panes]
    words = [(f"[{text}]" if key == view.pane else text, key == view.pane) for text, key in panes]
    for text, is_chosen in [*words, *((key, False) for key in keys)]:
        if width(spans) + columns(text) + 1 > room:
            break
        spans += [Span(text, "reverse" if is_chosen else ""), Span(" ")]
    return tuple(spans[:-1])
