"""Hook points: where in a model a site is, what TransformerLens calls it, and the proof that it is the right module.

The sites are those of tasks.activations.hook_sites. Modules are found by the names that families of models give them,
never by their order, and believed only when a block's input, `attn` and `mlp` add up to its output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from tasks.activations.hook_sites import SITES, Hook
from tasks.errors import UserError
from tasks.models.blocks import first_tensor, prove_blocks, run_base, some_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: What TransformerLens calls otherwise: the normed output of a block that norms the sums, as BERT's; the input of an
#: MLP that is no module of its own.
_NORMED, _SPLIT = {"resid": "hook_normalized_resid_post"}, {"mlp-in": "mlp.in.hook_in"}


class _Form(NamedTuple):
    """The modules of a kind of block, by their paths within it.

    `norms` are those of a block that norms the sums: after attention was added, and after the MLP was.
    """

    attn: str
    mlp: str
    mlp_in: str
    norms: tuple[str, str] | None = None


#: The first part of an MLP whose parts are in the block itself.
_INNER = {"fc1", "intermediate"}
_OPT_NORMS = ("self_attn_layer_norm", "final_layer_norm")
#: The first one whose modules a block has and which adds up is its form: the special ones come before the plain ones.
_FORMS = [
    _Form("attention.output.dense", "output.dense", "intermediate", ("attention.output.LayerNorm", "output.LayerNorm")),
    _Form("attention", "ffn", "ffn", ("sa_layer_norm", "output_layer_norm")),  # DistilBERT
    _Form("post_attention_layernorm", "post_feedforward_layernorm", "mlp"),  # Gemma 2 and 3, OLMo 2: normed, then added
    _Form("post_self_attn_layernorm", "post_mlp_layernorm", "mlp"),  # GLM 4
    _Form("self_attn", "fc2", "fc1", _OPT_NORMS),  # OPT where it norms the sums
    _Form("self_attn", "fc2", "fc1"),  # OPT else, XGLM, BioGPT
    _Form("self_attention.dense", "mlp.dense_4h_to_h", "mlp"),  # BLOOM adds inside its modules; Falcon
    _Form("attn", "ffn.down_proj", "ffn"),  # MPT
    *(
        _Form(attn, mlp, mlp)
        for attn, mlp in product(
            ("self_attn", "attn", "attention", "self_attention"), ("mlp", "block_sparse_moe", "feed_forward", "ffn")
        )
    ),
]


class HookPoint(NamedTuple):
    """A hook found in a model: TransformerLens' name of it, the module, and whether what that one reads is caught.

    `position_first` is whether it passes (position, batch, d) and not (batch, position, d).
    """

    name: str
    module: str
    input: bool = False
    position_first: bool = False


def point_named(name: str, module: str) -> HookPoint:
    """The point that an artifact names; only what is called an input is caught before its module."""
    return HookPoint(name, module, input=name.endswith(".hook_in"))


def find(model: PreTrainedModel, hook: Hook) -> HookPoint:
    """Where in `model` the hook is.

    Raises UserError for a layer or a site that the model does not have, for blocks that are not proven and for one that
    does not add up. All sites but `resid` cost forward passes of a few tokens up to that layer, to see that.
    """
    blocks = prove_blocks(model)
    if not 0 <= hook.layer < len(blocks.modules):
        raise UserError(f"There is no layer {hook.layer}: the model's layers are 0 to {len(blocks.modules) - 1}.")
    block, name = f"{blocks.path}.{hook.layer}", f"blocks.{hook.layer}."
    if hook.site == "resid":
        name += (_NORMED if blocks.normed[hook.layer] else SITES)["resid"]
        return HookPoint(name, block, position_first=blocks.position_first)
    form = next((form for form in _forms_of(blocks.modules[hook.layer]) if _adds_up(model, block, form)), None)
    if form is None:
        raise UserError(
            f"What attention and MLP add to the residual stream of a {type(model).__name__} could not be found.",
            "Use --hook resid, the output of the block",
        )
    name += (SITES | (_SPLIT if form.mlp_in in _INNER else {}))[hook.site]
    module = {"attn": form.attn, "mlp": form.mlp, "mlp-in": form.mlp_in}[hook.site]
    return HookPoint(name, f"{block}.{module}", hook.site == "mlp-in")


def find_again(model: PreTrainedModel, metadata: dict[str, Any]) -> HookPoint:
    """Find the hook in `model` that an SAE's metadata name: `hook_name`, and `hook_module` if there is one.

    The module's path may begin at the list of layers: sparsify's does, and is taken over as it is.
    Raises UserError as `find` does, for a name that is not understood here, and for a model in which the hook is called
    otherwise or belongs to another module.
    """
    _, layer, site = (*str(metadata["hook_name"]).split(".", 2), "", "")[:3]
    sites = {name: site for names in (SITES, _NORMED, _SPLIT) for site, name in names.items()}
    if site not in sites or not layer.isdigit():
        raise UserError(f"The SAE was trained on {metadata['hook_name']}, which is not known here.")
    point = find(model, Hook(sites[site], int(layer)))
    name, module = metadata["hook_name"], metadata.get("hook_module") or point.module
    if point.name != name or not _is_same_module(point.module, module):
        raise UserError(
            f"The SAE was trained on {name} ({module}); this model has {point.name} ({point.module}).",
            "Give --model, the model that it was trained on",
        )
    return point


def _is_same_module(one: str, other: str) -> bool:
    """Whether one path is the end of the other: a model with a head has a word more before its blocks."""
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")


def find_all_again(model: PreTrainedModel, description: dict[str, Any]) -> list[HookPoint]:
    """The same for all that a coder reads: several hooks for a crosscoder, `hook_names` and `hook_modules`."""
    names = description.get("hook_names") or [description["hook_name"]]
    modules = description.get("hook_modules") or [description.get("hook_module")]
    pairs = zip(names, modules, strict=True)
    return [find_again(model, {"hook_name": name, "hook_module": module}) for name, module in pairs]


class _Reached(Exception):
    """All points have answered; nothing after the last one is needed."""


@torch.no_grad()
def catch(model: PreTrainedModel, points: Sequence[HookPoint], inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """What passes the points in one forward pass, which ends with the last of them: each (batch, context, d) float32.

    `inputs` go to the model without its head, so logits are never computed; `input_ids` (batch, context) is one of
    them. The tensors are on the model's device. The hooks are gone when this returns or raises.
    """
    found: dict[HookPoint, torch.Tensor] = {}
    shape = inputs["input_ids"].shape

    def keep(point: HookPoint, tensor: torch.Tensor) -> None:
        found.setdefault(point, _by_position(point, tensor, shape).to(torch.float32, copy=True))
        if len(found) == len(set(points)):
            raise _Reached

    with watched(model, set(points), keep), suppress(_Reached):
        run_base(model, inputs)
    if len(found) < len(set(points)):
        missing = ", ".join(point.module for point in set(points) - set(found))
        raise UserError(f"A {type(model).__name__} does not run {missing}, so nothing can be read there.")
    return [found[point] for point in points]


def _by_position(point: HookPoint, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """(batch, context, d) of what passes a point; some modules get (tokens, d). UserError for any other shape."""
    if isinstance(tensor, torch.Tensor):
        if point.position_first and tensor.shape[:2] == shape[::-1]:
            return tensor.transpose(0, 1).flatten(2)
        if tensor.ndim > 2 and tensor.shape[:2] == shape:
            return tensor.flatten(2)
        if tensor.ndim == 2 and len(tensor) == shape.numel():
            return tensor.unflatten(0, shape)
    passes = tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
    raise UserError(
        f"What passes {point.module} is {passes}, where (batch, position, d) is ({shape[0]}, {shape[1]}, d)."
    )


@contextmanager
def watched(
    model: PreTrainedModel, points: set[HookPoint], keep: Callable[[HookPoint, torch.Tensor], None]
) -> Iterator[None]:
    """While this lasts, `keep` gets what passes each point."""

    def register(point: HookPoint) -> Any:
        module = model.get_submodule(point.module)
        if point.input:
            return module.register_forward_pre_hook(
                lambda _module, args, kwargs: keep(point, args[0] if args else next(iter(kwargs.values()))),
                with_kwargs=True,
            )
        return module.register_forward_hook(lambda _module, _args, output: keep(point, first_tensor(output)))

    handles: list[Any] = []
    try:
        for point in points:
            handles.append(register(point))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _forms_of(block: nn.Module) -> Iterator[_Form]:
    """The forms whose modules the block has."""
    there = {path for path, _ in block.named_modules()}
    return (form for form in _FORMS if {form.attn, form.mlp, form.mlp_in, *(form.norms or ())} <= there)


def _adds_up(model: PreTrainedModel, block: str, form: _Form) -> bool:
    """Whether what the block is given, what attention adds and what the MLP adds is what it hands on."""
    try:
        return _sums_agree(model, block, form)
    except UserError:  # a module that is not run, or passes something else than a vector for each token
        return False


def _sums_agree(model: PreTrainedModel, block: str, form: _Form) -> bool:
    begin, end = HookPoint("", block, input=True), HookPoint("", block)
    attn, mlp = HookPoint("", f"{block}.{form.attn}"), HookPoint("", f"{block}.{form.mlp}")
    tokens = some_tokens(model)
    if form.norms is None:
        first, added, more, last = catch(model, [begin, attn, mlp, end], tokens)
        return _equal(first + added + more, last, first, model)
    middle, after = (f"{block}.{norm}" for norm in form.norms)
    points = [
        begin,
        attn,
        HookPoint("", middle, input=True),
        HookPoint("", middle),
        mlp,
        HookPoint("", after, input=True),
    ]
    first, added, half, normed, more, whole = catch(model, points, tokens)
    return _equal(first + added, half, first, model) and _equal(normed + more, whole, normed, model)


def _equal(sum_: torch.Tensor, expected: torch.Tensor, before: torch.Tensor, model: PreTrainedModel) -> bool:
    """Whether they agree to a thousandth of what was added, and to a few roundings of the model's own precision.

    What a broken model hands on that is no finite number says nothing of where its modules are.
    """
    if sum_.shape != expected.shape:
        return False
    added = (expected - before).norm(dim=-1)
    allowed = 0.001 * added + 4 * torch.finfo(model.dtype).eps * expected.norm(dim=-1)
    return bool((((sum_ - expected).norm(dim=-1) <= allowed) | ~expected.isfinite().all(dim=-1)).all())
