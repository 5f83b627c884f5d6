"""Neurons as modules without hidden state."""

from spimm.neurons.base import BINARY, Neuron, SpikeOutput
from spimm.neurons.lif import IF, LIF, NEURONS, PLIF, create_neuron
from spimm.neurons.multi import MultiLIF

__all__ = ["BINARY", "IF", "LIF", "NEURONS", "PLIF", "MultiLIF", "Neuron", "SpikeOutput", "create_neuron"]
