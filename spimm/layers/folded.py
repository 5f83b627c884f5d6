"""The unit of a folded network: convolution and neuron, the norm gone into the convolution."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spimm.kernels import norm_pool_lif, spike_conv2d_lif
from spimm.layers.conv import SpikeConv2d
from spimm.layers.norm import fire, max_pool, norm_lif_with
from spimm.layers.time import over_time
from spimm.neurons import Neuron, runs_by_itself


class ConvNeuron(nn.Module):
    """LIF(conv(x)); with `pool` LIF(MaxPool(conv(x))); without a neuron the membrane. x: [T, B, C, H, W] -> same form.

    Stands for a ConvUnit in inference and is called as one: `added` is added to the output or, with `adds_first`, to
    what the neuron fires on, and an x: [1, ...] with `num_steps` is the same at every step. conv: one convolution or a
    row of them, the last with a bias. `storage` is the dtype that x is brought to, where it is not that of the
    convolution already.
    """

    ones: Tensor
    zeros: Tensor

    def __init__(
        self,
        conv: nn.Module,
        *,
        pool: bool,
        neuron: nn.Module | None,
        adds_first: bool = False,
        storage: torch.dtype | None = None,
    ):
        super().__init__()
        self.conv = conv
        self.pool = pool
        self.neuron = neuron
        self.adds_first = adds_first
        self.storage = storage
        bias = [part.bias for part in conv.modules() if isinstance(part, nn.Conv2d)][-1]
        assert bias is not None
        for name, value in (("ones", 1.0), ("zeros", 0.0)):
            self.register_buffer(name, torch.full_like(bias, value, requires_grad=False), persistent=False)

    def forward(self, x: Tensor, num_steps: int | None = None, *, added: Tensor | None = None) -> Tensor:
        x = x if self.storage is None else x.to(self.storage)
        fused = isinstance(self.neuron, Neuron) and not runs_by_itself(self.neuron)
        if fused and self._in_one_op() and (added is None or not self.adds_first):
            assert isinstance(self.neuron, Neuron) and isinstance(self.conv, SpikeConv2d)
            settings: dict[str, Any] = {
                "num_steps": num_steps,
                "padding": self.conv.kernel_size[0] // 2,
                "added": added,
            }
            return spike_conv2d_lif(x, self.conv.weight, self.conv.bias, self.neuron.dynamics(), **settings)
        x = over_time(self.conv, x)
        if fused and not self.pool:
            assert isinstance(self.neuron, Neuron)
            return self._fire(norm_lif_with(added, adds_first=self.adds_first), x, self.neuron, num_steps)
        if fused:
            assert isinstance(self.neuron, Neuron)
            x = self._fire(norm_pool_lif, x, self.neuron, num_steps)
            return x if added is None else x + added
        x = over_time(max_pool, x) if self.pool else x
        return fire(x, self.neuron, num_steps, added, adds_first=self.adds_first)

    def _in_one_op(self) -> bool:
        """Whether one op serves convolution and neuron."""
        plain = isinstance(self.conv, SpikeConv2d) and self.conv.is_plain and self.conv.stride == (1, 1)
        return plain and not self.pool and not torch.is_grad_enabled() and not runs_by_itself(self.conv)

    def _fire(self, op: Callable[..., tuple[Tensor, ...]], x: Tensor, neuron: Neuron, num_steps: int | None) -> Tensor:
        """The ops that pool, fire and add in one pass, with a norm that changes nothing."""
        unit: dict[str, Any] = {"mean": self.zeros, "variance": self.ones, "eps": 0.0}
        return op(x, self.ones, self.zeros, neuron.dynamics(), num_steps=num_steps, **unit)[0]
