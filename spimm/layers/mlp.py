"""Spiking MLP (SMLP): two 1x1 conv units. Zhou et al. 2024 (QKFormer), section 3.4."""

from torch import Tensor, nn

from spimm.layers.conv import ConvNormNeuron
from spimm.neurons import Neuron


class SpikingMLP(nn.Module):
    """conv1x1 d -> hidden, BN, LIF; conv1x1 hidden -> d, BN and `last_neuron`, if any; plus `added` if given.

    x, added: [T, B, d, H, W] -> same.
    """

    def __init__(self, dim: int, hidden: int, *, neuron: Neuron, last_neuron: Neuron | None):
        super().__init__()
        self.expand = ConvNormNeuron(dim, hidden, 1, bias=True, neuron=neuron)
        self.contract = ConvNormNeuron(hidden, dim, 1, bias=True, neuron=last_neuron)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        return self.contract(self.expand(x), added=added)
