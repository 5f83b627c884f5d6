import torch

from spimm.layers import Ending, SpikingMLP
from spimm.neurons import LIF

from .conftest import is_channels_last, spike_steps


def test_the_mlp_keeps_the_shape_and_fires_in_between() -> None:
    mlp, hidden = SpikingMLP(8, 20, neuron=LIF(), ending=Ending(LIF())), []
    mlp.expand.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    x = spike_steps(3, 2, 8, 4, 5)
    y = mlp(x)
    assert y.shape == x.shape
    assert hidden[0].shape == (3, 2, 20, 4, 5)
    assert set(y.unique().tolist()) <= {0, 1} and set(hidden[0].unique().tolist()) == {0, 1}
    assert is_channels_last(y)


def test_without_a_last_neuron_the_mlp_gives_potentials() -> None:
    y = SpikingMLP(8, 20, neuron=LIF(), ending=Ending(None))(spike_steps(3, 2, 8, 4, 5))
    assert len(y.unique()) > 10
    torch.testing.assert_close(y.mean((0, 1, 3, 4)), torch.zeros(8), atol=1e-5, rtol=0)  # batch norm comes last
