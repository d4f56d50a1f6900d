"""The sites of a block that can be read and written, listed without torch, so that options can name one.

`resid` is the residual stream after the block (its output); `attn` and `mlp` are what attention and MLP add to that
stream; `mlp-in` is what the MLP reads. See tasks.activations.hooks for where in a model they are.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Each site's name in TransformerLens, within `blocks.L.`. Its `ln2.hook_normalized` is not what the MLP reads: the
#: norm's weights come after it.
SITES = {"resid": "hook_resid_post", "mlp": "hook_mlp_out", "attn": "hook_attn_out", "mlp-in": "mlp.hook_in"}


@dataclass(frozen=True)
class Hook:
    """A place in a model: one of the SITES of block `layer`, counted from 0."""

    site: str
    layer: int
