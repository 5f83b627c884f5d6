"""What every peer's network offers: it starts from rest, and takes our weights under its own names."""

import abc
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from spimm.bench.peers.libraries import spikingjelly
from spimm.models.settings import ModelConfig


class PeerNetwork(nn.Module, abc.ABC):
    """A network of SpikingJelly's neurons. Image [B, C, H, W] -> logits [B, num_classes], from rest at every call.

    config: that of our network.
    """

    lacks: tuple[str, ...] = ()
    """Ends of the names of weights that ours has and the peer has not: with these at 0 the networks are the same."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.reset_net = spikingjelly().functional.reset_net
        self.num_steps = config.num_steps

    @staticmethod
    @abc.abstractmethod
    def tensors(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of our network (weights or their gradients) under the peer's names."""

    def load(self, ours: Mapping[str, Tensor]) -> None:
        """Gives the network our weights."""
        self.load_state_dict(self.tensors(ours))


def renamed(key: str, names: Mapping[str, str]) -> str:
    """`key` with each of `names` that occurs in it replaced."""
    for old, new in names.items():
        key = key.replace(old, new)
    return key


def apart(name: str, joined: str, branches: Sequence[str], value: Tensor) -> dict[str, Tensor]:
    """A tensor of the unit `joined`, under `name`, as one a branch: its rows shared out, numbers given to each.

    `stages.0.qkv.weight` [3C, ...] with branches `qkv` -> `stages.0.q.weight` [C, ...] and so on.
    """
    pieces = value.chunk(len(branches)) if value.dim() else [value] * len(branches)
    return {name.replace(f".{joined}.", f".{branch}."): piece for branch, piece in zip(branches, pieces, strict=True)}
