"""A model for inference: batch norms and scales folded away, so that convolutions and neurons remain.

A new type of layer is made known by registering its rule:

    @fold_module.register
    def _(module: MyLayer) -> nn.Module: ...
"""

import copy
import functools

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spimm.deploy.forms import RATE, Merge, Split, chain_of, choose_forms, split_convs
from spimm.deploy.gone import check_gone, move_hooks
from spimm.deploy.linear import NORMS, is_row, linear_steps, norm_scale
from spimm.deploy.merge import merge_convs, split_chains
from spimm.layers import DCL, BranchConv2d, ConvNeuron, ConvUnit, SpikeConv2d, SpikeProduct
from spimm.neurons import Neuron, runs_by_itself
from spimm.weights import mark_untrained, untrained


def fold(
    model: nn.Module,
    *,
    dtype: torch.dtype | None = None,
    merge: Merge = "cheaper",
    rate: float = RATE,
    mac_cost: float = 1.0,
) -> nn.Module:
    """A copy in eval mode, for inference only, without a batch norm: equal to `model.eval()` but for rounding.

    Norms go into the convolutions in front of them, scales into the threshold behind them, rows of convolutions with
    no neuron between them into one. Rounding decides the spike of a potential that meets the threshold within it, and
    what follows from that spike. `dtype`, e.g. torch.bfloat16, is that of convolutions and of what flows between
    layers; the head keeps its own. A folded model is copied.

    `merge` is for units with several convolutions, RepConv and the separable convolution: `dense` makes each of them
    one convolution, `split` keeps them apart, `cheaper` decides by `merge_costs` at this firing `rate` and `mac_cost`.
    Hooks stay where they are, and go from a unit to what stands for it. Raises ValueError, naming the layer, for a norm
    without running statistics or one that no rule folds, for a layer that would be folded away although it has hooks or
    a forward that no rule knows, and for a dtype that is not floating-point.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}; wanted a floating-point one")
    for name, module in model.named_modules():
        if isinstance(module, NORMS) and module.running_mean is None:
            raise ValueError(f"batch norm {name!r} has no running statistics; it depends on the batch and cannot fold")
    copied = _without_parametrizations(copy.deepcopy(model))
    mark_untrained(copied, untrained(model))
    parts = dict(copied.named_modules())
    choose_forms(copied, merge, rate=rate, mac_cost=mac_cost)
    folded = _replace(copied, {}).eval().requires_grad_(False)
    check_gone(parts, folded, fold_module, linear_steps, chain_of, split_convs)
    for name, module in folded.named_modules():
        if isinstance(module, NORMS):
            raise ValueError(f"batch norm {name!r} is left over; its layer needs a rule: spimm.deploy.fold_module")
    if dtype is not None:
        _store_in(folded, dtype)
    return folded


def _replace(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """What stands for `module`; one that is used in several places stays one."""
    if module not in done:
        done[module] = fold_module(module)
        if done[module] is not module:
            move_hooks(module, done[module])
        else:
            for name, child in list(module._modules.items()):
                if child is not None:
                    module.add_module(name, _replace(child, done))
    return done[module]


def _without_parametrizations(model: nn.Module) -> nn.Module:
    """The model, whose parametrised weights are now what the parametrisations made of them.

    torch's remove_parametrizations changes the class, which a copy shares with its original.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            names = dict(module.get_submodule("parametrizations").named_children())
            computed = {name: getattr(module, name).detach() for name in names}
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            for name, value in computed.items():
                module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return model


def _store_in(folded: nn.Module, dtype: torch.dtype) -> None:
    for module in folded.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype)
        elif isinstance(module, ConvNeuron):
            module.storage = dtype


@functools.singledispatch
def fold_module(module: nn.Module) -> nn.Module:
    """What stands for a module, one of a copy of the model, in the folded model.

    The module itself, in which case its children are folded, or another, which is final.
    """
    return module


@fold_module.register
def _(module: ConvUnit) -> nn.Module:
    conv: nn.Module
    if isinstance(module.conv, Split):
        conv = Split(*module.conv[:-1], merge_convs([module.conv[-1], module.norm]))
    elif isinstance(module.conv, BranchConv2d):
        conv = scale_branches(module.conv, module.norm)
    else:
        plain = isinstance(module.conv, nn.Conv2d)
        conv = merge_convs([module.conv, module.norm], like=None if plain else SpikeConv2d(1, 1, 1))
    return ConvNeuron(conv, pool=module.pool, neuron=_folded(module.neuron), adds_first=module.adds_first)


def _folded(neuron: nn.Module | None) -> nn.Module | None:
    """Blocks in the place of a neuron may hold units and norms."""
    return None if neuron is None else _replace(neuron, {})


@fold_module.register
def _(module: ConvNeuron) -> nn.Module:
    """Folded already; a chain that was kept apart stays so."""
    settings = {"pool": module.pool, "neuron": _folded(module.neuron), "adds_first": module.adds_first}
    return ConvNeuron(module.conv, **settings, storage=module.storage)


@fold_module.register
def _(module: DCL) -> nn.Module:
    if module.norm3 is not None and module.norm5 is not None:
        module.conv3, module.conv5 = (
            merge_convs(pair) for pair in ((module.conv3, module.norm3), (module.conv5, module.norm5))
        )
        module.norm3 = module.norm5 = None
    return module


@fold_module.register
def _(module: SpikeProduct) -> nn.Module:
    """A neuron with hooks, or a forward of its own, takes what it took before."""
    if runs_by_itself(module.neuron):
        return module
    module.neuron, module.scale = scale_threshold(module.neuron, module.scale), 1.0
    return module


@fold_module.register
def _(module: nn.Sequential) -> nn.Module:
    """Each row of linear layers becomes a convolution, in place of the first; the only one stands for the whole."""
    if not is_row(module):
        return module
    rows = split_chains(module)
    if len(rows) == 1 and rows[0].conv is not None:
        return rows[0].conv
    index = 0
    for row, conv in rows:
        if conv is not None and not (len(row) == 1 and runs_by_itself(row[0])):
            module[index] = conv
            for gone in range(index + 1, index + len(row)):
                module[gone] = nn.Identity()
        index += len(row)
    return module


@torch.no_grad()
def scale_branches(conv: BranchConv2d, norm: nn.BatchNorm2d) -> BranchConv2d:
    """A copy that does what the norm behind it does: its gain in every branch, its shift in the bias of their sum."""
    scaled, scale = copy.deepcopy(conv), norm_scale(norm)
    shift = scale.shift if conv.bias is None else scale.shift + scale.gain * conv.bias.double()
    weight = conv.weight.double() * scale.gain.repeat(conv.branches).view(-1, 1, 1, 1)
    scaled.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    scaled.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
    return scaled


@torch.no_grad()
def scale_threshold(neuron: Neuron, scale: float) -> Neuron:
    """A copy that fires for x as `neuron` does for scale x: all its potentials over the scale.

    Raises ValueError unless the scale is positive.
    """
    if not scale > 0:
        raise ValueError(f"a scale of {scale} stands in front of {neuron}; only a positive one goes into a threshold")
    scaled = copy.deepcopy(neuron)
    threshold = neuron.threshold / scale
    scaled.threshold = nn.Parameter(threshold) if isinstance(threshold, Tensor) else threshold
    scaled.v_reset = None if neuron.v_reset is None else neuron.v_reset / scale
    return scaled
