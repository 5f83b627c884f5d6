"""SpikeAtConv of SpikingJelly's neuron with torch's layers around it, written as its users write networks.

NCHW memory, time folded into the batch for convolutions and norms, the image repeated T times, four neurons for each
MBPL and four depth-wise convolutions behind those that open a block, q, k and v from convolutions of their own,
attention written out, `reset_net` between batches.
T time, B batch, C channels, H W space, h heads, d = C / h, g side of the grid, P = g^2 tokens of a group.
"""

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, softmax

from spimm.bench.peers.network import PeerNetwork, apart, renamed
from spimm.bench.peers.neurons import Branches, lif_node
from spimm.layers import THRESHOLDS
from spimm.models.spikeatconv import SpikeAtConvConfig


def mbpl(gain: float = 1.0) -> Branches:
    """MBPL with the paper's thresholds over `gain`, for an input that is as many times too small."""
    return Branches([threshold / gain for threshold in THRESHOLDS["mbpl"]], "atan")


class ConvNorm(nn.Module):
    """BN(conv(x)). x: [T, B, C, H, W] -> [T, B, C', H / s, W / s]."""

    def __init__(self, in_chans: int, out_chans: int, kernel: int, *, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_chans, out_chans, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_chans)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.flatten(0, 1))).unflatten(0, x.shape[:2])


class DepthwiseNorm(nn.Module):
    """BN of the sum of a depth-wise convolution of each branch. n of [T, B, C, H, W] -> [T, B, C', H / s, W / s]."""

    def __init__(self, in_chans: int, out_chans: int, kernel: int, stride: int, branches: int):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(in_chans, out_chans, kernel, stride, kernel // 2, groups=in_chans, bias=False)
            for _ in range(branches)
        )
        self.norm = nn.BatchNorm2d(out_chans)

    def forward(self, spikes: list[Tensor]) -> Tensor:
        y = reduce(torch.add, [conv(x.flatten(0, 1)) for conv, x in zip(self.convs, spikes, strict=True)])
        return self.norm(y).unflatten(0, spikes[0].shape[:2])


class ConvNeXt(nn.Module):
    """shortcut + BN(PW2(MBPL(BN(PW1(MBPL(BN(DW(MBPL(x))))))))). x: [T, B, C, H, W] -> [T, B, dim, H / s, W / s]."""

    def __init__(self, in_chans: int, dim: int, stride: int, config: SpikeAtConvConfig):
        super().__init__()
        hidden = int(config.expansion * dim)
        self.stride = stride
        self.entry, self.middle, self.last = mbpl(), mbpl(), mbpl()
        branches = len(self.entry.neurons)
        self.depthwise = DepthwiseNorm(in_chans, dim, config.kernel_size, stride, branches)
        self.expand, self.contract = ConvNorm(dim, hidden, 1), ConvNorm(hidden, dim, 1)
        changes = stride > 1 or in_chans != dim
        self.shortcut = ConvNorm(in_chans, dim, 1) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.entry.each(x)
        y = self.contract(self.last(self.expand(self.middle(self.depthwise(spikes)))))
        if isinstance(self.shortcut, ConvNorm):
            x = self.pool(reduce(torch.add, spikes))
        return self.shortcut(x) + y

    def pool(self, x: Tensor) -> Tensor:
        """The sum over places, which the norm behind it takes as well as their mean."""
        if self.stride == 1:
            return x
        pooled = avg_pool2d(x.flatten(0, 1), self.stride, ceil_mode=True, divisor_override=1)
        return pooled.unflatten(0, x.shape[:2])


class Attention(nn.Module):
    """SISA: BN(conv(MBPL(softmax(q k^T / sqrt(d) + bias) v))), q, k, v = LIF(BN(conv(MBPL(x)))). Keeps the shape.

    g divides H and W.
    """

    def __init__(self, dim: int, config: SpikeAtConvConfig):
        super().__init__()
        self.num_heads, self.side = max(1, dim // config.head_dim), config.group_size
        self.scale = (dim // self.num_heads) ** -0.5
        self.entry, self.core = mbpl(), mbpl(config.attention_gain)
        self.q_neuron, self.k_neuron, self.v_neuron = (lif_node(surrogate="atan") for _ in range(3))
        self.q, self.k, self.v, self.proj = (ConvNorm(dim, dim, 1) for _ in range(4))
        self.bias = nn.Parameter(torch.zeros((2 * self.side - 1) ** 2, self.num_heads))
        self.register_buffer("index", relative_index(self.side), persistent=False)
        self.index: Tensor

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.entry(x)
        q, k, v = self.q_neuron(self.q(spikes)), self.k_neuron(self.k(spikes)), self.v_neuron(self.v(spikes))
        q, k, v = (self.split(y.flatten(0, 1)) for y in (q, k, v))
        weights = softmax(q @ k.transpose(-1, -2) * self.scale + self.bias[self.index].permute(2, 0, 1), dim=-1)
        return self.proj(self.core(self.join(weights @ v, x.shape)))

    def split(self, x: Tensor) -> Tensor:
        """The groups of a grid that is spread over the map. [N, C, H, W] -> [N groups, h, P, d]."""
        (count, channels, height, width), g = x.shape, self.side
        x = x.view(count, self.num_heads, channels // self.num_heads, g, height // g, g, width // g)
        return x.permute(0, 4, 6, 1, 3, 5, 2).reshape(-1, self.num_heads, g * g, channels // self.num_heads)

    def join(self, x: Tensor, shape: torch.Size) -> Tensor:
        """[N groups, h, P, d] -> [T, B, C, H, W]."""
        steps, batch, channels, height, width = shape
        g = self.side
        x = x.view(steps * batch, height // g, width // g, self.num_heads, g, g, channels // self.num_heads)
        return x.permute(0, 3, 6, 4, 1, 5, 2).reshape(shape)


def relative_index(side: int) -> Tensor:
    """Row of the table of biases for each query and key, [P, P]: their distance in rows and columns."""
    grid = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = torch.stack(grid).flatten(1)
    row, column = places[:, None, :] - places[:, :, None] + side - 1
    return row * (2 * side - 1) + column


class MLP(nn.Module):
    """BN(conv(MBPL(BN(conv(MBPL(x)))))). x: [T, B, C, H, W] -> same."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.first, self.second = mbpl(), mbpl()
        self.expand, self.contract = ConvNorm(dim, hidden, 1), ConvNorm(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(self.second(self.expand(self.first(x))))


class Block(nn.Module):
    """ConvNeXt part, attention, MLP. x: [T, B, C, H, W] -> [T, B, dim, H / s, W / s]."""

    def __init__(self, in_chans: int, dim: int, stride: int, config: SpikeAtConvConfig):
        super().__init__()
        self.conv = ConvNeXt(in_chans, dim, stride, config)
        self.attention = Attention(dim, config)
        self.mlp = MLP(dim, int(config.mlp_ratio * dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x + self.attention(x)
        return x + self.mlp(x)


class Stem(nn.Module):
    """Two 3x3 convolutions, MBPL between them. [T, B, C, H, W] -> membrane [T, B, dim, H / s, W / s]."""

    def __init__(self, in_chans: int, dim: int, stride: int):
        super().__init__()
        self.first, self.second = ConvNorm(in_chans, dim // 2, 3, stride=stride), ConvNorm(dim // 2, dim, 3)
        self.neuron = mbpl()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.neuron(self.first(x)))


class PeerSpikeAtConv(PeerNetwork):
    """SpikeAtConv with MBPL and SISA. Image [B, C, H, W] -> logits [B, num_classes]. Liao et al. 2025.

    Of the configuration it reads widths, depths, strides, kernel, expansion, MLP ratio, side of the grid, channels of a
    head, gain behind the attention, steps, channels and classes.
    """

    def __init__(self, config: SpikeAtConvConfig):
        super().__init__(config)
        self.stem = Stem(config.in_chans, config.widths[0], config.stem_stride)
        stages, in_chans = [], config.widths[0]
        for dim, depth, stride in zip(config.widths, config.depths, config.strides, strict=True):
            later = [Block(dim, dim, 1, config) for _ in range(depth - 1)]
            stages.append(nn.Sequential(Block(in_chans, dim, stride, config), *later))
            in_chans = dim
        self.stages = nn.Sequential(*stages)
        self.neuron = mbpl()
        self.head = nn.Linear(in_chans, config.num_classes)

    def forward(self, image: Tensor) -> Tensor:
        self.reset_net(self)
        x = image.unsqueeze(0).repeat(self.num_steps, 1, 1, 1, 1)
        spikes = self.neuron(self.stages(self.stem(x)))
        return self.head(spikes.flatten(3).mean(3).mean(0))

    @staticmethod
    def tensors(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of our SpikeAtConv (weights or their gradients) under the peer's names.

        Apart are q, k and v, and the depth-wise convolution's kernels of each branch.
        """
        theirs: dict[str, Tensor] = {}
        for key, value in ours.items():
            name = renamed(key, _RENAMED)
            if ".qkv." in name:
                theirs |= apart(name, "qkv", "qkv", value)
            elif ".depthwise.conv." in name:
                theirs |= apart(name, "depthwise.conv", _DEPTHWISE, value)
            else:
                theirs[name] = value
        return theirs


_DEPTHWISE = [f"depthwise.convs.{i}" for i in range(len(THRESHOLDS["mbpl"]))]
_RENAMED = {".branch.": ".", ".blocks.": ".", ".core.bias": ".bias", "stages.0.embed.": "stem."}
