"""The strongest examples of every feature from one pass over the data, in memory that does not grow.

Each row of tokens (context) gives a feature at most one example: its peak there, so ten examples are ten contexts. A
row is looked at further only if its peak exceeds the feature's current k-th value; the survivors are sorted, and only
the features they touch are merged.

State: (features, k) values and positions and (features, k, 2 * window + 1) activations around them. The oracle in the
tests is `torch.topk` over all rows at once.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from tasks.parsing.tensor_files import read_notes, save_tensors

_STATE = ("values", "positions", "around", "fired", "contexts")


class TopExamples:
    """The k strongest examples of each feature so far, and how often each fired.

    Ties keep the earlier position, within a row and between rows, so the outcome does not depend on how the stream is
    cut into batches. An activation of zero or less is no firing. A row in which a feature has a NaN gives that feature
    no example; `not_finite` counts such (row, feature) pairs and those that peak at infinity.
    """

    def __init__(self, features: int, k: int, window: int, device: str = "cpu") -> None:
        """`window` is how many activations are kept on each side of a peak."""
        self.k = k
        self.offsets = torch.arange(-window, window + 1, device=device)
        self.values = torch.full((features, k), -torch.inf, device=device)  # descending
        self.positions = torch.full((features, k), -1, dtype=torch.int64, device=device)  # row * context + column
        self.around = torch.zeros(features, k, 2 * window + 1, device=device)  # zero outside the row
        self.fired = torch.zeros(features, dtype=torch.int64, device=device)  # tokens
        self.contexts = torch.zeros(features, dtype=torch.int64, device=device)  # rows
        self.not_finite = 0

    @torch.no_grad()
    def update(self, acts: torch.Tensor, numbers: torch.Tensor) -> None:
        """Add rows: acts is (rows, context, features) float32, `numbers` (rows,) int64 are the rows' ascending numbers.

        A number must be larger than all before it.
        """
        peaks, columns = acts.max(dim=1)  # (rows, features); the first column among equals
        self.fired += (acts > 0).flatten(0, 1).sum(0)
        self.contexts += (peaks > 0).sum(0)
        self.not_finite += int((~torch.isfinite(peaks)).sum())
        bar = self.values[:, -1].clamp(min=0)  # what an example must exceed
        rows, features = torch.nonzero(peaks > bar, as_tuple=True)  # rows ascend within a feature
        values = peaks[rows, features]
        order = torch.argsort(values, descending=True, stable=True)
        order = order[torch.argsort(features[order], stable=True)]  # by feature, then value, then row
        rank = _rank(features[order], len(self.fired))
        order, rank = order[rank < self.k], rank[rank < self.k]
        rows, features, values = rows[order], features[order], values[order]
        columns = columns[rows, features]
        positions = numbers.to(rows.device)[rows] * acts.shape[1] + columns
        self._merge(features, rank, values, positions, self._look_around(acts, rows, columns, features))

    def save(self, path: Path, next_row: int) -> None:
        """Replace the file whole with the state before the `next_row`-th row."""
        draft = path.with_name(path.name + ".part")
        metadata = {"next_row": str(next_row), "not_finite": str(self.not_finite)}
        save_tensors(draft, {name: getattr(self, name) for name in _STATE}, metadata)
        draft.replace(path)

    def resume(self, path: Path) -> int:
        """Take up the state in the file and return which row comes next; 0 when there is none that can be read.

        Nor is one that keeps another number of examples, or more around them.
        """
        if read_notes(path) is None:
            return 0
        with safe_open(path, "pt") as file:
            if tuple(file.get_slice("around").get_shape()) != self.around.shape:
                return 0
            for name in _STATE:
                getattr(self, name).copy_(file.get_tensor(name))
            metadata = file.metadata()
        self.not_finite = int(metadata["not_finite"])
        return int(metadata["next_row"])

    def _look_around(
        self, acts: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """The activations around n peaks: (n, 2 * window + 1), zero outside the row."""
        at = columns[:, None] + self.offsets
        inside = (at >= 0) & (at < acts.shape[1])
        return acts[rows[:, None], at.clamp(0, acts.shape[1] - 1), features[:, None]] * inside

    def _merge(
        self,
        features: torch.Tensor,
        rank: torch.Tensor,
        values: torch.Tensor,
        positions: torch.Tensor,
        around: torch.Tensor,
    ) -> None:
        """Merge n examples, sorted by feature and ranked within it, into the rows of the features they touch."""
        touched, place = torch.unique_consecutive(features, return_inverse=True)
        shape = (len(touched), self.k)
        new_values = values.new_full(shape, -torch.inf).index_put((place, rank), values)
        new_positions = positions.new_full(shape, -1).index_put((place, rank), positions)
        new_around = around.new_zeros(*shape, around.shape[1]).index_put((place, rank), around)
        both = torch.cat([self.values[touched], new_values], 1)
        best, order = both.sort(dim=1, descending=True, stable=True)  # the old ones, which came earlier, win ties
        order = order[:, : self.k]
        self.values[touched] = best[:, : self.k]
        self.positions[touched] = torch.cat([self.positions[touched], new_positions], 1).gather(1, order)
        wide = order[:, :, None].expand(-1, -1, around.shape[1])
        self.around[touched] = torch.cat([self.around[touched], new_around], 1).gather(1, wide)


def _rank(features: torch.Tensor, count: int) -> torch.Tensor:
    """The place of each entry within its run of equal features: (n,) int64, for sorted features."""
    sizes = torch.bincount(features, minlength=count)
    starts = sizes.cumsum(0) - sizes
    return torch.arange(len(features), device=features.device) - starts[features]
