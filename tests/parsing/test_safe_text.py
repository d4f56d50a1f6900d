"""Nothing that comes from data steers a terminal or a log, and nothing else is changed."""

from __future__ import annotations

import json
import random

import pytest

from tasks.parsing.safe_text import shown, visible, visible_json, visible_lines


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x9b31m", r"\x9b31m"),
        ("user\u202e\u2066// check\u2069", r"user\u202e\u2066// check\u2069"),
        ("a\u2028b", r"a\u2028b"),
        ("half \ud800", r"half \ud800"),
        ("hidden \U000e0041", r"hidden \U000e0041"),
        ("ünï 語 👩\u200d🚀 \\ ' – ", "ünï 語 👩\u200d🚀 \\ ' – "),
    ],
)
def test_what_steers_is_written_out_and_the_rest_stays(text: str, seen: str) -> None:
    assert visible(text) == seen


def test_lines_keep_their_layout_and_lose_their_colors() -> None:
    assert visible_lines("\x1b[31ma\x1b[0m\r\n\tb\x1b[2K") == "a\n\tb\\x1b[2K"


def test_json_stays_the_same_value() -> None:
    dice = random.Random(3)
    for _ in range(300):
        value = "".join(
            chr(dice.choice([dice.randrange(0x300), dice.randrange(0x2000, 0x2100), 0xE0041])) for _ in "12345"
        )
        text = visible_json(json.dumps([value], ensure_ascii=False))
        assert json.loads(text) == [value]
        assert visible(text) == text


def test_values_of_any_size_are_shown_in_a_few_words() -> None:
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "[[[[[[[...]]]]]]]"
    assert shown([1, "a", {"b": (2.5, None)}]) == "[1, 'a', {'b': (2.5, None)}]"
    assert shown(16**5000) == "a int too large to show"
    assert shown("x" * 1000, 10) == "'xxxxxxxxx…"
    assert shown("\x1b\u202e") == r"'\x1b\u202e'"
