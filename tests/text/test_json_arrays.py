"""Reading a JSON array takes work in proportion to its size, whatever the size of its largest row."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from tasks.text.files import rows

BLOCK = 1000


class CountedText(str):
    """Text that counts the characters of it that are copied."""

    __slots__ = ()
    copied = 0

    def __getitem__(self, at: Any) -> CountedText:
        return self._counted(super().__getitem__(at))

    def lstrip(self, chars: str | None = None) -> CountedText:
        return self._counted(super().lstrip(chars))

    def __add__(self, other: str) -> CountedText:
        return self._counted(super().__add__(other))

    def __radd__(self, other: str) -> CountedText:
        return self._counted(other + str(self))

    @classmethod
    def _counted(cls, text: str) -> CountedText:
        cls.copied += len(text)
        return cls(text)


class CountedFile(io.StringIO):
    def read(self, size: int | None = -1) -> CountedText:
        return CountedText(super().read(size))


def copied_of(values: list[dict[str, str]], monkeypatch) -> float:
    """How often each character of an array with these rows is copied, on average."""
    text = json.dumps(values)
    monkeypatch.setattr(rows, "_BLOCK", BLOCK)
    monkeypatch.setattr(rows, "open_text", lambda path: CountedFile(text))
    CountedText.copied = 0
    assert [row for _, row in rows.read_json(Path("a.json"))] == values
    return CountedText.copied / len(text)


def test_a_row_is_not_copied_once_for_each_row_before_it(monkeypatch):
    small = [{"text": f"row {n}"} for n in range(3000)]
    assert copied_of(small, monkeypatch) < 6
    assert copied_of([{"text": "x" * 100 * BLOCK}, *small], monkeypatch) < 6
    assert copied_of([*small[:10], {"text": "x" * 100 * BLOCK}, *small], monkeypatch) < 6


def test_lines_are_counted_across_blocks(monkeypatch, tmp_path):
    monkeypatch.setattr(rows, "_BLOCK", 7)
    (tmp_path / "a.json").write_text(json.dumps([{"text": "a\nb"}] * 40, indent=1))
    assert [line for line, _ in rows.read_json(tmp_path / "a.json")] == [2 + 3 * n for n in range(40)]
