"""SpikingJelly's own QKFormer for ImageNet, `qkformer_10_384`, and our weights under its names.

Two things differ: its 3x3 convolutions have a bias, which a batch norm behind them takes away, and its attention's
projection has none. With the former and ours of the latter at 0 the networks are the same.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from spimm.bench.peers.libraries import spikingjelly
from spimm.bench.peers.network import PeerNetwork
from spimm.models.qkformer import QKFormerConfig

NUM_STAGES = 3


class OfficialQKFormer(PeerNetwork):
    """SpikingJelly's QKFormer from rest; of our `qkformer_10_384` it is the one that it builds by that name."""

    lacks = ("proj.conv.bias",)

    def __init__(self, config: QKFormerConfig):
        super().__init__(config)
        self.network = spikingjelly().qkformer.QKFormer(
            T=config.num_steps,
            in_channels=config.in_chans,
            num_classes=config.num_classes,
            embed_dims=config.embed_dim,
            num_heads=(config.num_heads,) * NUM_STAGES,
            depths=config.depths,
            mlp_ratio=config.mlp_ratio,
            detach_reset=True,
        )

    def forward(self, image: Tensor) -> Tensor:
        self.reset_net(self)
        return self.network(image)

    @torch.no_grad()
    def load(self, ours: Mapping[str, Tensor]) -> None:
        """Gives the network our weights and 0 for the biases that we lack."""
        found = self.load_state_dict(self.tensors(ours), strict=False)
        assert not found.unexpected_keys
        for name in found.missing_keys:
            assert name.endswith(".bias"), name
            self.get_parameter(name).zero_()

    @staticmethod
    def tensors(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of our QKFormer (weights or their gradients) under SpikingJelly's names."""
        theirs: dict[str, Tensor] = {}
        for key, value in ours.items():
            words = key.split(".")
            if words[0] == "head":
                theirs[f"network.{key}"] = value
            elif words[2] == "embed":
                theirs[_embed(words)] = value
            elif not key.endswith(OfficialQKFormer.lacks):
                theirs[_block(words)] = value.squeeze(-1) if value.dim() == 4 else value
        return theirs


_UNITS = {"units.0": "1", "units.1": "2", "units.2": "3", "shortcut": "shortcut"}


def _embed(words: list[str]) -> str:
    stage, unit, part, leaf = int(words[1]), ".".join(words[3:-2]), words[-2], words[-1]
    prefix, number = f"network.patch_embed{stage + 1}", _UNITS[unit]
    if number == "shortcut":
        return f"{prefix}.shortcut.{0 if part == 'conv' else 1}.{leaf}"
    return f"{prefix}.{'conv' if part == 'conv' else 'bn'}{number}.{leaf}"


def _block(words: list[str]) -> str:
    stage, block, branch, part, leaf = int(words[1]), words[3], words[4], words[-2], words[-1]
    prefix = f"network.stage{stage + 1}.{block}"
    unit = words[-3]
    if branch == "mlp":
        return f"{prefix}.mlp.{'fc' if part == 'conv' else 'bn'}{1 if unit == 'expand' else 2}.{leaf}"
    joined = "proj" if unit == "proj" else "qkv" if stage == NUM_STAGES - 1 else "qk"
    return f"{prefix}.attn.{joined}_conv_bn.{0 if part == 'conv' else 1}.{leaf}"
