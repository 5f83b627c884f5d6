"""The unit that spiking networks are made of: convolution, batch norm, neuron."""

from torch import Tensor, nn

from spimm.layers.norm import batch_norm, norm_neuron
from spimm.layers.time import over_time
from spimm.neurons import Neuron


class ConvNormNeuron(nn.Module):
    """LIF(BN(conv(x))); with `pool` LIF(MaxPool(BN(conv(x)))). x: [T, B, C, H, W] -> spikes [T, B, C', H', W'].

    Without a neuron the unit gives the membrane, BN(conv(x)), pooled if asked. An x: [1, ...] with `num_steps` is the
    same at every step: convolution and statistics are computed once. Padding keeps H and W at stride 1; the pool (3x3,
    stride 2) halves them, rounding up.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int,
        *,
        stride: int = 1,
        bias: bool = False,
        pool: bool = False,
        neuron: Neuron | None,
    ):
        super().__init__()
        self.conv = nn.Conv2d(in_chans, out_chans, kernel_size, stride, kernel_size // 2, bias=bias)
        self.norm = nn.BatchNorm2d(out_chans)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pool else None
        self.neuron = neuron

    def forward(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        x = over_time(self.conv, x)
        if self.neuron is not None and self.pool is None:
            return norm_neuron(x, self.norm, self.neuron, num_steps)
        x = batch_norm(x, self.norm, num_steps)
        if self.pool is not None:
            x = over_time(self.pool, x)
        return x if self.neuron is None else self.neuron(x, num_steps)
