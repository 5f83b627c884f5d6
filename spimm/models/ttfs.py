"""DTA-TTFS: networks in which a neuron fires at most once. Wei et al., ICCV 2023.

Layer l may fire in a window of its own, [l, l + 1] in units of T_w; times are relative to it. P planes: 2 of spikes,
what is left of the window when a neuron fires and whether it does; 1 in the ReLU1 twin, the activation. T time (frames,
each on its own), B batch, C channels, H W space, D width.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.functional import dropout

from spimm.layers import (
    Conv2d,
    DirectCode,
    PixelCode,
    PSPConv2d,
    PSPLinear,
    ReadOut,
    Readout,
    TTFSUnit,
    as_sequence,
    checkpointed,
    unfold_time,
)
from spimm.models.image_model import ImageModel, Maps
from spimm.models.registry import Variant, register_variants
from spimm.models.settings import ImageConfig
from spimm.neurons import RelPSP, ReLU1

PAPER = (
    "Wei et al., Temporal-Coded Spiking Neural Networks with Dynamic Firing Threshold: Learning with Event-Driven "
    "Backpropagation, ICCV 2023, https://openaccess.thecvf.com/content/ICCV2023/html/"
    "Wei_Temporal-Coded_Spiking_Neural_Networks_with_Dynamic_Firing_Threshold_Learning_with_ICCV_2023_paper.html"
)


@dataclass(frozen=True)
class TTFSConfig(ImageConfig):
    """Everything that tells one network from another. The defaults are those of VGG11 for 32x32 images."""

    num_classes: int = 10
    num_steps: int = 1
    """Of a still image: each layer has one window. A sequence of frames is as many images, their logits averaged."""
    image_size: int = 32
    convs: str = "64,M,128,M,256,256,M,512,512,M,512,512,M"
    """Channels of the convolutions; M: the earliest spike of each 2x2 square of the one in front."""
    kernel_size: int = 3
    padding: int = 1
    hidden: str = "4096,4096"
    """Neurons of the fully connected layers in front of the last; an empty text for none."""
    code: Literal["direct", "pixels"] = "direct"
    """How an image becomes spikes: by the first convolution, or each pixel of [0, 1] by its value (Eq. 1)."""
    neuron: Literal["rel_psp", "relu1"] = "rel_psp"
    """relu1: the ordinary network with the same weights."""
    window: float = 1.0
    """T_w, the length of a layer's window."""
    closed: bool = True
    """A potential of exactly 0 where the window ends is a spike, as all neurons without any input have it."""
    clip: float = math.inf
    """Largest derivative of a spike time by the sum of weights or of weighted times; the authors have 1e5, or 11."""
    readout: ReadOut = "start"
    """The logits: the potential where the output window starts, where it ends, or minus the spike time."""
    init_gain: float = 1.0
    """Standard deviation of new weights over that of He et al. 2015 for their inputs."""
    init_centred: bool = False
    """New weights of each neuron have the sum 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least_one("image_size", "kernel_size")
        if self.num_steps != 1:
            raise ValueError(f"num_steps is {self.num_steps}; each layer has one window of spike times, wanted 1")
        if self.code not in ("direct", "pixels"):
            raise ValueError(f"code is {self.code!r}; wanted direct or pixels")
        if self.neuron not in ("rel_psp", "relu1"):
            raise ValueError(f"neuron is {self.neuron!r}; wanted rel_psp or relu1")
        for label in ("window", "clip", "init_gain"):
            if not getattr(self, label) > 0:
                raise ValueError(f"{label} is {getattr(self, label)}; wanted more than 0")
        if self.padding < 0:
            raise ValueError(f"padding is {self.padding}; wanted 0 or more")
        self.conv_plan()
        self.hidden_widths()

    def conv_plan(self) -> list[list[int]]:
        """Channels of the convolutions of each stage; every stage but perhaps the last ends with a pool."""
        stages: list[list[int]] = [[]]
        for entry in str(self.convs).split(","):
            if entry.strip() == "M":
                if not stages[-1]:
                    raise ValueError(f"convs are {self.convs!r}; wanted a convolution in front of each M")
                stages.append([])
            else:
                stages[-1].append(_width("convs", self.convs, entry))
        return stages if stages[-1] else stages[:-1]

    @property
    def last_pools(self) -> bool:
        """Whether the last stage ends with a pool too."""
        return str(self.convs).rstrip().endswith("M")

    def hidden_widths(self) -> list[int]:
        """Neurons of the fully connected layers in front of the last."""
        return [_width("hidden", self.hidden, entry) for entry in str(self.hidden).split(",")] if self.hidden else []

    def neuron_fn(self) -> RelPSP | ReLU1:
        """A new neuron with these settings."""
        return RelPSP(window=self.window, closed=self.closed, clip=self.clip) if self.neuron == "rel_psp" else ReLU1()


def _width(label: str, setting: str, entry: str) -> int:
    if not entry.strip().isdecimal() or int(entry) < 1:
        raise ValueError(f"{label} are {setting!r}; wanted whole numbers above 0 with commas between them")
    return int(entry)


class TTFSNet(ImageModel):
    """x: image [B, C, H, W] or frames [B, T, C, H, W] -> logits [B, num_classes]. Nothing is kept between calls.

    Images have the size of the configuration. `forward_features` gives the planes [T, B, P, D, H, W] of the last map.
    """

    head: nn.Module

    def __init__(self, config: TTFSConfig):
        super().__init__(config)
        self.config = config
        self.checkpoint = False
        self.planes = planes = config.neuron_fn().planes
        self.stages = nn.ModuleList()
        side, chans, plan = config.image_size, config.in_chans, config.conv_plan()
        reduction = 1
        for i, widths in enumerate(plan):
            pools = i < len(plan) - 1 or config.last_pools
            units: list[nn.Module] = []
            if i == 0 and config.code == "pixels":
                units.append(PixelCode(planes=planes, window=config.window))
            for j, width in enumerate(widths):
                pool = 2 if pools and j == len(widths) - 1 else 1
                side = (side - config.kernel_size + 1 + 2 * config.padding) // pool
                units.append(self._conv(chans, width, pool, direct=i == j == 0 and config.code == "direct"))
                chans = width
            if side < 1:
                raise ValueError(
                    f"image_size is {config.image_size}; stage {i} has no pixel left, wanted a larger image"
                )
            reduction *= 2 if pools else 1
            self.stages.append(nn.Sequential(*units))
            self.feature_info.append({"num_chs": chans, "reduction": reduction, "module": f"stages.{i}", "size": side})
        self.num_features, features = chans, chans * side**2
        self.hidden = nn.Sequential()
        for width in config.hidden_widths():
            self.hidden.append(TTFSUnit(PSPLinear(features, width), config.neuron_fn()))
            features = width
        self._hidden_size = features
        self.readout = Readout(config.readout, config.neuron_fn())
        self.reset_classifier(config.num_classes)
        for module in (*self.stages.modules(), *self.hidden.modules()):
            self._initialise(module)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def head_hidden_size(self) -> int:
        """Width of what the classifier takes: the last fully connected layer, or all of the last map."""
        return self._hidden_size

    def layers(self) -> list[nn.Module]:
        """Each convolution and each fully connected layer but the last."""
        stages: list[Any] = [*self.stages, self.hidden]
        units = [unit for stage in stages for unit in stage]
        return [unit for unit in units if not isinstance(unit, PixelCode)]

    def _conv(self, in_chans: int, width: int, pool: int, *, direct: bool) -> nn.Module:
        config = self.config
        if direct:
            conv = Conv2d(in_chans, width, config.kernel_size, padding=config.padding, bias=False)
            return DirectCode(conv, planes=config.neuron_fn().planes, window=config.window, pool=pool)
        conv = PSPConv2d(in_chans, width, config.kernel_size, padding=config.padding)
        return TTFSUnit(conv, config.neuron_fn(), pool=pool)

    @torch.no_grad()
    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            module.weight.mul_(self.config.init_gain)
            if self.config.init_centred:
                weight = module.weight
                weight.sub_(weight.flatten(1).mean(1).view(-1, *[1] * (weight.dim() - 1)))

    def _classifier(self, num_classes: int) -> nn.Module:
        if not num_classes:
            return nn.Identity()
        head = PSPLinear(self.head_hidden_size, num_classes)
        self._initialise(head)
        like = next(self.stages.parameters())
        return head.to(like.device, like.dtype)

    def run_stages(self, x: Tensor, last: int | None = None) -> tuple[Tensor, Maps]:
        """Planes [T, B, P, D, H, W] of the last map; maps: what is left of their windows when a stage's neurons fire.

        Raises ValueError for images of another size than the configuration's.
        """
        frames = _frames(x, self.in_chans, self.config.image_size)
        spikes, maps = frames.flatten(0, 1), Maps()
        for index, stage in enumerate(self.stages[: None if last is None else last + 1]):
            spikes = checkpointed(stage, spikes) if self.checkpoint else stage(spikes)
            maps[index] = unfold_time(spikes[0], frames)
        return spikes.unflatten(1, frames.shape[:2]).movedim(0, 2), maps

    def run_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Planes [T, B, P, D, H, W] of the last map -> logits [B, num_classes], the mean over frames.

        `pre_logits`, or no classifier: what is left of the window at the spikes of the last hidden layer, [B, D].
        `drop_rate`: of those neurons, whose spikes do not reach the classifier.
        """
        frames = features.shape[:2]
        spikes = self.hidden(features.movedim(2, 0).flatten(1, 2).flatten(2))
        if pre_logits or isinstance(self.head, nn.Identity):
            return spikes[0].unflatten(0, frames).mean(0)
        if self.training and self.drop_rate:
            spikes = spikes * dropout(torch.ones_like(spikes[0]), self.drop_rate)
        return self.readout(self.head(spikes)).unflatten(0, frames).mean(0)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether training keeps only the inputs of stages and computes the rest again."""
        self.checkpoint = enable

    def _remove_head(self) -> None:
        last = self.feature_info[-1]
        self.hidden, self._hidden_size = nn.Sequential(), last["num_chs"] * last["size"] ** 2


@torch.fx.wrap
def _frames(x: Tensor, in_chans: int, side: int) -> Tensor:
    """`as_sequence` of images of that side, [T, B, C, H, W]."""
    frames, _ = as_sequence(x, 1, in_chans)
    if tuple(frames.shape[-2:]) != (side, side):
        raise ValueError(f"input is {tuple(frames.shape[-2:])} pixels; the network takes {side} a side")
    return frames


def _twin(recipe: str | None) -> str | None:
    return None if recipe == "ttfs_mnist" else f"{recipe}_ann"


_VGG11 = TTFSConfig()
_VGG16 = replace(_VGG11, convs="64,64,M,128,128,M,256,256,256,M,512,512,512,M,512,512,512,M")
_MNIST = TTFSConfig(
    in_chans=1,
    image_size=28,
    convs="16,M,32,M",
    kernel_size=5,
    padding=0,
    hidden="800,128",
    code="pixels",
    closed=False,  # else every neuron over black pixels alone fires as its window closes
)
VARIANTS = {
    "ttfs_mnist_cnn": Variant(_MNIST, 526_480, 28, "ttfs_mnist", "MNIST 99.4 % in the paper", unit_input=True),
    "ttfs_vgg11": Variant(_VGG11, 28_133_056, 32, "ttfs_vgg11_cifar10", "CIFAR-10 91.17 % in the paper"),
    "ttfs_vgg16": Variant(_VGG16, 33_625_792, 32, "ttfs_vgg16_cifar10", "CIFAR-10 93.05 % in the paper"),
}
VARIANTS |= {
    f"{name}_ann": variant._replace(
        config=replace(variant.config, neuron="relu1"), recipe=_twin(variant.recipe), note="its ReLU1 twin"
    )
    for name, variant in VARIANTS.items()
}

register_variants("ttfs", PAPER, TTFSNet, VARIANTS)
