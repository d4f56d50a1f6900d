"""One self-contained HTML page of features: it loads nothing, and opens fast because examples are parsed as needed.

The template is never filled with markup: all text travels as JSON in script blocks that no browser runs, with `<`, `>`
and `&` escaped, and the page's own script shows it as text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from tasks.features.feature_records import LIVE_CONTEXTS, Example, Feature
from tasks.features.patterns import pattern_of, score

#: Features whose examples the browser parses together, and how many a page can hold and still open.
_CHUNK = 50
MOST_FEATURES = 16_384
#: Activations travel as thousandths of the feature's strongest.
_FULL = 1000
_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def write_page(
    path: Path, title: str, facts: list[tuple[str, str]], features: Iterable[Feature], examples: int = LIVE_CONTEXTS
) -> None:
    """Write the page with at most `examples` of a feature; `facts` are (name, value) pairs shown below the title."""
    strings: dict[str, int] = {}
    index: list[list[Any]] = []
    chunks: list[str] = []
    waiting: list[list[Any]] = []
    for feature in features:
        shown = feature.examples[:examples]
        index.append(_index_entry(feature, shown, strings))
        waiting.append([_pack(example, feature.max_activation, strings) for example in shown])
        if len(waiting) == _CHUNK:
            chunks.append(_block(f"chunk-{len(chunks)}", waiting))
            waiting = []
    chunks.append(_block(f"chunk-{len(chunks)}", waiting))
    head = {"title": title, "facts": facts, "strings": list(strings), "index": index, "chunk": _CHUNK}
    before, after = files(__package__).joinpath("page.html").read_text(encoding="utf-8").split("<!--DATA-->")
    with path.open("w", encoding="utf-8") as page:
        page.writelines([before, _block("index", head), *chunks, after])


def _index_entry(feature: Feature, shown: Sequence[Example], strings: dict[str, int]) -> list[Any]:
    """What the page must know of a feature to sort, search and title it; the order is the template's constants."""
    pattern = pattern_of(feature)
    peaks = sorted({_number(example.peak_token, strings) for example in shown})
    return [
        feature.id,
        float(f"{feature.density:.4g}"),
        float(f"{feature.max_activation:.4g}"),
        round(score(feature), 4),
        pattern.where if pattern else "",
        _number(pattern.token, strings) if pattern else -1,
        round(pattern.share, 3) if pattern else 0,
        peaks,
    ]


def _pack(example: Example, strongest: float, strings: dict[str, int]) -> list[Any]:
    """[peak, whether the row begins here, token numbers, activations in thousandths]."""
    tokens = [_number(token, strings) for token in example.tokens]
    acts = [max(0, round(_FULL * value / strongest)) for value in example.activations]
    return [example.peak, int(example.at_row_start), tokens, acts]


def _number(text: str, strings: dict[str, int]) -> int:
    return strings.setdefault(text, len(strings))


def _block(name: str, value: Any) -> str:
    """A script block that holds data; nothing in it can end the block or begin markup."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPES)
    return f'<script type="application/json" id="{name}">{text}</script>\n'
