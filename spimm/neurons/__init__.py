"""Neurons as modules without hidden state."""

from spimm.neurons.base import BINARY, Neuron, SpikeOutput
from spimm.neurons.by_itself import fusible, has_hooks, has_own_forward, hooks_unseen, runs_by_itself
from spimm.neurons.lif import IF, LIF, NEURONS, PLIF, create_neuron
from spimm.neurons.multi import MultiLIF
from spimm.neurons.rel_psp import RelPSP, ReLU1, spike_times

__all__ = [
    "BINARY",
    "IF",
    "LIF",
    "NEURONS",
    "PLIF",
    "MultiLIF",
    "Neuron",
    "ReLU1",
    "RelPSP",
    "SpikeOutput",
    "create_neuron",
    "fusible",
    "has_hooks",
    "has_own_forward",
    "hooks_unseen",
    "runs_by_itself",
    "spike_times",
]
