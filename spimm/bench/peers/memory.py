"""SpikingJelly's `memopt`: blocks that are recomputed in the backward pass, their binary inputs kept as bits."""

from torch import Tensor, nn

from spimm.bench.peers.libraries import spikingjelly
from spimm.bench.peers.official import OfficialQKFormer
from spimm.bench.peers.qkformer import Unit

LEVEL = 1
"""Higher levels search for splits by their peak of CUDA memory and need a GPU."""


def with_memopt(network: nn.Module, images: Tensor) -> nn.Module:
    """The same network, changed in place: every block of convolution, norm and neuron is checkpointed.

    Of SpikingJelly's own network these are its attentions, MLPs and patch embeddings. `images` show which inputs are
    binary; they should be those of the training.
    """
    library = spikingjelly()
    blocks: tuple[type[nn.Module], ...] = (Unit,)
    if isinstance(network, OfficialQKFormer):
        kinds = ("attn", "mlp", "patch_embed1", "patch_embed2", "patch_embed3")
        named = network.network.named_modules()
        blocks = tuple({type(module) for name, module in named if name.split(".")[-1] in kinds})
    library.memopt.optimize_memory(network, blocks, lambda model: model(images), level=LEVEL)
    return network
