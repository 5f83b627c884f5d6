"""SpikeAtConv: ConvNeXt, grid attention and SPK blocks. Liao et al., Front. Neurosci. 19:1536771, 2025.

The paper leaves the inside of its blocks open; they are those of MaxxViT-V2, whose widths and depths it prints, with
batch norm in place of layer norm, no biases in front of it, and an SPK block in front of every weight layer: every
shortcut carries membranes. T time, B batch, C channels, H W space.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from spimm.layers import (
    ACTIVATIONS,
    ATTENTION_GAIN,
    GROUP_ATTENTIONS,
    ConvNeXt,
    ConvNormNeuron,
    Ending,
    Partition,
    PerPart,
    Residual,
    SpikingMLP,
    check_heads,
    grid_attention,
)
from spimm.models.hierarchy import HierarchicalModel, Stage
from spimm.models.registry import Variant, register_variants
from spimm.models.settings import SPKConfig

PAPER = (
    "Liao et al., SpikeAtConv: an integrated spiking-convolutional attention architecture for energy-efficient "
    "neuromorphic vision processing, Front. Neurosci. 19:1536771, 2025"
)

ATTENTION_SPKS = ("lif", "spk")


@dataclass(frozen=True)
class SpikeAtConvConfig(SPKConfig):
    """Everything that tells one SpikeAtConv from another. The defaults are those of Tiny.

    `form` is of the block in front of each ConvNeXt part, by default `depthwise` for mbpl: its depth-wise convolution
    has kernels for each branch. In front of 1x1 convolutions mbpl sums its branches, and dcl, which is for maps of
    currents, gives way to sl.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (1, 3, 6, 1)
    stem_stride: int = 2
    strides: tuple[int, ...] = (2, 2, 2, 2)
    """Of the block that opens each stage."""
    kernel_size: int = 7
    """Of the depth-wise convolutions."""
    expansion: float = 4.0
    """Of the ConvNeXt part."""
    mlp_ratio: float = 4.0
    attention: str = "sisa"
    """sisa, bdsa, or none to leave it out."""
    partition: Partition = "grid"
    """What attends to what: a grid spread over the map, windows, or the full map."""
    group_size: int = 7
    """Side of the grid or of the windows, in tokens."""
    head_dim: int = 32
    attention_spk: str = "lif"
    """What fires on queries, keys and values: lif (Eqs. 7, 8), or spk, the row's own SPK block (3.3.1, Fig. 3)."""
    attention_gain: float = ATTENTION_GAIN
    """The SPK block behind the attention fires on this many times its mean of spikes; as printed: 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_stages(widths=1, depths=1, strides=1)
        if self.widths[0] < 2 or any(wide % narrow for narrow, wide in pairwise(self.widths)):
            raise ValueError(f"widths are {self.widths}; wanted 2 or more, each a multiple of the one before it")
        self.check_at_least_one("stem_stride", "group_size", "head_dim")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {self.kernel_size}; wanted an odd number")
        for label in ("expansion", "mlp_ratio", "attention_gain"):
            if not getattr(self, label) > 0:
                raise ValueError(f"{label} is {getattr(self, label)}; wanted more than 0")
        if self.attention_spk not in ATTENTION_SPKS:
            raise ValueError(f"unknown attention_spk {self.attention_spk!r}; expected {' or '.join(ATTENTION_SPKS)}")
        if self.attention not in (*GROUP_ATTENTIONS, "none"):
            raise ValueError(f"unknown attention {self.attention!r}; wanted {', '.join(GROUP_ATTENTIONS)} or none")
        for width in self.widths:
            check_heads(width, max(1, width // self.head_dim))

    def conv_spk(self, channels: int) -> nn.Module:
        """In front of a ConvNeXt part."""
        mixed = self.spk == "mbpl" and self.form in (None, "depthwise")
        return self.spk_fn(channels, form="concat" if mixed else None)

    def qkv_spk(self, dim: int) -> nn.Module:
        """On queries, keys and values: for sisa as one tensor of 3 dim channels, for bdsa one of dim channels."""
        if self.attention_spk == "lif":
            return self.neuron_fn()
        if self.attention == "sisa" and self.spk == "hsl":
            return PerPart(self.linear_spk(dim) for _ in range(3))
        return self.linear_spk(3 * dim if self.attention == "sisa" else dim)

    def linear_spk(self, channels: int, *, gain: float = 1.0) -> nn.Module:
        """In front of a 1x1 convolution."""
        if self.spk == "dcl":
            first, _ = self.spk_thresholds(gain) or (1.0, 1.0)
            return self.neuron_fn(threshold=first)
        return self.spk_fn(channels, form="sum" if self.spk == "mbpl" else None, gain=gain)


class Stem(nn.Module):
    """Two 3x3 convolutions, an SPK block between them. [T or 1, B, C, H, W] -> membrane [T, B, dim, H / s, W / s]."""

    def __init__(self, in_chans: int, dim: int, config: SpikeAtConvConfig):
        super().__init__()
        half = dim // 2
        self.first = ConvNormNeuron(in_chans, half, 3, stride=config.stem_stride, neuron=config.linear_spk(half))
        self.second = ConvNormNeuron(half, dim, 3, neuron=None)

    def forward(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        return self.second(self.first(x, num_steps))


class SpikeAtConvBlock(nn.Module):
    """ConvNeXt part, attention, FFN, each with its shortcut. x: [T, B, C, H, W] -> [T, B, dim, H / s, W / s]."""

    def __init__(self, in_chans: int, dim: int, stride: int, config: SpikeAtConvConfig, *, drop_path: float):
        super().__init__()
        self.conv = ConvNeXt(
            in_chans,
            dim,
            entry=config.conv_spk(in_chans),
            spk_fn=config.linear_spk,
            stride=stride,
            expansion=config.expansion,
            kernel_size=config.kernel_size,
            drop_path=drop_path,
        )
        self.attention = nn.Identity() if config.attention == "none" else _attention(dim, config, drop_path)
        hidden = int(config.mlp_ratio * dim)
        mlp = SpikingMLP(dim, hidden, neuron=config.linear_spk(hidden), ending=Ending(None), bias=False)
        self.mlp = Residual(mlp, shortcut="membrane", neuron_fn=lambda: config.linear_spk(dim), drop_path=drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.attention(self.conv(x)))


def _attention(dim: int, config: SpikeAtConvConfig, drop_path: float) -> Residual:
    spiking = config.spk not in ACTIVATIONS
    branch = grid_attention(
        config.attention,
        dim,
        max(1, dim // config.head_dim),
        config.group_size,
        neuron=config.qkv_spk(dim) if spiking else None,
        spk=config.linear_spk(dim, gain=config.attention_gain) if spiking else nn.Identity(),
        partition=config.partition,
    )
    entry = nn.Identity() if config.attention == "bdsa" else config.linear_spk(dim)
    return Residual(branch, shortcut="membrane", neuron_fn=lambda: entry, drop_path=drop_path)


class SpikeAtConv(HierarchicalModel):
    """x: image [B, C, H, W] or sequence [B, T, C, H, W] -> logits [B, num_classes]. Nothing is kept between calls.

    The head is an SPK block, the mean over space and time, and a linear layer.
    """

    def __init__(self, config: SpikeAtConvConfig):
        stages, drops = [], config.drop_paths(config.depths)
        for i, dim in enumerate(config.widths):
            in_chans = config.widths[max(i - 1, 0)]
            blocks = [
                SpikeAtConvBlock(
                    *((in_chans, dim, config.strides[i]) if j == 0 else (dim, dim, 1)), config, drop_path=drop
                )
                for j, drop in enumerate(drops[i])
            ]
            embed = Stem(config.in_chans, dim, config) if i == 0 else None
            stages.append(Stage(embed, blocks, checkpoint=config.checkpoint))
        strides = (config.stem_stride * config.strides[0], *config.strides[1:])
        super().__init__(config, stages, config.widths, strides)
        self.config = config
        self.last_neuron = config.linear_spk(self.num_features)


_TINY = SpikeAtConvConfig()
_BASE = replace(_TINY, widths=(96, 192, 384, 768), depths=(2, 6, 8, 2))
_PRINTED_BASE = replace(_TINY, widths=(128, 256, 512, 1024), depths=(2, 6, 12, 2))
_PRINTED_LARGE = replace(_TINY, widths=(160, 320, 640, 1280), depths=(2, 6, 16, 2))


def _laptop(**changes: Any) -> SpikeAtConvConfig:
    """Maps of 16, 8 and 4 places (14, 7 and 4 for 28 pixels), attention of 4 x 4 tokens."""
    small = {"widths": (32, 64, 128), "depths": (1, 2, 1), "strides": (1, 2, 2), "group_size": 4, "num_classes": 10}
    return replace(_TINY, **{**small, **changes})


_RECIPE = "spikeatconv_imagenet"
VARIANTS = {
    "spikeatconv_tiny_table": Variant(
        _TINY, 15_459_974, 224, f"{_RECIPE}_tiny", "ImageNet 76.58 % in the paper, which prints 14.6 M"
    ),
    "spikeatconv_tiny_text": Variant(_TINY, 15_459_974, 224, None, "the same as spikeatconv_tiny_table"),
    "spikeatconv_base_table": Variant(
        _BASE, 54_566_050, 224, _RECIPE, "ImageNet 80.53 % in the paper, which prints 53.4 M"
    ),
    "spikeatconv_base_text": Variant(_PRINTED_BASE, 117_495_584, 224, None, "widths and depths printed for Base"),
    "spikeatconv_base_table_ann": Variant(
        replace(_BASE, spk="gelu"),
        53_691_106,
        224,
        f"{_RECIPE}_ann",
        "spike-free counterpart, ImageNet 81.13 % in the paper",
    ),
    "spikeatconv_large_table": Variant(
        _PRINTED_BASE,
        117_495_584,
        224,
        f"{_RECIPE}_large",
        "ImageNet 81.23 % in the paper, which prints 116.1 M; as spikeatconv_base_text",
    ),
    "spikeatconv_large_text": Variant(_PRINTED_LARGE, 215_902_910, 224, None, "widths and depths printed for Large"),
    "spikeatconv_mnist": Variant(_laptop(in_chans=1), 594_291, 28, None, "ours, for a laptop"),
    "spikeatconv_cifar": Variant(_laptop(), 594_579, 32, "spikeatconv_cifar10_jpeg", "ours, for a laptop"),
    "spikeatconv_64": Variant(_laptop(strides=(2, 2, 2)), 595_667, 64, None, "ours, for a laptop"),
}

register_variants("spikeatconv", PAPER, SpikeAtConv, VARIANTS)
