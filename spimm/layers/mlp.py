"""Spiking MLP (SMLP): two conv units. Zhou et al. 2024 (QKFormer), section 3.4; Yao et al. 2024 (Meta-SpikeFormer)."""

from torch import Tensor, nn

from spimm.layers.conv import ConvNormNeuron
from spimm.layers.shortcut import Ending


class SpikingMLP(nn.Module):
    """conv d -> hidden, BN, neuron; conv hidden -> d, BN and what `ending` says; with the shortcut `added` if given.

    x, added: [T, B, d, H, W] -> same. Kernels of 1x1 make the channel MLP, of 3x3 the channel conv of Meta-SpikeFormer.
    """

    def __init__(
        self, dim: int, hidden: int, *, neuron: nn.Module, ending: Ending, kernel_size: int = 1, bias: bool = True
    ):
        super().__init__()
        self.expand = ConvNormNeuron(dim, hidden, kernel_size, bias=bias, neuron=neuron)
        self.contract = ConvNormNeuron(hidden, dim, kernel_size, bias=bias, **ending._asdict())

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        return self.contract(self.expand(x), added=added)
