"""Neurons as modules without hidden state."""

from spimm.neurons.base import Neuron
from spimm.neurons.lif import IF, LIF, NEURONS, PLIF, create_neuron

__all__ = ["IF", "LIF", "NEURONS", "PLIF", "Neuron", "create_neuron"]
