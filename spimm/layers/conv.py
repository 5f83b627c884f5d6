"""The unit that spiking networks are made of: convolution, batch norm, neuron."""

from typing import Any

from torch import Tensor, nn

from spimm.kernels import Memory, spike_conv2d
from spimm.layers.norm import batch_norm, fire, frozen_statistics, fuses, max_pool, norm_neuron, norm_pool_neuron
from spimm.layers.plain import Conv2d
from spimm.layers.time import over_time
from spimm.neurons import MultiLIF, Neuron, fusible, hooks_unseen


@fusible
class SpikeConv2d(Conv2d):
    """nn.Conv2d for spikes: work and memory in proportion to what is not 0. [N, C, H, W] -> [N, C', H', W'].

    `memory` is how the input is kept for the backward pass, "full" or "packed" (see kernels.spike_conv2d).
    """

    def __init__(self, in_chans: int, out_chans: int, kernel_size: int, stride: int = 1, *, bias: bool = False):
        super().__init__(in_chans, out_chans, kernel_size, stride, kernel_size // 2, bias=bias)
        self.memory: Memory = "full"

    @property
    def is_plain(self) -> bool:
        """Whether the form is still the constructor's: merging convolutions makes others, which run as torch's."""
        side = self.kernel_size[0]
        form = (self.kernel_size, self.padding, self.dilation, self.groups, self.padding_mode)
        square = form == ((side, side), (side // 2, side // 2), (1, 1), 1, "zeros")
        return square and self.stride == (self.stride[0],) * 2

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_plain:
            return super().forward(x)
        stride, padding = self.stride[0], self.kernel_size[0] // 2
        return spike_conv2d(x, self.weight, self.bias, stride=stride, padding=padding, memory=self.memory)


class ConvUnit(nn.Module):
    """LIF(BN(conv(x))); with `pool` LIF(MaxPool(BN(conv(x)))). x: [T, B, C, H, W] -> spikes [T, B, C', H', W'].

    `neuron` is a Neuron or a MultiLIF that sums, which run in one op with the norm, or another block in the place of
    one (`spk`). Without it the unit gives the membrane, BN(conv(x)), pooled if asked. `added`, shaped as the output, is
    the residual shortcut: it is added to the output or, with `adds_first`, to what the neuron fires on. An x: [1, ...]
    with `num_steps` is the same at every step: convolution and statistics are computed once. The pool (3x3, stride 2)
    halves H and W, rounding up. conv: any linear module from [N, C, H, W] to [N, C', H', W'].
    """

    def __init__(
        self, conv: nn.Module, out_chans: int, *, pool: bool = False, neuron: nn.Module | None, adds_first: bool = False
    ):
        super().__init__()
        if pool and adds_first:
            raise ValueError("a unit that pools takes its shortcut behind the neuron: adds_first is True with pool")
        self.conv = conv
        self.norm = nn.BatchNorm2d(out_chans)
        self.pool = pool
        self.neuron = neuron
        self.adds_first = adds_first

    def forward(self, x: Tensor, num_steps: int | None = None, *, added: Tensor | None = None) -> Tensor:
        x = over_time(self.conv, x)
        if self.fuses:
            return norm_neuron(x, self.norm, self.neuron, num_steps, added, adds_first=self.adds_first)  # type: ignore[arg-type]
        if isinstance(self.neuron, Neuron):
            x = norm_pool_neuron(x, self.norm, self.neuron, num_steps)
            return x if added is None else x + added
        x = batch_norm(x, self.norm, num_steps)
        x = over_time(max_pool, x) if self.pool else x
        return fire(x, self.neuron, num_steps, added, adds_first=self.adds_first)

    def membrane(self, x: Tensor) -> Tensor:
        """BN(conv(x)), what a unit without a pool fires on, [T, B, C', H', W']."""
        return batch_norm(over_time(self.conv, x), self.norm)

    @property
    def fuses(self) -> bool:
        """Whether neither a pool nor a block that is no neuron stands between the norm and the spikes."""
        return fuses(self.neuron) and not self.pool

    def branches(self, x: Tensor, num_steps: int | None = None, *, added: Tensor | None = None) -> tuple[Tensor, ...]:
        """The spikes of each LIF of a MultiLIF that runs in one op with the norm, [T, B, C', H', W'] with 0 and 1.

        Of a call with these arguments; neither hooks of the convolution nor running statistics notice.
        """
        assert isinstance(self.neuron, MultiLIF)
        neuron, settings = self.neuron.neuron, {"adds_first": self.adds_first}
        x, added = over_time(self.conv.forward, x), added if self.adds_first else None
        with frozen_statistics(), hooks_unseen():
            return tuple(
                norm_neuron(x, self.norm, MultiLIF(neuron, (threshold,)), num_steps, added, **settings)
                for threshold in self.neuron.thresholds
            )


class ConvNormNeuron(ConvUnit):
    """The unit with a plain convolution for spikes. Padding keeps H and W at stride 1."""

    def __init__(
        self, in_chans: int, out_chans: int, kernel_size: int, *, stride: int = 1, bias: bool = False, **unit: Any
    ):
        super().__init__(SpikeConv2d(in_chans, out_chans, kernel_size, stride, bias=bias), out_chans, **unit)
