"""The other side: neurons and networks of SpikingJelly, snnTorch, Norse and plain torch, as their users write them.

A library is imported when one of its peers is built, not before. What all peers compute is our LIF: tau 2, threshold 1,
hard reset to 0, the derivative of sigmoid(4 u); in SpikeAtConv that of ATan, and other thresholds. Where a library
writes it in other units, its peer says how.
"""

from spimm.bench.peers.events import NumpyEvents, PeerEvents, SpikingJellyEvents
from spimm.bench.peers.libraries import NORSE_MISSING, norse, snntorch, spikingjelly
from spimm.bench.peers.memory import with_memopt
from spimm.bench.peers.metaspikeformer import PeerMetaSpikeFormer
from spimm.bench.peers.network import PeerNetwork
from spimm.bench.peers.neurons import (
    CompiledLIF,
    NorseLIF,
    PeerLIF,
    PeerMultiLIF,
    PeerNormLIF,
    PeerSpikes,
    SnnTorchLIF,
    lif_node,
)
from spimm.bench.peers.official import OfficialQKFormer
from spimm.bench.peers.qkformer import PeerQKFormer
from spimm.bench.peers.spikeatconv import PeerSpikeAtConv
from spimm.bench.peers.ttfs import PlainTTFS

__all__ = [
    "NORSE_MISSING",
    "CompiledLIF",
    "NorseLIF",
    "NumpyEvents",
    "OfficialQKFormer",
    "PeerEvents",
    "PeerLIF",
    "PeerMetaSpikeFormer",
    "PeerMultiLIF",
    "PeerNetwork",
    "PeerNormLIF",
    "PeerQKFormer",
    "PeerSpikeAtConv",
    "PeerSpikes",
    "PlainTTFS",
    "SnnTorchLIF",
    "SpikingJellyEvents",
    "lif_node",
    "norse",
    "snntorch",
    "spikingjelly",
    "with_memopt",
]
