"""Meta-SpikeFormer of SpikingJelly's neuron with torch's layers around it, written as its users write networks.

NCHW memory, time folded into the batch for convolutions and norms, the image repeated T times, q, k and v from
RepConvs of their own, `reset_net` between batches.
T time, B batch, C channels, H W space, h heads, d = C / h, N = H W tokens.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spimm.bench.peers.network import PeerNetwork, apart, renamed
from spimm.bench.peers.neurons import lif_node
from spimm.models.metaspikeformer import MetaSpikeFormerConfig

SCALE = 0.125
EXPANSION = 2
"""Of the separable convolution."""


class ConvNorm(nn.Module):
    """BN(conv(x)). x: [T, B, C, H, W] -> [T, B, C', H', W']."""

    def __init__(self, conv: nn.Module, channels: int):
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.flatten(0, 1))).unflatten(0, x.shape[:2])


def conv(in_chans: int, out_chans: int, kernel: int, *, stride: int = 1, bias: bool = False) -> ConvNorm:
    """A convolution that keeps H and W at stride 1, and its norm."""
    return ConvNorm(nn.Conv2d(in_chans, out_chans, kernel, stride, kernel // 2, bias=bias), out_chans)


class RepConv(nn.Module):
    """BN(PW(DW3x3(pad(BN(PW(x)))))), padded with what the first norm makes of 0. x: [N, C, H, W] -> same."""

    def __init__(self, dim: int):
        super().__init__()
        self.expand = nn.Conv2d(dim, dim, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(dim)
        self.depthwise = nn.Conv2d(dim, dim, 3, groups=dim, bias=False)
        self.project = nn.Conv2d(dim, dim, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pad(self.expand_norm(self.expand(x)))
        return self.project_norm(self.project(self.depthwise(x)))

    def pad(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H + 2, W + 2], a border of constants that no gradient reaches."""
        norm = self.expand_norm
        assert norm.running_mean is not None and norm.running_var is not None
        border = norm.bias - norm.running_mean * norm.weight / torch.sqrt(norm.running_var + norm.eps)
        height, width = x.shape[2:]
        padded = border.detach().to(x.dtype).view(1, -1, 1, 1).repeat(len(x), 1, height + 2, width + 2)
        padded[:, :, 1:-1, 1:-1] = x
        return padded


def repconv(dim: int) -> ConvNorm:
    """A RepConv and the norm behind it."""
    return ConvNorm(RepConv(dim), dim)


class SepConv(nn.Module):
    """BN(PW2(DW7x7(LIF(BN(PW1(LIF(x))))))). x: [T, B, C, H, W] -> same."""

    def __init__(self, dim: int):
        super().__init__()
        hidden = dim * EXPANSION
        depthwise = nn.Conv2d(hidden, hidden, 7, padding=3, groups=hidden, bias=False)
        self.first_neuron, self.second_neuron = lif_node(), lif_node()
        self.expand = conv(dim, hidden, 1)
        self.mix = ConvNorm(nn.Sequential(depthwise, nn.Conv2d(hidden, dim, 1, bias=False)), dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.second_neuron(self.expand(self.first_neuron(x))))


class MLP(nn.Module):
    """BN(conv(LIF(BN(conv(LIF(x)))))), the channel conv and the channel MLP. x: [T, B, C, H, W] -> same."""

    def __init__(self, dim: int, hidden: int, kernel: int, *, bias: bool):
        super().__init__()
        self.first_neuron, self.second_neuron = lif_node(), lif_node()
        self.expand = conv(dim, hidden, kernel, bias=bias)
        self.contract = conv(hidden, dim, kernel, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(self.second_neuron(self.expand(self.first_neuron(x))))


class Attention(nn.Module):
    """SDSA-3: BN(RepConv(LIF(0.125 q (k^T v)))) with q, k, v = LIF(BN(RepConv(LIF(x)))). x: [T, B, C, H, W] -> same."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.neuron, self.core = lif_node(), lif_node(0.5)
        self.q_neuron, self.k_neuron, self.v_neuron = lif_node(), lif_node(), lif_node()
        self.q, self.k, self.v, self.proj = (repconv(dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.neuron(x)
        spikes = self.q_neuron(self.q(x)), self.k_neuron(self.k(x)), self.v_neuron(self.v(x))
        heads = (y.flatten(3).unflatten(2, (self.num_heads, -1)) for y in spikes)
        q, k, v = (y.transpose(-1, -2) for y in heads)  # [T, B, h, N, d]
        y = q @ (k.transpose(-1, -2) @ v) * SCALE
        return self.proj(self.core(y.transpose(-1, -2).reshape(x.shape)))


class ConvBlock(nn.Module):
    """Separable convolution and channel conv, each added to its input. x: [T, B, C, H, W] -> same."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.sep_conv = SepConv(dim)
        self.channel_conv = MLP(dim, hidden, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.sep_conv(x)
        return x + self.channel_conv(x)


class TransformerBlock(nn.Module):
    """Attention and channel MLP, each added to its input. x: [T, B, C, H, W] -> same."""

    def __init__(self, dim: int, hidden: int, num_heads: int):
        super().__init__()
        self.attention = Attention(dim, num_heads)
        self.mlp = MLP(dim, hidden, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class Stage(nn.Module):
    """LIF, downsampling and blocks; the first, which sees the image, has no LIF. x: [T, B, C, H, W] -> the map."""

    def __init__(self, index: int, in_chans: int, config: MetaSpikeFormerConfig):
        super().__init__()
        dim, first = config.widths[index], index == 0
        hidden = int(dim * config.mlp_ratio)
        kernel = config.stem_kernel if first else 3
        self.neuron = nn.Identity() if first else lif_node()
        self.embed = conv(in_chans, dim, kernel, stride=config.strides[index], bias=True)
        kind = config.stage_kinds()[index][0]
        self.blocks = nn.Sequential(
            *(
                ConvBlock(dim, hidden) if kind == "conv" else TransformerBlock(dim, hidden, config.num_heads)
                for _ in range(config.depths[index])
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.embed(self.neuron(x)))


class PeerMetaSpikeFormer(PeerNetwork):
    """Meta-SpikeFormer, membrane shortcuts and SDSA-3. Image [B, C, H, W] -> logits [B, num_classes]. Yao et al. 2024.

    Of the configuration it reads widths, depths, strides, blocks, heads, MLP ratio, first kernel, steps, channels and
    classes.
    """

    def __init__(self, config: MetaSpikeFormerConfig):
        super().__init__(config)
        widths = [config.in_chans, *config.widths[:-1]]
        self.stages = nn.Sequential(*(Stage(i, in_chans, config) for i, in_chans in enumerate(widths)))
        self.head_neuron = lif_node()
        self.head = nn.Linear(config.widths[-1], config.num_classes)

    def forward(self, image: Tensor) -> Tensor:
        self.reset_net(self)
        x = image.unsqueeze(0).repeat(self.num_steps, 1, 1, 1, 1)
        spikes = self.head_neuron(self.stages(x).flatten(3).mean(3))
        return self.head(spikes).mean(0)

    @staticmethod
    def tensors(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of our Meta-SpikeFormer (weights or their gradients) under the peer's names, q, k and v apart."""
        theirs: dict[str, Tensor] = {}
        for key, value in ours.items():
            name = renamed(key, {".branch.": ".", ".embed.unit.": ".embed."})
            theirs |= apart(name, "qkv", "qkv", value) if ".qkv." in name else {name: value}
        return theirs
