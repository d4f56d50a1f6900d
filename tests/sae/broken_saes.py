"""Ways to break an SAE folder: what a cut download, a careless script or a hostile hand leaves."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.sae.broken_npz import break_npz
from tests.sae.sound_saes import SOUND

Draw = random.Random


def _files(folder: Path, *endings: str) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not endings or path.suffix in endings)


def _any(folder: Path, draw: Draw, *endings: str) -> Path:
    return draw.choice(_files(folder, *endings))


def cut(folder: Path, draw: Draw) -> None:
    path = _any(folder, draw)
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def emptied(folder: Path, draw: Draw) -> None:
    _any(folder, draw).write_bytes(b"")


def zeroed(folder: Path, draw: Draw) -> None:
    path = _any(folder, draw)
    path.write_bytes(bytes(path.stat().st_size))


def flipped(folder: Path, draw: Draw) -> None:
    path = _any(folder, draw)
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 3, 30])):
        data[draw.randrange(min(len(data), 600))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def longer(folder: Path, draw: Draw) -> None:
    with _any(folder, draw).open("ab") as file:
        file.write(draw.randbytes(draw.choice([1, 100])))


def another_kind(folder: Path, draw: Draw) -> None:
    """A folder, a pipe, a socket or a link in a file's place."""
    path = _any(folder, draw)
    kept = path.with_name("kept.bin")
    path.rename(kept)
    way = draw.choice(["folder", "pipe", "socket", "out", "device", "nowhere", "itself", "inside"])
    if way == "folder":
        path.mkdir()
    elif way == "pipe":
        os.mkfifo(path)
    elif way == "socket":
        here = os.open(folder, os.O_RDONLY)  # an address of a socket is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)
    else:
        aims = {
            "out": "/etc/passwd",
            "device": "/dev/zero",
            "nowhere": "gone",
            "itself": path.name,
            "inside": "kept.bin",
        }
        path.symlink_to(aims[way])


def gone(folder: Path, draw: Draw) -> None:
    _any(folder, draw).unlink()


ODD = (
    None,
    True,
    False,
    -1,
    0,
    1.5,
    "x",
    "",
    [],
    {},
    1e308,
    2**70,
    [None, "x"],
    {"a": {"b": []}},
    "\ud800",
    "\u001b[31m",
)


def _json_path(folder: Path, draw: Draw) -> Path:
    there = _files(folder, ".json")
    if not there:  # Gemma Scope has none: of sparsify and Gemma Scope 2 one may be beside
        path = folder / "mistudio.json"
        path.write_text("{}")
        return path
    return draw.choice(there)


def odd_json(folder: Path, draw: Draw) -> None:
    """Something else than an object, or what JSON has no word for."""
    path = _json_path(folder, draw)
    text = path.read_text()
    path.write_bytes(
        draw.choice(
            [
                b"[]",
                b"null",
                b"3",
                b'"x"',
                b"",
                b"[" * 100_000,
                b'{"a":' * 300 + b"1" + b"}" * 300,
                text.replace("}", ', "b": NaN}', 1).encode(),
                text.replace("}", ', "b": -Infinity}', 1).encode(),
                text.replace("}", ', "b": 1e999}', 1).encode(),
                text.replace("}", ', "b": 1, "b": 2}', 1).encode(),
                b"\xef\xbb\xbf" + text.encode(),
                text.encode("utf-16"),
                text.encode() + b"\xe9",
                b" " * (5 << 20),
                b'{"a": ' + b"9" * 5000 + b"}",
                text.encode() + b"{}",
                text.encode()[::-1],
            ]
        )
    )


def odd_field(folder: Path, draw: Draw) -> None:
    """A field of any type in the place of another, in the description or within it."""
    path = _json_path(folder, draw)
    result = json.loads(path.read_text())
    inner = result["metadata"] if isinstance(result.get("metadata"), dict) and draw.random() < 0.5 else result
    inner[draw.choice(sorted(inner) or ["a"])] = draw.choice(ODD)
    path.write_text(json.dumps(result))


#: Fields with a meaning, and values of them that are wrong, or change what the SAE is.
MEANT: dict[str, tuple[Any, ...]] = {
    "k": (0, -1, 25, 2**40, True, 2.0, "3", None),
    "d_in": (0, 7, 9, "8", 8.0, True, 10**12),
    "d_sae": (0, 23, 25, 10**12, None),
    "architecture": ("temporal", "", "p_anneal", "batchtopk", "topk_transcoder", "standard_crosscoder", ["topk"], 3),
    "normalize_activations": ("layer_norm", "expected_average_only_in", "constant_norm_rescale", "x", 2, [], True),
    "apply_b_dec_to_input": ("yes", 1, None, 0),
    "rescale_acts_by_decoder_norm": ("yes", 1, True),
    "reshape_activations": ("hook_z", 5),
    "dtype": ("float8", "int8", 32, None, "bfloat16"),
    "activation_fn": ("tanh-relu", "topk", "relu", 7, ["relu"]),
    "blocks": (0, 2, 3, "2", True),
    "width": (23, "16k", 24),
    "signed": (True,),
    "num_latents": (23, 0, "24"),
    "skip_connection": (True, 1),
    "transcode": (True, "no"),
    "type": ("crosscoder", "clt", 3),
    "hf_hook_point_in": (3, None, "", "model.layers.2.mlp"),
    "a_new_field": (1, "x", {"y": 2}),
}
MEANT_METADATA: dict[str, tuple[Any, ...]] = {
    "seqpos_slice": ([5, None], [1, -1], [0, 64, 2], [0, 8, 0], [1, 2, 3, 4], "1:", [1.5], [True], 5, [10**20]),
    "prepend_bos": ("yes", 1, False),
    "exclude_special_tokens": (True, [1, 2], [-1], ["x"], 3),
    "hook_head_index": (0, 3),
    "hook_name": ("blocks.0.hook_resid_pre", "blocks.4.hook_resid_pre", "transformer.h.5", 3, "blocks.x.y", "\ud800"),
    "hook_layer": (4, -1, "3"),
    "context_size": (0, -1, "64", 1.5),
    "model_from_pretrained_kwargs": (
        {"center_writing_weights": "yes"},
        {"fold_the_moon": True},
        {"revision": "step3"},
        [1],
        {"fold_ln": True},
    ),
    "a_new_field": (1, "x"),
}


def meant_field(folder: Path, draw: Draw) -> None:
    path = _json_path(folder, draw)
    result = json.loads(path.read_text())
    if isinstance(result.get("metadata"), dict) and draw.random() < 0.5:
        name = draw.choice(sorted(MEANT_METADATA))
        result["metadata"] = {**result["metadata"], name: draw.choice(MEANT_METADATA[name])}
    else:
        name = draw.choice(sorted(MEANT))
        result[name] = draw.choice(MEANT[name])
    path.write_text(json.dumps(result))


def _tensors(folder: Path, draw: Draw, change: Callable[[dict[str, Any], str], None]) -> None:
    """Change a tensor, whichever the form keeps it in."""
    path = _any(folder, draw, ".safetensors", ".npz")
    if path.suffix == ".npz":
        with np.load(path) as file:
            held: dict[str, Any] = {name: torch.from_numpy(file[name]) for name in file.files}
        change(held, draw.choice(sorted(held)))
        arrays = {name: tensor.numpy() for name, tensor in held.items() if tensor.dtype is not torch.bfloat16}
        np.savez(path, **arrays)
        return
    held = load_file(path)
    change(held, draw.choice(sorted(held)))
    path.unlink()
    save_file({name: tensor.clone().contiguous() for name, tensor in held.items()}, path)


def shaped_otherwise(folder: Path, draw: Draw) -> None:
    def change(held: dict[str, Any], name: str) -> None:
        tensor = held[name].reshape(-1) if not held[name].ndim else held[name]
        held[name] = draw.choice(
            [
                tensor.flatten()[0],
                tensor.flatten()[:1],
                tensor.T if tensor.ndim > 1 else tensor[:, None],
                tensor[None],
                tensor[:0],
                torch.cat([tensor, tensor]),
                tensor[:-1],
                tensor.flatten(),
                tensor[..., :-1],
                tensor.expand(2, *tensor.shape),
            ]
        )

    _tensors(folder, draw, change)


def named_otherwise(folder: Path, draw: Draw) -> None:
    def change(held: dict[str, Any], name: str) -> None:
        way = draw.choice(["missing", "extra", "renamed"])
        if way == "extra":
            held["another"] = held[name].clone()
        else:
            tensor = held.pop(name)
            held |= {f"{name}_orig": tensor} if way == "renamed" else {}

    _tensors(folder, draw, change)


def not_finite(folder: Path, draw: Draw) -> None:
    def change(held: dict[str, Any], name: str) -> None:
        flat = held[name].clone().flatten()
        flat[draw.randrange(len(flat))] = draw.choice([float("nan"), float("inf"), float("-inf")])
        held[name] = flat.reshape(held[name].shape)

    _tensors(folder, draw, change)


_TYPES = (
    *(torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.uint8, torch.bool),
    *(torch.float8_e4m3fn, torch.complex64),
)


def typed_otherwise(folder: Path, draw: Draw) -> None:
    def change(held: dict[str, Any], name: str) -> None:
        held[name] = held[name].to(draw.choice(_TYPES[:7] if (folder / "params.npz").exists() else _TYPES))

    _tensors(folder, draw, change)


def too_large(folder: Path, draw: Draw) -> None:
    def change(held: dict[str, Any], name: str) -> None:
        held[name] = held[name].double() * 1e300

    _tensors(folder, draw, change)


def odd_header(folder: Path, draw: Draw) -> None:
    """A header of safetensors that promises what is not there."""
    there = _files(folder, ".safetensors")
    path = draw.choice(there) if there else folder / "sparsity.safetensors"
    data = path.read_bytes() if there else b"\x02" + bytes(7) + b"{}"
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    entry = header.get(draw.choice(sorted(header))) if header else {}
    way = draw.choice(
        ["length", "large", "deep", "twice", "type", "negative", "huge", "overlap", "list", "text", "past"]
    )
    if way == "length":
        path.write_bytes(struct.pack("<Q", draw.choice([2**63, 2**64 - 1, 10**8, length + 1, 0])) + data[8:])
        return
    text = json.dumps(header).encode()
    if way == "large":
        text += b" " * (5 << 20)
    elif way == "deep":
        text = b'{"a":' * 50_000
    elif way == "twice":
        text = text[:-1] + b", " + text[1:] if header else b'{"a": 1, "a": 2}'
    elif way == "list":
        text = b"[1, 2]"
    elif way == "text":
        text = b"\xff" + text[1:]
    else:
        changes = {"type": {"dtype": "Q9"}, "negative": {"shape": [-1, 8]}, "huge": {"shape": [10**12, 10**12]}}
        changes |= {"overlap": {"data_offsets": [0, 4]}, "past": {"data_offsets": [0, 10**15]}}
        entry.update(changes[way])
        text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def odd_npz(folder: Path, draw: Draw) -> None:
    """In a folder of another form, something else in a file's place."""
    path = folder / "params.npz"
    if path.exists():
        break_npz(path, draw)
    else:
        another_kind(folder, draw)


BREAKS: tuple[Callable[[Path, Draw], None], ...] = (
    *(cut, emptied, zeroed, flipped, longer, another_kind, gone, odd_json, odd_field, meant_field, meant_field),
    *(shaped_otherwise, named_otherwise, not_finite, typed_otherwise, too_large, odd_header, odd_npz),
)


def break_one(folder: Path, number: int, seed: int) -> str:
    """Make the folder number `number`, broken in one way; what was done."""
    draw = random.Random(f"{seed}-{number}")
    form = sorted(SOUND)[number % len(SOUND)]
    way = BREAKS[number // len(SOUND) % len(BREAKS)]
    shutil.rmtree(folder, ignore_errors=True)
    SOUND[form](folder)
    way(folder, draw)
    return f"{form}, {way.__name__}"
