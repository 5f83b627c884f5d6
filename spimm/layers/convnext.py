"""ConvNeXt part of a SpikeAtConv block. Liao et al. 2025; the form is that of ConvNeXt (Liu et al. 2022) in MaxxViT-V2.

T time, B batch, C channels, H W space.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from spimm.layers.conv import ConvNormNeuron, ConvUnit
from spimm.layers.repconv import BranchConv2d
from spimm.layers.shortcut import drop_samples
from spimm.layers.spk import sum_branches
from spimm.layers.time import over_time
from spimm.neurons import SpikeOutput


class ConvNeXt(nn.Module):
    """y = shortcut + BN(PW2(SPK(BN(PW1(SPK(BN(DW7x7(SPK(x))))))))). x: [T, B, C, H, W] -> [T, B, dim, H / s, W / s].

    With the same width and resolution the shortcut is x; else BN(conv1x1(pool(SPK(x)))), the pool a sum over s x s
    places: the average but for a factor, which the norm takes. `entry` is the SPK block in front; where it gives
    concatenated branches, the depth-wise convolution has kernels for each of them and the pool sums them. H / s and
    W / s are rounded up. `drop_path`: as for Residual.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        *,
        entry: nn.Module,
        spk_fn: Callable[[int], nn.Module],
        stride: int = 1,
        expansion: float = 4.0,
        kernel_size: int = 7,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.drop_path = drop_path
        self.entry = entry
        self.stride = stride
        output: SpikeOutput = entry.output  # type: ignore[assignment]
        self.branches = output.branches
        depthwise = BranchConv2d(in_chans, dim, kernel_size, stride=stride, branches=self.branches)
        hidden = int(expansion * dim)
        self.depthwise = ConvUnit(depthwise, dim, neuron=spk_fn(dim))
        self.expand = ConvNormNeuron(dim, hidden, 1, neuron=spk_fn(hidden))
        self.contract = ConvNormNeuron(hidden, dim, 1, neuron=None)
        self.shortcut = ConvNormNeuron(in_chans, dim, 1, neuron=None) if stride > 1 or in_chans != dim else None

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.entry(x)
        if self.shortcut is not None:
            x = self.shortcut(self._pooled(spikes))
        hidden = self.expand(self.depthwise(spikes))
        if not (self.training and self.drop_path):
            return self.contract(hidden, added=x)
        return x + drop_samples(self.contract(hidden), self.drop_path)

    def _pooled(self, spikes: Tensor) -> Tensor:
        if self.branches > 1:
            spikes = sum_branches(spikes, self.branches)
        if self.stride == 1:
            return spikes
        return over_time(lambda x: avg_pool2d(x, self.stride, ceil_mode=True, divisor_override=1), spikes)
