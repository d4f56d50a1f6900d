"""A model is loaded as it was saved, or refused with the names of what is wrong: nothing in its files is believed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, BertModel

from tasks.errors import UserError
from tasks.models.loading import check_readable, describe_config, load_model
from tests.fixtures.bench import Bench
from tests.models.every_family import NoStore
from tests.models.families import model_of

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], Path]:
    """Saves a model of a family, and says where."""

    def save(family: str) -> Path:
        model_of(family).save_pretrained(tmp_path / family)
        return tmp_path / family

    return save


def change_weights(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def load(folder: Path) -> Any:
    return load_model(str(folder), NoStore())


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_nan(weights: Tensors) -> Tensors:
    weights["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"][0, 0] = float("nan")
    return weights


WRONG_WEIGHTS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "a layer under another name": (
        lambda weights: {key.replace("layers.1.", "blocks.1."): tensor for key, tensor in weights.items()},
        r"lacks weights: gpt_neox\.layers\.1\.\S+, .* and 8 more",
    ),
    "torch.compile's prefix": (
        lambda weights: {f"_orig_mod.{key}": tensor for key, tensor in weights.items()},
        r"lacks weights: .*begin with '_orig_mod\.'",
    ),
    "one missing": (
        lambda weights: {
            key: tensor for key, tensor in weights.items() if not key.endswith("0.mlp.dense_h_to_4h.bias")
        },
        r"lacks weights: gpt_neox\.layers\.0\.mlp\.dense_h_to_4h\.bias\.",
    ),
    "one of another shape": (
        lambda weights: weights | {"gpt_neox.embed_in.weight": torch.zeros(50, 16)},
        r"gpt_neox\.embed_in\.weight is 50 x 16 in the file, but 97 x 16 by its config\.json",
    ),
    "transposed": (
        lambda weights: {
            k: t.T.contiguous() if k.endswith("1.mlp.dense_h_to_4h.weight") else t for k, t in weights.items()
        },
        r"layers\.1\.mlp\.dense_h_to_4h\.weight is 16 x 32 in the file, but 32 x 16",
    ),
    "not a number": (with_nan, r"not finite numbers: gpt_neox\.layers\.1\.mlp\.dense_h_to_4h\.weight"),
    "infinite": (
        lambda weights: weights | {"gpt_neox.final_layer_norm.bias": torch.full((16,), float("-inf"))},
        r"not finite numbers: gpt_neox\.final_layer_norm\.bias",
    ),
    "8-bit floats without a scale": (
        lambda weights: {key: tensor.to(torch.float8_e4m3fn) for key, tensor in weights.items()},
        r"weights of .* are quantized: .*\(F8_E4M3\)",
    ),
    "8-bit integers": (
        lambda weights: {k: t.to(torch.int8) if k.endswith(".weight") else t for k, t in weights.items()},
        r"weights of .* are quantized: .*\(I8\)",
    ),
    "a layer more than the configuration has": (
        lambda weights: weights | {k.replace(".2.", ".3."): t.clone() for k, t in weights.items() if ".layers.2." in k},
        r"has weights that its config\.json makes no use of: gpt_neox\.layers\.3\.",
    ),
    "a bias that the configuration leaves out": (
        lambda weights: weights | {"gpt_neox.layers.0.attention.gate.bias": torch.ones(16)},
        r"makes no use of: gpt_neox\.layers\.0\.attention\.gate\.bias",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_WEIGHTS)
def test_weights_that_are_not_the_models_are_refused_by_name(saved: Callable[[str], Path], wrong: str):
    change, sentence = WRONG_WEIGHTS[wrong]
    folder = saved("gpt_neox")
    change_weights(folder, change)
    assert re.search(sentence, refusal(folder)), refusal(folder)


#: Prints by how many bytes the check of a model of 128 MiB in bfloat16 raises the most that the process ever held.
CHECK = """
import resource, torch
from tasks.models.model_weights import check_loaded

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def check(numbers):
    model = torch.nn.Module()
    model.base_model_prefix, model.weight = "model", torch.nn.Parameter(torch.ones(numbers, dtype=torch.bfloat16))
    before = most()
    check_loaded(model, dict(mismatched_keys=[], missing_keys=[], unexpected_keys=[]), {}, "a")
    return most() - before

check(1000)
print(check(1 << 26))
"""


def test_to_look_at_weights_in_bfloat16_needs_no_copy_of_them():
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1 << 25


def test_a_tied_head_need_not_be_saved(saved: Callable[[str], Path]):
    folder = saved("gpt2")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    loaded = load(folder)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


def test_a_head_that_is_not_saved_is_not_made_up(saved: Callable[[str], Path]):
    folder = saved("gpt_neox")
    change_weights(folder, lambda weights: {key: tensor for key, tensor in weights.items() if "embed_out" not in key})
    loaded = load(folder)
    assert loaded.get_output_embeddings() is None
    ids = torch.arange(8)[None]
    expected = model_of("gpt_neox").base_model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(loaded(input_ids=ids).last_hidden_state, expected)


def test_heads_and_buffers_that_are_not_used_are_no_reason_to_refuse(saved: Callable[[str], Path]):
    folder = saved("gpt2")
    buffers = {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64),
        "transformer.h.0.attn.masked_bias": torch.ones(()),
    }
    change_weights(folder, lambda weights: weights | buffers | {"classifier.weight": torch.ones(2, 16)})
    torch.testing.assert_close(load(folder).transformer.wte.weight, model_of("gpt2").transformer.wte.weight)


def test_an_encoder_without_its_pooler_and_head_is_read(tmp_path: Path):
    made = model_of("bert")
    BertModel(made.config, add_pooling_layer=False).save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, BertModel)


@pytest.mark.parametrize(
    "result",
    [
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"quantization_config": {"quant_method": "awq"}},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"quantization_config": {"quant_method": "fp8"}},
        {"quantization_config": [1]},
        {"compression_config": {"format": "pack-quantized"}},
        {"quantization": {"group_size": 64, "bits": 4}},
    ],
)
def test_a_quantized_model_is_refused_by_its_configuration_alone(saved: Callable[[str], Path], result: dict[str, Any]):
    folder = saved("gpt2")
    change_config(folder, **result)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"is quantized.*Give the model that it was made from"):
        describe_config(str(folder), NoStore())
    assert "is quantized" in refusal(folder)


def test_a_file_of_weights_that_the_configuration_names_is_not_followed(saved: Callable[[str], Path]):
    folder = saved("gpt2")
    change_config(folder, transformers_weights="pickled.bin")
    assert "transformers_weights" in refusal(folder)
    change_config(folder, text_config={"transformers_weights": None})
    assert "transformers_weights" in refusal(folder), "a section takes nothing back"
    change_config(folder, transformers_weights=None, quantization_config={"quant_method": "fp8"})
    change_config(folder, text_config={"quantization_config": None})
    assert "is quantized" in refusal(folder)


def shard(folder: Path, **weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def headed(folder: Path, header: Any) -> None:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "none": (lambda folder: None, r"no weights as safetensors.*no model\.safetensors"),
    "pickled": (lambda folder: (folder / "pytorch_model.bin").write_bytes(b"\x80\x02."), r"but pytorch_model\.bin"),
    "of llama.cpp": (lambda folder: (folder / "model-Q4.gguf").write_bytes(b"GGUF"), r"but model-Q4\.gguf"),
    "shards missing": (lambda folder: shard(folder, a="model-1.safetensors"), r"files that are missing: model-1\.safe"),
    "shards elsewhere": (lambda folder: shard(folder, a="../there/model.safetensors"), r"outside .*'\.\./there"),
    "pickled shards": (lambda folder: shard(folder, a="weights.bin"), r"files that are no safetensors.*weights\.bin"),
    "absolute shards": (lambda folder: shard(folder, a="/etc/passwd"), r"outside .*'/etc/passwd'"),
    "shards of no name": (lambda folder: shard(folder, a=3), "no weight_map from tensors to files"),
    "no shards": (lambda folder: shard(folder), "no weight_map from tensors to files"),
    "index a list": (
        lambda folder: (folder / "model.safetensors.index.json").write_text("[]"),
        "a JSON object was expected, not",
    ),
    "index nested": (
        lambda folder: (folder / "model.safetensors.index.json").write_text("[" * 100_000),
        "nested too deep",
    ),
    "empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "is no safetensors file"),
    "header too long": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}"),
        "is no safetensors file",
    ),
    "header of lists": (
        lambda folder: (folder / "model.safetensors").write_bytes((12).to_bytes(8, "little") + b'{"a": [1,2]}'),
        "is no safetensors file",
    ),
    "a shape without end": (
        lambda folder: headed(folder, {"a": {"dtype": "F32", "shape": [2] * 100_000, "data_offsets": [0, 4]}}),
        "is no safetensors file",
    ),
    "a shape beyond floats": (
        lambda folder: headed(folder, '{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}'),
        "is no safetensors file",
    ),
    "an adapter": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "holds an adapter"),
}


@pytest.mark.parametrize("files", FILES)
def test_files_that_are_no_whole_weights_are_refused_at_submit(saved: Callable[[str], Path], files: str):
    make, sentence = FILES[files]
    folder = saved("gpt2")
    (folder / "model.safetensors").unlink()
    make(folder)
    with pytest.raises(UserError, match=sentence):
        check_readable(str(folder), NoStore())
    with pytest.raises(UserError, match=sentence):
        load(folder)


def test_a_file_that_was_cut_short_is_refused_at_submit(saved: Callable[[str], Path]):
    folder = saved("gpt2")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"model\.safetensors is incomplete: \d+ bytes where its header says \d+"):
        check_readable(str(folder), NoStore())


def test_shards_are_read_as_one_model(tmp_path: Path):
    made = model_of("llama")
    made.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    check_readable(str(tmp_path), NoStore())
    torch.testing.assert_close(load(tmp_path).state_dict(), made.state_dict())


@pytest.mark.parametrize("family", ["bert", "llama", "mixtral", "mamba"])
def test_half_precision_on_disk_is_float32_on_a_cpu(tmp_path: Path, family: str):
    made = model_of(family).to(torch.bfloat16)
    made.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_a_model_with_an_encoder_and_a_decoder_is_refused_at_submit(saved: Callable[[str], Path]):
    folder = saved("gpt2")
    change_config(folder, is_encoder_decoder=True)
    with pytest.raises(UserError, match="an encoder and a decoder"):
        check_readable(str(folder), NoStore())


def test_a_job_on_weights_that_cannot_be_read_is_refused_at_submit(bench: Bench):
    from tasks.kinds import activations, extract, train

    (bench.store.path("models", "tiny") / "model.safetensors").rename(bench.root / "elsewhere")
    for kind, values in ((train, {"layer": 0}), (activations, {"layer": 0})):
        with pytest.raises(UserError, match="no weights as safetensors"):
            kind.prepare(kind.Params(model="tiny", dataset="words", **values), bench.known)
    bench.add("saes", "s")
    with pytest.raises(UserError, match="no weights as safetensors"):
        extract.prepare(extract.Params("s", model="tiny"), bench.known)


def test_what_is_loaded_is_what_was_saved(saved: Callable[[str], Path]):
    for family, made_by in (("bert", AutoModelForCausalLM), ("distilbert", AutoModel), ("bloom", AutoModelForCausalLM)):
        folder = saved(family)
        expected = made_by.from_pretrained(folder)
        torch.testing.assert_close(load(folder).state_dict(), expected.state_dict())
