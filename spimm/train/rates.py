"""A price on firing rates outside of bounds, so that training finds networks that fire less and have no dead channels.

Legend: T time, B batch, C channels.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spimm.analyze import Probe, probes_of
from spimm.neurons import hooks_unseen
from spimm.train.distributed import Ranks


@dataclass
class RatePenalty:
    """weight times the mean over layers of max(0, r - upper)^2 + mean over channels of max(0, lower - r_c)^2.

    r is the firing rate of a layer of neurons over a batch, spikes per output and step, r_c that of one of its
    channels: the upper bound holds for the layer as a whole and the lower one for every channel, as in Zenke & Vogels
    2021, The remarkable robustness of surrogate gradient learning. Gradients flow through the surrogates. On several
    `ranks` the batch is that of all.
    """

    weight: float
    upper: float
    lower: float = 0.0
    ranks: Ranks = field(default_factory=Ranks)
    _rates: list[Tensor] = field(default_factory=list, repr=False)

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Within it the rates of a call of `model` are kept for `loss`. ValueError for a model without such neurons."""
        self._rates.clear()
        with ExitStack() as hooks:
            watched = 0
            for _, module, found in probes_of(model):
                if found.kind == "neuron" and not found.timed and found.leading == 2:
                    note = partial(self._note, found)
                    hooks.callback(module.register_forward_hook(note, with_kwargs=True).remove)
                    watched += 1
            if not watched:
                raise ValueError(f"rate_weight is for neurons that fire at steps, {type(model).__name__} has none")
            yield

    def loss(self) -> Tensor:
        """The price of the rates seen, a scalar fp32, which are then forgotten."""
        rates = self._over_ranks() if self.ranks.many else self._rates
        prices = [(r.mean() - self.upper).relu() ** 2 + ((self.lower - r).relu() ** 2).mean() for r in rates]
        self._rates.clear()
        return self.weight * torch.stack(prices).mean()

    def _over_ranks(self) -> tuple[Tensor, ...]:
        """Rates over the batches of all ranks, with gradients of this one's, whose mean over ranks is the whole one."""
        own = torch.cat(self._rates)
        shared = self.ranks.total(own.detach().clone()) / self.ranks.world_size
        return (own + (shared - own.detach())).split([len(rates) for rates in self._rates])

    def _note(
        self, found: Probe, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> None:
        if torch.is_grad_enabled():
            with hooks_unseen():
                spikes = found.result(args, kwargs, output)
            others = [axis for axis in range(spikes.dim()) if axis != found.channel_axis % spikes.dim()]
            self._rates.append(spikes.mean(others, dtype=torch.float32))
