"""The base class of sparse autoencoders: weights, encoder, decoder, and the contract of one training step.

An architecture adds how pre-activations become codes, its loss, and a hand-written gradient of that loss. The gradient
is written out because it can be several times faster than autograd on a CPU; `slow_loss` is the same loss in plain
autograd, and the tests hold the two together.

A coder is a plain class with plain tensors, not an `nn.Module`: a command that lists an architecture's options must not
wait for torch to be imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from tasks.errors import UserError
from tasks.lazy_import import torch
from tasks.sae.ops.active_pairs import AllPairs, Pairs
from tasks.sae.ops.preactivations import Exact, Preactivations, Rounded

if TYPE_CHECKING:
    from torch import Tensor

#: In what products are computed: see docs/training.md.
FLOAT32, TF32, BF16 = PRECISIONS = ("float32", "tf32", "bf16")
#: Decoder rows that are brought back to length 1 together on a CPU.
AT_ONCE = 256
#: Numbers in the codes of a slice, where those of many vectors are made one slice after another.
SLICE_NUMBERS = 1 << 22


@dataclass(frozen=True)
class CoderConfig:
    """What a coder is before it has learned anything. `options` are the architecture's own; None: its defaults.

    A transcoder writes vectors of another place than it reads: `d_out` is their length, None where it is none. `skip`
    gives a transcoder a linear way past the features. A crosscoder's vectors are those of `blocks` layers,
    side by side.
    """

    architecture: str
    d_in: int
    d_sae: int
    options: Any = None
    d_out: int | None = None
    skip: bool = False
    blocks: int = 1


@dataclass(frozen=True)
class CoderOptions:
    """What one may choose of an architecture: a field with `tasks.jobs.kind.option` for each choice."""

    def label(self) -> str:
        """The mark of these options in a name, which distinguishes two choices."""
        return ""

    def check(self, d_sae: int) -> None:
        """Raise UserError for an option that cannot work with `d_sae` features."""


class StepState(NamedTuple):
    """What of a training's course a step depends on."""

    dead: Tensor  # int64 indices of the features that have not fired for long
    pressure: float = 1.0  # 0…1, scales the sparsity penalty while it warms up
    progress: float = 0.0  # 0…1, the fraction of training steps done


class StepLosses(NamedTuple):
    """What one training step saw; 0-dimensional tensors, so that reading them can wait."""

    loss: Tensor  # the sum of the next three
    reconstruction: Tensor  # mean over the batch of the squared L2 error, of nested dictionaries their mean
    sparsity: Tensor  # the penalty on codes, weighted
    auxiliary: Tensor  # what else the architecture adds, weighted
    l0: Tensor  # mean number of active features
    error: Tensor  # mean over the batch of the squared L2 error of the whole dictionary
    fired: Tensor  # (d_sae,) bool: features active anywhere in the batch


class Coder:
    """A dictionary of `d_sae` directions in R^d_out, and an encoder to it.

    `W_enc` (d_sae, d_in) and `W_dec` (d_sae, d_out) both have one row a feature: the layout that the sparse passes read
    row by row. An autoencoder's encoder reads x - b_dec (Bricken et al. 2023, "Towards Monosemanticity", appendix; Gao
    et al. 2024, "Scaling and evaluating sparse autoencoders", section 2), a transcoder's reads x (Dunefsky et al. 2024,
    arXiv:2406.11944, section 3).
    """

    Options: ClassVar[type[CoderOptions]] = CoderOptions
    #: What is trained, and what else a checkpoint must hold; names of attributes that are tensors.
    parameter_names: ClassVar[tuple[str, ...]] = ("W_enc", "b_enc", "W_dec", "b_dec")
    buffer_names: ClassVar[tuple[str, ...]] = ()
    #: Length of the encoder's rows at the start, relative to the decoder's.
    encoder_init: ClassVar[float] = 1.0
    #: The architecture, as SAELens names it, whose codes a trained one has.
    saved_as: ClassVar[str]

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    W_skip: Tensor

    def __init__(self, config: CoderConfig, seed: int = 0) -> None:
        self.config = config
        self.options: Any = self.Options() if config.options is None else config.options
        self.is_transcoder = config.d_out is not None
        d_out = config.d_out or config.d_in
        generator = torch.Generator().manual_seed(seed)
        self.W_dec = _directions(config.d_sae, d_out, generator)
        read = self.W_dec if not self.is_transcoder else _directions(config.d_sae, config.d_in, generator)
        self.W_enc = read * self.encoder_init
        self.b_enc = torch.zeros(config.d_sae)
        self.b_dec = torch.zeros(d_out)
        self._names = self.parameter_names
        if config.skip:
            self.W_skip = torch.zeros(d_out, config.d_in)
            self._names = (*self._names, "W_skip")
        self._scratch: dict[str, Tensor] = {}
        #: In what active features are chosen in training: see `tasks.sae.ops.preactivations`. Values are float32's
        #: always.
        self.precision = FLOAT32
        #: Vectors whose features were chosen in bfloat16, and for how many of them float32 might have chosen others.
        self.chosen, self.unsure = 0, torch.zeros((), dtype=torch.int64)
        self.begin()

    def begin(self) -> None:
        """Make the parameters and buffers that the architecture adds."""

    # -- what an architecture is ----------------------------------------------------------------------------------

    def activate(self, pre: Tensor) -> Tensor:
        """Codes of (n, d_sae) pre-activations: (n, d_sae), not negative, mostly zero."""
        return self.activate_at(AllPairs(slice(None)), pre)

    def activate_at(self, pairs: Pairs, pre: Tensor) -> Tensor:
        """Codes of pre-activations at some pairs, where each is made of its own pre-activation alone."""
        raise NotImplementedError

    def floor(self) -> Tensor | float:
        """What a pre-activation must exceed or its code is zero: (d_sae,), or one number for all features."""
        return 0.0

    def active(self, pre: Preactivations) -> Iterator[tuple[Pairs, Tensor]]:
        """Pairs among which are all active ones, and their codes, as the saved SAE has them."""
        for pairs in pre.exceeding(self.floor()):
            yield pairs, self.activate_at(pairs, pre.at(pairs))

    def step(self, x: Tensor, target: Tensor, step_state: StepState) -> StepLosses:
        """Write the loss's gradient into `.grad` of every parameter.

        `x` is (batch, d_in); `target` is (batch, d_out), for an autoencoder `x` itself.
        """
        raise NotImplementedError

    def slow_loss(self, x: Tensor, target: Tensor, step_state: StepState) -> Tensor:
        """The loss whose gradient `step` writes, for autograd: the oracle of the tests."""
        raise NotImplementedError

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors that make up the saved form, by SAELens' names, rows as here; and what its `cfg.json` adds."""
        return dict(self.parameters), {}

    def calibrate(self, vectors: Iterable[Tensor], count: int) -> None:
        """Fit what the saved form has besides the parameters, to `count` scaled vectors that come in pieces.

        Most architectures have nothing of that kind and read none of them.
        """

    def calibration_size(self, wanted: int) -> int:
        """How many of the wanted vectors `calibrate` takes: none of most architectures."""
        return 0

    @classmethod
    def options_of(cls, config: dict[str, Any]) -> Any:
        """Options by which a coder has the codes of a saved SAE whose `cfg.json` says this."""
        return cls.Options()

    # -- what all share ---------------------------------------------------------------------------------------------

    def encode(self, x: Tensor) -> Tensor:
        """Codes of (n, d_in) activations: (n, d_sae)."""
        return self.activate(self.preactivations(x))

    def codes(self, x: Tensor) -> Tensor:
        """The same, of features that are chosen in the coder's precision."""
        pre = self.project(x)
        if pre.is_exact:
            return self.activate(pre.dense)
        made = x.new_zeros(len(x), self.config.d_sae)
        for pairs, values in self.active(pre):
            pairs.fill(made, values)
        return made

    def decode(self, codes: Tensor) -> Tensor:
        """(n, d_sae) codes -> (n, d_out) reconstructions; a skip transcoder's lack what goes past the features."""
        return codes @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """(n, d_in) -> the reconstruction of its target, (n, d_out); no (n, d_sae) tensor is made of many."""
        return torch.cat([self.complete(self.encode(part), part) for part in x.split(self.slice_rows)])

    def complete(self, codes: Tensor, x: Tensor) -> Tensor:
        """What these codes of `x` decode to, with what goes past the features: (n, d_out)."""
        made = self.decode(codes)
        return made + x @ self.W_skip.T if self.config.skip else made

    __call__ = forward

    def preactivations(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """(n, d_in) -> W_enc (x - b_dec) + b_enc, (n, d_sae): b_dec is folded into the bias, so x is read once."""
        return torch.addmm(self.bias(), x, self.W_enc.T, out=out)

    def project(self, x: Tensor) -> Preactivations:
        """Pre-activations of (batch, d_in), to choose active features by and to read, in the coder's precision."""
        if self.precision == BF16 and len(x):
            made = Rounded(self, x)
            if made.is_finite():
                return made
        return Exact(self.preactivations(x, out=self.scratch("pre", len(x))))

    def bias(self) -> Tensor:
        """What the encoder adds to W_enc x: (d_sae,)."""
        own = self.own_bias()
        return own if self.is_transcoder else own - self.W_enc @ self.b_dec

    def own_bias(self) -> Tensor:
        """What the encoder adds to W_enc (x - b_dec), of a transcoder to W_enc x: (d_sae,)."""
        return self.b_enc

    @property
    def slice_rows(self) -> int:
        """How many vectors' codes are made at once where those of many are: what they hold is bounded."""
        return max(1, SLICE_NUMBERS // self.config.d_sae)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """What is trained, by name."""
        return {name: getattr(self, name) for name in self._names}

    @property
    def state(self) -> dict[str, Tensor]:
        """The parameters, and what else changes in training."""
        return {**self.parameters, **{name: getattr(self, name) for name in self.buffer_names}}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up the tensors of a state with the same names; UserError for one that is missing or of another shape."""
        for name, tensor in self.state.items():
            fill(name, tensor, state)

    def to(self, device: str) -> Coder:
        """The same coder, on that device from now on."""
        for name, tensor in self.state.items():
            setattr(self, name, tensor.to(device))
        self._scratch.clear()
        self.unsure = self.unsure.to(device)
        return self

    @property
    def unsure_fraction(self) -> float | None:
        """Of vectors whose features were chosen in bfloat16 the fraction for which float32 might have chosen others."""
        return int(self.unsure) / self.chosen if self.chosen else None

    def scratch(self, name: str, rows: int, dtype: torch.dtype | None = None, columns: int | None = None) -> Tensor:
        """A (rows, d_sae) buffer that is used again at each step: fresh memory costs more than filling it.

        It has another type and number of columns where that is said.
        """
        held = self._scratch.get(name)
        if held is None or len(held) < rows:
            held = self._scratch[name] = self.W_enc.new_empty(rows, columns or self.config.d_sae, dtype=dtype)
        return held[:rows]

    def lengths(self) -> Tensor:
        """The lengths of the decoder's rows, for each layer that a crosscoder writes: (d_sae, blocks)."""
        return self.W_dec.unflatten(1, (self.config.blocks, -1)).norm(dim=2)

    @property
    def has_unit_decoder(self) -> bool:
        """Whether the decoder's rows are kept at length 1."""
        return True

    def constrain_gradient(self) -> None:
        """Remove what would only change the length of decoder rows (Bricken et al. 2023; Gao et al. 2024, A.1)."""
        if not self.has_unit_decoder:
            return
        assert self.W_dec.grad is not None
        for gradient, rows in zip(*map(_slices, (self.W_dec.grad, self.W_dec)), strict=True):
            gradient.addcmul_(rows, torch.linalg.vecdot(gradient, rows)[:, None], value=-1)

    def constrain(self) -> None:
        """Bring parameters back to where they may be, after the optimizer's step: the decoder's rows to length 1."""
        if self.has_unit_decoder:
            for rows in _slices(self.W_dec):
                rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(1e-8))


def fill(name: str, tensor: Tensor, state: Mapping[str, Tensor]) -> None:
    """Copy the tensor of that name into one of exactly the same shape, which `copy_` alone would broadcast to."""
    if name not in state:
        raise UserError(f"The SAE has no {name} among its weights.")
    if state[name].shape != tensor.shape:
        found, expected = tuple(state[name].shape), tuple(tensor.shape)
        raise UserError(f"Tensor {name} has shape {found}, expected {expected}.")
    tensor.copy_(state[name])


def default_rate(d_sae: int) -> float:
    """Adam's rate by width: it falls with the square root of the number of features (Gao et al. 2024, figure 3).

    Four times theirs, which is tuned for hundreds of thousands of steps: a training of a thousand steps at theirs
    leaves twice the error.
    """
    return 8e-4 / math.sqrt(d_sae / 2**14)


def _slices(rows: Tensor) -> tuple[Tensor, ...]:
    """As many rows at once as stay in a CPU's cache from one pass to the next; on another device all of them."""
    return rows.split(AT_ONCE if rows.device.type == "cpu" else max(1, len(rows)))


def _directions(rows: int, length: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(rows, length, generator=generator)
    return drawn / drawn.norm(dim=1, keepdim=True)
