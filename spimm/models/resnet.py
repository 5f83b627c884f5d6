"""ResNet-18 (He et al. 2016) with SPK blocks in place of its activations: Liao et al. 2025 (SpikeAtConv), Tables 1, 2.

The stem is that for small images, one 3x3 convolution. T time, B batch, C channels, H W space.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from spimm.layers import ConvNormNeuron, drop_samples
from spimm.models.hierarchy import HierarchicalModel, Stage
from spimm.models.registry import Variant, register_variants
from spimm.models.settings import SPKConfig
from spimm.models.spikeatconv import PAPER


@dataclass(frozen=True)
class ResNetConfig(SPKConfig):
    """Everything that tells one ResNet from another. The defaults are those of ResNet-18."""

    width: int = 64
    """Channels of the first stage; each later one has twice as many."""
    depths: tuple[int, ...] = (2, 2, 2, 2)
    stem_stride: int = 1
    num_classes: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least_one("width", "stem_stride")
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"depths are {self.depths}; wanted 1 or more blocks in each stage")
        if self.form == "concat":
            raise ValueError("form is 'concat'; a ResNet wants as many channels behind an activation as in front of it")


class BasicBlock(nn.Module):
    """SPK(BN(conv(SPK(BN(conv(x))))) + shortcut). x: [T, B, C, H, W] -> [T, B, dim, H / stride, W / stride].

    `drop_path`: as for layers.Residual; the activation then sees the shortcut without the branch.
    """

    def __init__(self, in_chans: int, dim: int, stride: int, config: ResNetConfig, *, drop_path: float):
        super().__init__()
        self.drop_path = drop_path
        self.first = ConvNormNeuron(in_chans, dim, 3, stride=stride, neuron=config.spk_fn(dim))
        self.second = ConvNormNeuron(dim, dim, 3, neuron=config.spk_fn(dim), adds_first=True)
        changes = stride > 1 or in_chans != dim
        self.shortcut = ConvNormNeuron(in_chans, dim, 1, stride=stride, neuron=None) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.drop_path):
            return self.second(self.first(x), added=self.shortcut(x))
        branch = drop_samples(self.second.membrane(self.first(x)), self.drop_path)
        assert self.second.neuron is not None
        return self.second.neuron(self.shortcut(x) + branch)


class ResNet(HierarchicalModel):
    """x: image [B, C, H, W] or sequence [B, T, C, H, W] -> logits [B, num_classes]. Nothing is kept between calls."""

    def __init__(self, config: ResNetConfig):
        widths = [config.width * 2**i for i in range(len(config.depths))]
        strides = [config.stem_stride, *[2] * (len(widths) - 1)]
        stages, drops = [], config.drop_paths(config.depths)
        for i, dim in enumerate(widths):
            embed, in_chans, stride = None, widths[max(i - 1, 0)], 1 if i == 0 else 2
            if i == 0:
                spk = config.spk_fn(dim)
                embed = ConvNormNeuron(config.in_chans, dim, 3, stride=config.stem_stride, neuron=spk)
            blocks = [
                BasicBlock(*((in_chans, dim, stride) if j == 0 else (dim, dim, 1)), config, drop_path=drop)
                for j, drop in enumerate(drops[i])
            ]
            stages.append(Stage(embed, blocks, checkpoint=config.checkpoint))
        super().__init__(config, stages, widths, strides)
        self.config = config


class TableRow(NamedTuple):
    """A row of the paper's Table 1 or 2: options of `resnet18_cifar`, and what is printed there."""

    options: dict[str, Any]
    table: int
    top1: float
    """CIFAR-100, %."""


def _row(
    table: int, top1: float, spk: str, num_steps: int = 1, thresholds: str | None = None, **options: Any
) -> TableRow:
    given = {} if thresholds is None else {"thresholds": thresholds}
    return TableRow({"spk": spk, "num_steps": num_steps, **given, **options}, table, top1)


TABLES = {
    "ann": _row(1, 75.4, "relu"),
    "sl_t1_tau4_sigmoid": _row(1, 64.3, "sl", tau=4.0, surrogate="sigmoid"),
    "sl_t1_sigmoid": _row(1, 66.0, "sl", surrogate="sigmoid"),
    "sl_t1_atan": _row(1, 67.1, "sl"),
    "sl_t4_sigmoid": _row(1, 70.9, "sl", 4, surrogate="sigmoid"),
    "sl_t8_sigmoid": _row(1, 70.4, "sl", 8, surrogate="sigmoid"),
    "rl_t1": _row(1, 71.0, "rl"),
    "mbpl4_t2": _row(1, 74.4, "mbpl", 2),
    "hsl_t2": _row(1, 70.6, "hsl", 2),
    "dcl_t2": _row(1, 70.3, "dcl", 2),
    "mbpl2_t1": _row(2, 71.7, "mbpl", 1, "1,2"),
    "mbpl3_t1": _row(2, 71.9, "mbpl", 1, "1,2,4"),
    "mbpl4_t1": _row(2, 72.5, "mbpl", 1),
    "mbpl4_t1_1246": _row(2, 72.2, "mbpl", 1, "1,2,4,6"),
    "mbpl4_t2_sigmoid": _row(2, 73.8, "mbpl", 2, surrogate="sigmoid"),
    "mbpl4_t4": _row(2, 73.6, "mbpl", 4),
    "mbpl8_t2": _row(2, 59.0, "mbpl", 2, "0.2,1,2,3,4,5,6,7"),
}
"""Every row of both tables; `mbpl4_t2` stands in both. Where nothing else is said tau is 2 and the surrogate ATan."""

_FULL = ResNetConfig()
_SMALL = replace(_FULL, width=16, stem_stride=2)
_NOTE = "CIFAR-100 74.4 % in the paper (MBPL, T = 2)"
VARIANTS = {
    "resnet18_cifar": Variant(_FULL, 11_220_132, 32, "cifar100_mbpl4_t2", _NOTE),
    "resnet18_cifar_ann": Variant(
        replace(_FULL, spk="relu"), 11_220_132, 32, "cifar100_ann", "CIFAR-100 75.4 % in the paper"
    ),
    "resnet18_cifar_small": Variant(_SMALL, 713_076, 32, "spk_tables", "ours, a quarter of the width, for a laptop"),
}

register_variants("resnet", PAPER, ResNet, VARIANTS)
