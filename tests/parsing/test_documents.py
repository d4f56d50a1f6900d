"""JSON and TOML from anywhere: a sentence with the line for whatever is wrong, and no other exception."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.parsing.documents import (
    Malformed,
    decode,
    parse_json,
    parse_json_object,
    parse_toml,
    read_bounded,
    read_json_object,
)
from tests.conftest import deadline

DEEPER = os.environ.get("MISTUDIO_TEST_DEEPER") == "1"

ODD_JSON = {
    "nested arrays": ("\n\n" + "[" * 100_000, "f:3: nested too deeply."),
    "nested objects": ('{"a":' * 100_000, "f:1: nested too deeply."),
    "closed, but deeper than any writer of ours": ("[" * 70 + "]" * 70, "f:1: nested too deeply."),
    "a number without end": ('{"a":\n' + "9" * 5000 + "}", "f:2: holds a number of too many digits."),
    "a number that is none": ('{"a": NaN}', "f: not valid JSON: NaN is no JSON number."),
    "a number beyond floats": ("[1e999]", "f: holds a number that is too large."),
    "half a surrogate pair": (r'{"a": "\ud800"}', "f: holds a text that is no Unicode: '\\ud800'."),
    "a name twice": ('{"k": 1, "k": 2}', "f: not valid JSON: 'k' is there twice."),
    "no UTF-8": (b'{"a":\n\n"\xff"}', "f:3: not UTF-8: invalid start byte at byte 8."),
    "nothing": ("", "f:1: not valid JSON: Expecting value (column 1)."),
    "TOML": ("a = 1\n", "f:1: not valid JSON: Expecting value (column 1)."),
    "null": ("null", "f: a JSON object was expected, not None."),
    "a list": ("[1]", "f: a JSON object was expected, not [1]."),
}

ODD_TOML = {
    "nested arrays": ("\na = " + "[" * 100_000, "f:2: nested too deeply."),
    "nested tables": ("a = " + "{a = " * 5000, "f:1: nested too deeply."),
    "a key of many parts": ("b = 1\n" + ".".join("a" * 100_000) + " = 1", "f:2: nested too deeply."),
    "a header of many parts": ("[" + ". ".join(['"a"'] * 100_000) + "]", "f:1: nested too deeply."),
    "a number without end": ("\n\na = " + "9" * 5000, "f:3: holds a number of too many digits."),
    "a day that there is not": ("a = 1\nb = 2021-02-30", "f:2: not valid TOML: Invalid date or datetime."),
    "no UTF-8": (b"a = 1\nb = '\xff'", "f:2: not UTF-8: invalid start byte at byte 11."),
    "cut short": ('a = """\n\n', "f:3: not valid TOML: Unterminated string."),
    "a key twice": ("a = 1\na = 2\n", "f:2: not valid TOML: Cannot overwrite a value."),
    "too much": ("#" * (2 << 20), "f: larger than 1 MiB."),
}


@pytest.mark.parametrize("what", ODD_JSON)
def test_odd_json_is_a_sentence_with_its_line(what: str) -> None:
    text, sentence = ODD_JSON[what]
    with deadline(5, what), pytest.raises(Malformed) as raised:
        parse_json_object(text, "f")
    assert raised.value.sentence == sentence


@pytest.mark.parametrize("what", ODD_TOML)
def test_odd_toml_is_a_sentence_with_its_line(what: str) -> None:
    text, sentence = ODD_TOML[what]
    with deadline(5, what), pytest.raises(Malformed) as raised:
        parse_toml(text, "f")
    assert raised.value.sentence == sentence


def test_files_of_models_may_have_what_pythons_parser_reads() -> None:
    text = '{"time_step_limit": [0.0, Infinity], "a": 1, "a": 2}'
    assert parse_json(text, strict=False) == {"time_step_limit": [0.0, float("inf")], "a": 2}


def test_no_text_of_the_largest_size_takes_long() -> None:
    for piece in ("a", "9", "a.", '"', "'\"", '"a', "[", "a=1\n", ".", " ", '"a".', "- ", "a.b=1\n", "\n"):
        text = piece * ((1 << 20) // len(piece))
        with deadline(20, repr(piece)):
            assert (sentence_of(lambda text=text: parse_toml(text, "f")) or "f:").startswith("f:")


def test_a_byte_order_mark_is_no_fault_of_what_people_write_and_one_of_what_other_programs_read() -> None:
    assert parse_toml(b"\xef\xbb\xbfa = 1") == {"a": 1}
    assert parse_json(decode(b'\xef\xbb\xbf{"a": 1}')) == {"a": 1}
    with pytest.raises(Malformed, match="BOM"):
        parse_json(b'\xef\xbb\xbf{"a": 1}')


def test_a_device_without_end_is_not_read_to_its_end() -> None:
    with deadline(5, "/dev/zero"), pytest.raises(Malformed, match="larger than 1 MiB"):
        read_bounded(Path("/dev/zero"), 1 << 20)


def test_a_file_is_named_in_its_fault(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n"a": }')
    with pytest.raises(Malformed, match=r"a\.json:2: not valid JSON: Expecting value \(column 6\)"):
        read_json_object(tmp_path / "a.json")


WORDS = ["{", "}", "[", "]", '"', "'", ",", ":", "=", ".", "\n", "\\", "\\ud800", "a", "1", "-", "e9", "null", "\x00"]
WORDS += ["[[step]]\n", '"a": ', "a = ", '"""', "0x", "1e999", "NaN", "inf", "1979-05-27", "{" * 80, "é", "\u202e"]


@pytest.mark.parametrize("parse", [parse_json, parse_toml])
def test_random_documents_raise_nothing_else(parse: Callable[..., Any]) -> None:
    dice, cases = random.Random(7), 5000 if DEEPER else 300
    sound = json.dumps({"kind": "train", "tags": ["a"], "k": 1.5}), '[[step]]\nkind = "train"\n[vars]\na = [1, {b = 2}]'
    with deadline(60 if DEEPER else 20, "parsing"):
        for _ in range(cases):
            if dice.random() < 0.5:
                text: str | bytes = "".join(dice.choices(WORDS, k=dice.randrange(1, 30)))
            else:
                drawn = bytearray(dice.choice(sound).encode())
                for _ in range(dice.randrange(1, 6)):
                    drawn[dice.randrange(len(drawn))] = dice.randrange(256)
                text = bytes(drawn)
            sentence = sentence_of(lambda text=text: json.dumps(parse(text, "f"), default=str).encode())
            assert sentence is None or (sentence.startswith("f:") and "\n" not in sentence), text


def sentence_of(call: Callable[[], object]) -> str | None:
    """Of the Malformed that the call raises, None where it raises none."""
    try:
        call()
    except Malformed as malformed:
        return malformed.sentence
    return None


def test_a_name_that_is_there_twice_among_very_many_is_found_at_once() -> None:
    text = "{" + ", ".join(f'"{number}": 0' for number in [*range(100_000), 99_999]) + "}"
    with deadline(20, "finding it"), pytest.raises(Malformed, match="'99999' is there twice"):
        parse_json(text)
