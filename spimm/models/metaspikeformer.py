"""Meta-SpikeFormer (Spike-driven Transformer V2). Yao et al., ICLR 2024, arXiv:2404.03663.

T time, B batch, C channels, H W space, D width of the last stage, K classes.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from spimm.layers import (
    SDSA,
    ConvNormNeuron,
    Projection,
    SepConv,
    Shortcut,
    over_time,
    sdsa,
)
from spimm.models.hierarchy import HierarchicalModel, Stage, pooled
from spimm.models.registry import Variant, register_variants
from spimm.models.settings import TransformerConfig

PAPER = (
    "Yao et al., Spike-driven Transformer V2: Meta Spiking Neural Network Architecture Inspiring the Design of "
    "Next-generation Neuromorphic Chips, ICLR 2024, arXiv:2404.03663"
)
BLOCKS = ("conv", "transformer")
DETECTION_MAPS, SEGMENTATION_MAPS = (1, 2, 3, 4), (0, 1, 2, 4)
"""Stages whose maps the paper's detector (strides 4, 8, 16, 16) and segmenter (2, 4, 8, 16) take: `out_indices`."""


@dataclass(frozen=True)
class MetaSpikeFormerConfig(TransformerConfig):
    """Everything that tells one Meta-SpikeFormer from another. The defaults are those of the 31.3 M size (C = 48)."""

    widths: tuple[int, ...] = (48, 96, 192, 384, 480)
    """C, 2C, 4C, 8C, 10C."""
    depths: tuple[int, ...] = (1, 1, 2, 6, 2)
    strides: tuple[int, ...] = (2, 2, 2, 2, 1)
    """Of the convolution that opens each stage."""
    blocks: str | tuple[str, ...] = ("conv", "conv", "conv", "transformer", "transformer")
    """conv or transformer for each stage; a text names them with commas, or one for all stages."""
    attention: str | tuple[str, ...] = "sdsa3"
    """One of sdsa1, sdsa2, sdsa3, sdsa4, vsa for each stage, written as `blocks`; conv stages ignore theirs."""
    sep_conv: bool = True
    """The separable convolution of conv blocks; False is the ablation without it."""
    channel_kernel: int = 3
    """Kernel of the two convolutions that mix channels in conv blocks; 1 is the ablation with a channel MLP."""
    qkv_conv: Projection = "repconv"
    """What gives q, k and v; `linear`, a 1x1 convolution, is an ablation, as for `proj_conv`."""
    proj_conv: Projection = "repconv"
    stem_kernel: int = 7
    """Kernel of the first convolution."""
    num_steps: int = 1
    shortcut: Shortcut = "membrane"
    distillation: bool = False
    """A second classifier, to be taught by a teacher: logits of both in training, their mean otherwise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_stages(widths=1, depths=0, strides=1)
        self.stage_kinds()
        for label in ("channel_kernel", "stem_kernel"):
            if getattr(self, label) < 1 or getattr(self, label) % 2 == 0:
                raise ValueError(f"{label} is {getattr(self, label)}; wanted an odd number")

    def stage_kinds(self) -> list[tuple[str, str]]:
        """Block and attention of each stage."""
        stages = len(self.widths)
        kinds = self.per_stage("blocks", stages, BLOCKS), self.per_stage("attention", stages, SDSA)
        return list(zip(*kinds, strict=True))


class Downsample(nn.Module):
    """LIF, conv with bias, BN: opens a stage. x: [T, B, C, H, W], or [1, ...] with `num_steps` -> [T, B, dim, H', W'].

    The first one sees the image and has no LIF in front. With another shortcut than `membrane` the LIF is behind.
    """

    def __init__(self, in_chans: int, dim: int, stride: int, config: MetaSpikeFormerConfig, *, first: bool):
        super().__init__()
        kernel_size = config.stem_kernel if first else 3
        self.entry = nn.Identity() if first else config.entry()
        neuron = config.ending().neuron
        self.unit = ConvNormNeuron(in_chans, dim, kernel_size, stride=stride, bias=True, neuron=neuron)

    def forward(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        x = self.unit(self.entry(x), num_steps)
        return x.expand(num_steps or len(x), *x.shape[1:])


class ConvBlock(nn.Module):
    """Separable convolution and channel convolution, each with its shortcut. x: [T, B, dim, H, W] -> same."""

    def __init__(self, dim: int, config: MetaSpikeFormerConfig, *, drop_path: float):
        super().__init__()
        self.sep_conv = nn.Identity()
        if config.sep_conv:
            sep_conv = SepConv(dim, neuron=config.neuron_fn(), ending=config.ending())
            self.sep_conv = config.residual(sep_conv, drop_path=drop_path)
        channel_conv = config.mlp(dim, kernel_size=config.channel_kernel, bias=False)
        self.channel_conv = config.residual(channel_conv, drop_path=drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.channel_conv(self.sep_conv(x))


class TransformerBlock(nn.Module):
    """Spike-driven self-attention and MLP, each with its shortcut. x: [T, B, dim, H, W] -> same."""

    def __init__(self, dim: int, attention: str, config: MetaSpikeFormerConfig, *, drop_path: float):
        super().__init__()
        attention_branch = sdsa(
            attention,
            dim,
            config.num_heads,
            neuron_fn=config.neuron_fn,
            attention_neuron_fn=config.attention_neuron_fn,
            ending=config.ending(),
            qkv_conv=config.qkv_conv,
            proj_conv=config.proj_conv,
            merge_scale=config.merge_scale,
        )
        self.attention = config.residual(attention_branch, drop_path=drop_path)
        self.mlp = config.residual(config.mlp(dim), drop_path=drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.attention(x))


class MetaSpikeFormer(HierarchicalModel):
    """x: image [B, C, H, W] or sequence [B, T, C, H, W] -> logits [B, num_classes]. Nothing is kept between calls.

    With `distillation` two logits in training mode, of the classifier and of the one that a teacher teaches.
    """

    distilled_head: nn.Module | None

    def __init__(self, config: MetaSpikeFormerConfig):
        self.config = config
        stages, kinds, drops = [], config.stage_kinds(), config.drop_paths(config.depths)
        for i, in_chans in enumerate([config.in_chans, *config.widths[:-1]]):
            dim, (kind, attention) = config.widths[i], kinds[i]
            embed = Downsample(in_chans, dim, config.strides[i], config, first=i == 0)
            build = partial(ConvBlock, dim) if kind == "conv" else partial(TransformerBlock, dim, attention)
            blocks = [build(config, drop_path=drop) for drop in drops[i]]
            stages.append(Stage(embed, blocks, checkpoint=config.checkpoint))
        super().__init__(config, stages, config.widths, config.strides)
        self.head_neuron = config.entry()

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Names of the modules that depend on the number of classes."""
        return ("head", "distilled_head") if self.config.distillation else ("head",)

    def run_head(self, features: Tensor, pre_logits: bool = False) -> Any:
        """[T, B, D, H', W'] -> logits [B, K]: mean over space, LIF, linear at each step, mean over time.

        With another shortcut than `membrane` the features are spikes already: there is no LIF, which the mean of spikes
        would never reach. With a distilled classifier the mean of both logits, or in training mode the pair (logits,
        distilled logits). `pre_logits`, or no classifier: what the classifier sees, its mean over time, [B, D].
        """
        x = self.head_neuron(pooled(features))
        if pre_logits or isinstance(self.head, nn.Identity):
            return x.mean(0)
        x = dropout(x.to(next(self.head.parameters()).dtype), self.drop_rate, self.training)
        logits = over_time(self.head, x).mean(0)
        if self.distilled_head is None:
            return logits
        distilled = over_time(self.distilled_head, x).mean(0)
        return (logits, distilled) if self.training else torch.stack((logits, distilled)).mean(0)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """As ImageModel's; the distilled classifier, if there is one, is replaced as well."""
        super().reset_classifier(num_classes, global_pool)
        distilled = self.config.distillation and num_classes
        self.distilled_head = self._classifier(num_classes) if distilled else None

    def _remove_head(self) -> None:
        super()._remove_head()
        self.head_neuron = nn.Identity()


def size(base: int, last: int | None = None, **changes: Any) -> MetaSpikeFormerConfig:
    """C = `base`: stages of C, 2C, 4C, 8C and 10C channels (`last` if given)."""
    widths = (base, 2 * base, 4 * base, 8 * base, last or 10 * base)
    return replace(MetaSpikeFormerConfig(), widths=widths, **changes)


_BASE = MetaSpikeFormerConfig()
_DVS = size(40, depths=(1, 1, 2, 4, 2), num_steps=8, in_chans=2, num_classes=300)


def _laptop(*strides: int, **changes: Any) -> MetaSpikeFormerConfig:
    small = {"depths": (1, 1, 1, 2, 1), "num_heads": 4, "num_classes": 10, "stem_kernel": 3}
    return size(16, strides=strides, **{**small, **changes})


_NMNIST = replace(
    _laptop(2, 2, 2, 1, 1, in_chans=2, num_steps=4),
    widths=(32, 64, 128),
    depths=(1, 1, 1),
    strides=(2, 2, 2),
    blocks=("conv", "conv", "transformer"),
)

VARIANTS = {
    "metaspikeformer_15m": Variant(
        size(32, 360), 15_112_208, 224, "metaspikeformer_imagenet", "ImageNet 71.8 / 74.1 % at T = 1 / 4 in the paper"
    ),
    "metaspikeformer_31m": Variant(
        _BASE, 31_333_864, 224, "metaspikeformer_imagenet_31m", "ImageNet 75.4 / 77.2 % at T = 1 / 4 in the paper"
    ),
    "metaspikeformer_55m": Variant(
        size(64),
        55_350_248,
        224,
        "metaspikeformer_imagenet_55m",
        "ImageNet 78.0 / 79.7 % at T = 1 / 4, distilled 79.1 / 80.0, in the paper",
    ),
    "metaspikeformer_124m": Variant(size(96), 123_741_160, 224, None, "of the authors' code, not in the paper"),
    "metaspikeformer_mnist": Variant(_laptop(1, 2, 2, 2, 1, in_chans=1), 1_670_474, 28, None, "ours, for a laptop"),
    "metaspikeformer_cifar": Variant(
        _laptop(1, 2, 2, 2, 1), 1_670_762, 32, "metaspikeformer_cifar10_jpeg", "ours, for a laptop"
    ),
    "metaspikeformer_cifar_half": Variant(
        _laptop(2, 2, 2, 1, 1), 1_670_762, 32, "metaspikeformer_ablation", "ours, for ablations on a laptop"
    ),
    "metaspikeformer_64": Variant(_laptop(2, 2, 2, 2, 1), 1_670_762, 64, None, "ours, for a laptop"),
    "metaspikeformer_nmnist": Variant(_NMNIST, 766_506, 34, "nmnist", "ours, three stages for events on a laptop"),
    "metaspikeformer_18m_dvs": Variant(_DVS, 18_262_980, 224, "metaspikeformer_har_dvs", "HAR-DVS 47.5 % in the paper"),
}


class Ablation(NamedTuple):
    """A row of the paper's ablation table: options of `metaspikeformer_31m`, and what is printed there."""

    options: dict[str, Any]
    params: float
    """Millions of parameters."""
    top1: float
    """ImageNet, T = 1, %; nan did not converge."""


ABLATIONS = {
    "no_sep_conv": Ablation({"sep_conv": False}, 30.9, 75.1),
    "channel_mlp": Ablation({"channel_kernel": 1}, 25.9, 73.4),
    "stage1_2c": Ablation(
        {
            "widths": (96, 192, 384, 480),
            "depths": (2, 2, 6, 2),
            "strides": (4, 2, 2, 1),
            "blocks": ("conv", "conv", "transformer", "transformer"),
        },
        31.8,
        75.2,
    ),
    "linear_qkv": Ablation({"qkv_conv": "linear"}, 27.2, 75.0),
    "linear_proj": Ablation({"proj_conv": "linear"}, 30.0, 75.3),
    "sdsa1": Ablation({"attention": "sdsa1"}, 31.3, 74.6),
    "sdsa2": Ablation({"attention": "sdsa2"}, 28.6, 74.2),
    "sdsa4": Ablation({"attention": "sdsa4"}, 31.3, 75.4),
    "vanilla": Ablation({"shortcut": "vanilla"}, 31.3, math.nan),
    "spike_add": Ablation({"shortcut": "spike_add"}, 31.3, 73.5),
    "no_pyramid": Ablation(
        {"widths": (48, 96, 192, 384), "depths": (1, 1, 2, 8), "strides": (2, 2, 2, 2), "blocks": _BASE.blocks[:4]},
        26.9,
        74.7,
    ),
    "transformer": Ablation({"blocks": "transformer"}, 26.2, 71.7),
}
"""The rows that we can build. `blocks="conv"` gives a fully convolutional network as well; the paper's, of 36.0 M, has
another form, which it does not describe."""

register_variants("metaspikeformer", PAPER, MetaSpikeFormer, VARIANTS)
