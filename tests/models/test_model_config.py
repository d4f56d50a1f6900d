"""Any JSON value can stand at any key of a config.json: it is understood, or refused in one sentence."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.errors import UserError
from tasks.models import model_config
from tasks.models.loading import describe_config, load_model
from tests.models.every_family import NoStore
from tests.models.families import model_of

DEEPER = bool(os.environ.get("MISTUDIO_TEST_DEEPER"))

LLAMA = {"model_type": "llama", "num_hidden_layers": 3, "hidden_size": 16, "vocab_size": 97}
ODD: list[Any] = [
    None,
    True,
    "",
    "twelve",
    "12",
    12.5,
    12.0,
    0,
    -1,
    10**6,
    10**12,
    10**400,
    [],
    [12],
    {},
    {"a": {"b": []}},
]


def written(folder: Path, text: str | bytes) -> str:
    """The folder, with that text as its config.json."""
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder)


def described(folder: Path, **values: Any) -> dict[str, Any]:
    return describe_config(written(folder, json.dumps(LLAMA | values)), NoStore()) or {}


def test_a_null_in_place_of_a_section_is_no_section(tmp_path: Path):
    assert described(tmp_path, text_config=None)["n_layers"] == 3


def test_the_text_sections_numbers_count(tmp_path: Path):
    result = described(tmp_path, text_config={"num_hidden_layers": 5, "model_type": "gemma3_text"})
    assert (result["n_layers"], result["d_model"], result["model_type"]) == (5, 16, "gemma3_text")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "cannot be read"),
        ("", "cannot be read"),
        (b"\xff\xfe{}", "cannot be read"),
        ("[]", r"a JSON object was expected, not \[\]"),
        ("null", "a JSON object was expected, not None"),
        ('"text"', "a JSON object was expected, not 'text'"),
        ("12", "a JSON object was expected, not 12"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "nested too deep"),
        ('{"num_hidden_layers": NaN}', "num_hidden_layers = NaN"),
        ('{"hidden_size": Infinity}', "hidden_size = Infinity"),
        ('{"num_hidden_layers": ' + "9" * 5000 + "}", "cannot be read"),
        (" " * (17 << 20), "larger than 16 MiB"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str | bytes, sentence: str):
    with pytest.raises(UserError, match=sentence) as caught:
        describe_config(written(tmp_path, text), NoStore())
    assert "config.json" in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings"])
def test_a_count_is_a_whole_number_or_refused(tmp_path: Path, key: str):
    for value in ODD:
        if value is None or (type(value) is int and 1 <= value < 2**31):
            assert value in described(tmp_path, **{key: value}).values()
        else:
            with pytest.raises(UserError, match=f"has {key} = .*; it must be a whole number from 1 to"):
                described(tmp_path, **{key: value})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"text_config": [1]}, "text_config = a JSON list; it must be an object"),
        ({"text_config": "llama"}, 'text_config = "llama"; it must be an object'),
        ({"text_config": {"hidden_size": "16"}}, "hidden_size"),
        ({"model_type": ["llama"]}, "model_type = a JSON list; it must be text"),
        ({"model_type": 3}, "model_type = 3; it must be text"),
        ({"dtype": "int8"}, 'dtype = "int8"; it must be one of float64'),
        ({"torch_dtype": 16}, "torch_dtype = 16; it must be one of"),
        ({"dtype": {"text_config": "float8_e4m3fn"}}, "dtype = a JSON dict; it must be one of"),
    ],
)
def test_what_is_of_no_known_kind_is_refused(tmp_path: Path, values: dict[str, Any], sentence: str):
    with pytest.raises(UserError, match=sentence):
        described(tmp_path, **values)


def test_every_key_of_a_configuration_takes_any_value_without_a_raw_exception(tmp_path: Path):
    model = model_of("llama")
    model.save_pretrained(tmp_path)
    whole = json.loads((tmp_path / "config.json").read_text())
    ids = torch.arange(8)[None]
    expected = model(input_ids=ids).logits
    pairs = list(itertools.product([*whole, "text_config", "auto_map", "attn_implementation", "adapter"], ODD))
    for key, value in pairs if DEEPER else pairs[::7]:
        written(tmp_path, json.dumps(whole | {key: value}))
        try:
            describe_config(str(tmp_path), NoStore())
            loaded = load_model(str(tmp_path), NoStore())
        except UserError as problem:
            result = str(problem)
        else:
            result = "" if loaded.lm_head.weight.equal(model.lm_head.weight) else "other weights\n"
        assert "\n" not in result, (key, value)
        assert len(result) < 600, (key, value)
    written(tmp_path, json.dumps(whole))
    assert load_model(str(tmp_path), NoStore())(input_ids=ids).logits.equal(expected)


#: The longest input of each family, and whether one token more fails in the model itself.
POSITIONS: dict[str, tuple[dict[str, Any], int | None, bool]] = {
    "bert": ({}, 64, True),
    "bloom": ({}, None, False),
    "distilbert": ({}, 64, True),
    "falcon": ({"alibi": True}, None, False),
    "gpt2": ({}, 64, True),
    "mamba": ({}, None, False),
    "mpt": ({"max_seq_len": 64}, 64, True),
    "opt": ({}, 64, True),
    "roberta": ({"pad_token_id": 1}, 62, True),
    "mistral": ({"sliding_window": 8}, 64, False),
}


@pytest.mark.parametrize("family", POSITIONS)
def test_as_many_tokens_fit_as_the_model_can_use(tmp_path: Path, family: str):
    from tests.models import families

    own, longest, has_an_end = POSITIONS[family]
    changed = families._OWN[family] | own
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(families._OWN, family, changed)
        model = model_of(family)
    model.save_pretrained(tmp_path)
    result = describe_config(str(tmp_path), NoStore())
    assert result is not None
    assert result["context"] == longest
    model(input_ids=torch.full((1, longest or 200), 5))
    if has_an_end:
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, (longest or 0) + 1), 5))


@pytest.mark.parametrize(
    ("values", "context"),
    [
        ({"model_type": "gpt2", "n_ctx": 512}, 512),
        ({"model_type": "gpt2", "n_ctx": 512, "n_positions": 1024}, 1024),
        ({"model_type": "roberta", "max_position_embeddings": 514}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "camembert", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "longformer", "max_position_embeddings": 4098, "pad_token_id": 1}, 4096),
        ({"model_type": "esm", "max_position_embeddings": 1026, "pad_token_id": 1}, 1024),
        ({"model_type": "esm", "max_position_embeddings": 1026, "position_embedding_type": "rotary"}, 1026),
        ({"model_type": "xlnet", "max_position_embeddings": 64}, None),
        ({"model_type": "mistral", "max_position_embeddings": 32768, "sliding_window": 4096}, 32768),
    ],
)
def test_positions_are_those_that_can_be_used(tmp_path: Path, values: dict[str, Any], context: int | None):
    assert described(tmp_path, **values)["context"] == context


def test_a_type_whose_package_is_not_installed_is_refused_at_submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(model_config._PACKAGES, "llama", "no_such_package")
    with pytest.raises(UserError, match=r"needs the package no_such_package.*pip install no_such_package"):
        described(tmp_path)
    monkeypatch.setitem(model_config._PACKAGES, "llama", "json")
    assert described(tmp_path)["n_layers"] == 3


def test_more_padding_than_positions_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="leaves no positions"):
        described(tmp_path, model_type="roberta", max_position_embeddings=2, pad_token_id=1)


def test_a_configuration_of_thousands_of_layers_is_refused_before_they_are_built(tmp_path: Path):
    model_of("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    written(tmp_path, json.dumps(config | {"num_hidden_layers": 2_000_000}))
    with pytest.raises(UserError, match=r"has 2000000 layers by its config\.json, but only \d+ tensors are saved"):
        load_model(str(tmp_path), NoStore())
