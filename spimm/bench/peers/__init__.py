"""The other side: neurons and networks of SpikingJelly, snnTorch, Norse and plain torch, as their users write them.

A library is imported when one of its peers is built, not before. What all peers compute is our LIF: tau 2, threshold 1,
hard reset to 0, the derivative of sigmoid(4 u). Where a library writes it in other units, its peer says how.
"""

from spimm.bench.peers.libraries import NORSE_MISSING, norse, snntorch, spikingjelly
from spimm.bench.peers.memory import with_memopt
from spimm.bench.peers.neurons import CompiledLIF, NorseLIF, PeerLIF, PeerNormLIF, PeerSpikes, SnnTorchLIF, lif_node
from spimm.bench.peers.official import OfficialQKFormer, load_official, official_qkformer, official_tensors
from spimm.bench.peers.qkformer import PeerQKFormer, peer_tensors

__all__ = [
    "NORSE_MISSING",
    "CompiledLIF",
    "NorseLIF",
    "OfficialQKFormer",
    "PeerLIF",
    "PeerNormLIF",
    "PeerQKFormer",
    "PeerSpikes",
    "SnnTorchLIF",
    "lif_node",
    "load_official",
    "norse",
    "official_qkformer",
    "official_tensors",
    "peer_tensors",
    "snntorch",
    "spikingjelly",
    "with_memopt",
]
