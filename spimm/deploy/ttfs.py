"""What simulations of networks of spike times share: the layers in order, what a run gives, and the run in closed form.

N images, C channels, H W space, F features, K classes; P planes, 2 of spikes: what is left of the window when a neuron
fires and whether it does; 1 of ordinary activations.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spimm.kernels.rel_psp.reference import earliest
from spimm.layers import DirectCode, PixelCode, PSPLinear, Readout, TTFSUnit
from spimm.neurons import RelPSP, ReLU1, has_hooks, has_own_forward

Code = DirectCode | PixelCode


@dataclass(frozen=True)
class Run:
    """Logits [N, K], and the spikes of each layer by name in front of its pool, [P, N, C, H, W] or [P, N, F].

    The layers are the input code, the convolutions and the fully connected ones but for the last.
    """

    logits: Tensor
    spikes: dict[str, Tensor]


@dataclass(frozen=True)
class Chain:
    """A network of spike times: an input code, units, the last product and a read-out."""

    code_name: str
    code: Code
    units: dict[str, TTFSUnit]
    head_name: str
    head: PSPLinear
    readout: Readout

    @property
    def window(self) -> float:
        """T_w."""
        return self.code.window

    def encode(self, x: Tensor) -> Tensor:
        """Spikes of the input code in front of its pool. x: [N, C, H, W] -> [P, N, C', H, W]."""
        if isinstance(self.code, PixelCode):
            return self.code(x)
        single = copy.copy(self.code)
        single.pool = 1
        return single(x)

    @property
    def layers(self) -> Iterator[tuple[str, TTFSUnit, int]]:
        """The units in order by name, each with the pool in front of it."""
        pool = self.code.pool if isinstance(self.code, DirectCode) else 1
        for name, unit in self.units.items():
            yield name, unit, pool
            pool = unit.pool

    @property
    def last_pool(self) -> int:
        """The pool in front of the head."""
        *_, last = self.code, *self.units.values()
        return 1 if isinstance(last, PixelCode) else last.pool


def chain_of(model: nn.Module) -> Chain:
    """The layers of a network of spike times, or of its twin. Raises ValueError where they are not such a chain."""
    codes: dict[str, Code] = {}
    units: dict[str, TTFSUnit] = {}
    heads: dict[str, PSPLinear] = {}
    readouts: list[Readout] = []
    for name, module in model.named_modules():
        if isinstance(module, DirectCode | PixelCode):
            codes[name] = module
        elif isinstance(module, TTFSUnit):
            units[name] = module
        elif isinstance(module, Readout):
            readouts.append(module)
        elif isinstance(module, PSPLinear) and name.rpartition(".")[0] not in units:
            heads[name] = module
    if not len(codes) == len(heads) == len(readouts) == 1:
        raise ValueError(
            f"{type(model).__name__} has {len(codes)} input codes, {len(units)} units, {len(heads)} last products and "
            f"{len(readouts)} read-outs of spike times; wanted one of each, and units"
        )
    return Chain(*codes.popitem(), units, *heads.popitem(), readouts[0])


def spiking_chain_of(model: nn.Module) -> Chain:
    """As chain_of. Raises ValueError for neurons without spike times, and for units that are more than their equations.

    A simulation computes what units do without calling them: hooks and forwards of their own would be passed over.
    """
    chain = chain_of(model)
    for name, unit in chain.units.items():
        if not isinstance(unit.neuron, RelPSP):
            raise ValueError(f"neurons of {name} are {unit.neuron}; wanted RelPSP, which have spike times")
        for part in (unit, unit.product, unit.neuron):
            if has_hooks(part) or has_own_forward(part):
                part_of, what = (
                    f"{type(part).__name__} of {name}",
                    "hooks" if has_hooks(part) else "a forward of its own",
                )
                raise ValueError(f"{part_of} has {what}, which a simulation does not run; simulate a model without")
    return chain


def pooled_for(spikes: Tensor, pool: int, product: nn.Module) -> Tensor:
    """What a product takes of spikes of the layer in front: the earliest of squares; maps flat if it is linear."""
    spikes = spikes if pool == 1 else earliest(spikes, pool)
    return spikes.flatten(2) if isinstance(product, PSPLinear) else spikes


@torch.no_grad()
def run_closed_form(model: nn.Module, x: Tensor, *, relu1: bool = False) -> Run:
    """The network's own equations, with the spikes of all layers. x: [N, C, H, W].

    `relu1`: as an ordinary network with the same weights, [1, N, ...]. Raises ValueError for another kind of network.
    """
    chain = spiking_chain_of(model) if relu1 else chain_of(model)
    spikes = chain.encode(x)
    if relu1:
        spikes = spikes[:1] / chain.window
    kept = {chain.code_name: spikes}
    for name, unit, pool in chain.layers:
        neuron = ReLU1() if relu1 else unit.neuron
        spikes = kept[name] = neuron(unit.product(pooled_for(spikes, pool, unit.product)))
    drive = chain.head(pooled_for(spikes, chain.last_pool, chain.head))
    return Run(drive[0] if relu1 else chain.readout(drive), kept)
