"""Gradients of whole backbones under plain heads: autograd against finite differences, in every order of memory."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm.kernels.lif import reference
from spimm.layers.norm import frozen_statistics
from spimm.models.features import FeatureList

from .conftest import lively

META = {"widths": (4, 8, 16), "depths": (1, 1, 1), "strides": (1, 2, 2), "num_heads": 2, "in_chans": 3}
CONV = {"widths": (8, 16), "depths": (1, 1), "strides": (1, 2), "head_dim": 8, "group_size": 2, "in_chans": 3}
TTFS = {"convs": "6,M,8,M", "hidden": "12", "image_size": 8, "kernel_size": 3, "padding": 1, "in_chans": 3}
QKFORMER = {"embed_dim": 32, "num_heads": 2, "in_chans": 3}
RESNET = {"width": 4, "depths": (1, 1)}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qkformer": ("qkformer_3_64_digits", QKFORMER),
    "metaspikeformer": ("metaspikeformer_mnist", {**META, "blocks": ("conv", "transformer", "transformer")}),
    "spikeatconv": ("spikeatconv_mnist", CONV),
    "resnet": ("resnet18_cifar_small", RESNET),
    "ttfs": ("ttfs_mnist_cnn", TTFS),
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "qkformer vanilla": ("qkformer_3_64_digits", {**QKFORMER, "shortcut": "vanilla"}),
    "qkformer membrane": ("qkformer_3_64_digits", {**QKFORMER, "shortcut": "membrane"}),
    "qkformer plif": ("qkformer_3_64_digits", {**QKFORMER, "neuron": "plif"}),
    "metaspikeformer conv": ("metaspikeformer_mnist", {**META, "blocks": "conv", "sep_conv": False}),
    "metaspikeformer sdsa1": ("metaspikeformer_mnist", {**META, "blocks": "transformer", "attention": "sdsa1"}),
    "spikeatconv rl": ("spikeatconv_mnist", {**CONV, "spk": "rl", "form": "serial"}),
    "spikeatconv hsl": ("spikeatconv_mnist", {**CONV, "spk": "hsl"}),
    "spikeatconv dcl": ("spikeatconv_mnist", {**CONV, "spk": "dcl", "form": "split_norm"}),
    "spikeatconv mixed": ("spikeatconv_mnist", {**CONV, "spk": "mbpl", "form": "convnext"}),
    "spikeatconv gelu": ("spikeatconv_mnist", {**CONV, "spk": "gelu"}),
    "resnet mbpl": ("resnet18_cifar_small", {**RESNET, "spk": "mbpl"}),
    "resnet relu": ("resnet18_cifar_small", {**RESNET, "spk": "relu"}),
    "ttfs ann": ("ttfs_mnist_cnn", {**TTFS, "neuron": "relu1"}),
}
LAYOUTS = ["nchw", "channels-last", "odd strides", "strided"]


@pytest.fixture
def smooth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neurons fire by their surrogates' primitives: float64 networks are then differentiable in the ordinary sense."""
    monkeypatch.setattr(reference, "spike", lambda u, surrogate: surrogate.primitive(u))


def backbone(name: str, options: dict[str, Any], num_steps: int, *, train: bool = False) -> FeatureList:
    steps = {} if name.startswith("ttfs") else {"num_steps": num_steps}
    net = lively(spimm.create_model(name, features_only=True, **options, **steps)).train(train)
    for part in net.modules():
        if hasattr(part, "detach_reset"):
            part.detach_reset = False
    assert isinstance(net, FeatureList)
    return net


def pictures(name: str, batch: int, num_steps: int) -> Tensor:
    """Still images, or frames where the family has no time steps for them; of 8 pixels, in [0, 1]."""
    frames = (num_steps,) if name.startswith("ttfs") and num_steps > 1 else ()
    return torch.rand(batch, *frames, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def in_layout(x: Tensor, layout: str) -> Tensor:
    """The same images in another order of memory; odd strides: those of axes of size 1 mean nothing."""
    if layout == "nchw":
        return x.contiguous()
    last = x.movedim(-3, -1).contiguous()
    if layout == "strided":
        last = torch.stack([last, last], -2).flatten(-3, -2)[..., ::2, :]
    x = last.movedim(-1, -3)
    if layout != "odd strides":
        return x
    strides = [1 if size == 1 else stride for size, stride in zip(x.shape, x.stride(), strict=True)]
    return x.as_strided(x.shape, strides)


class Head(nn.Module):
    """A plain head behind the last map of a backbone, and a fixed weighted sum of its output."""

    def __init__(self, kind: str, maps: Tensor):
        super().__init__()
        channels, size = maps.shape[1], maps[0].numel()
        self.parts: dict[str, Callable[[], nn.Module]] = {
            "conv": lambda: nn.Conv2d(channels, 5, 3, padding=1),
            "norm": lambda: nn.Sequential(nn.BatchNorm2d(channels).eval(), nn.Conv2d(channels, 5, 1)),
            "upsample": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
            "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(size, 5)),
            "mean": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        }
        self.part = self.parts[kind]().to(maps.dtype)

    def forward(self, maps: Tensor) -> Tensor:
        y = self.part(maps)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        return (y * weights.to(y.dtype)).sum()


HEADS = ["conv", "norm", "upsample", "linear", "mean"]


def assert_derivative(net: FeatureList, head: nn.Module, x: Tensor) -> None:
    """The derivative along a random direction of all parameters and the image, by autograd and by differences."""
    x = x.requires_grad_()
    # what the first norm of a RepConv makes of its border has no gradient, by design
    leaves = {name: p for name, p in net.named_parameters() if "expand_norm" not in name} | {"image": x}
    generator = torch.Generator().manual_seed(4)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in leaves.values()]
    length = torch.stack([d.square().sum() for d in direction]).sum().sqrt()
    direction = [d / length for d in direction]
    with frozen_statistics():
        grads = torch.autograd.grad(head(net(x)[-1]), list(leaves.values()), allow_unused=True)
        found = sum(float((g * d).sum()) for g, d in zip(grads, direction, strict=True) if g is not None)

        @torch.no_grad()
        def moved(step: float) -> float:
            for p, d in zip(leaves.values(), direction, strict=True):
                p.add_(d, alpha=step)
            value = float(head(net(x)[-1]))
            for p, d in zip(leaves.values(), direction, strict=True):
                p.sub_(d, alpha=step)
            return value

        step = 1e-6
        expected = (moved(step) - moved(-step)) / (2 * step)
    assert abs(expected) > 1e-5
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)


def check(name: str, options: dict[str, Any], batch: int, num_steps: int, head: str, layout: str, train: bool) -> None:
    net = backbone(name, options, num_steps, train=train).double()
    x = pictures(name, batch, num_steps)
    with torch.no_grad(), frozen_statistics():
        maps = net(x)[-1]
    assert_derivative(net, Head(head, maps), in_layout(x, layout))


def heads_and_layouts(family: str, batch: int, num_steps: int, train: bool) -> list[tuple[str, str]]:
    """A fourth of all pairs, another fourth for other settings."""
    start = sum(map(ord, family)) + batch + 2 * num_steps + train
    return [pair for i, pair in enumerate(itertools.product(HEADS, LAYOUTS)) if (i + i // 4 + start) % 4 == 0]


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_one_image_at_one_step_are_finite_differences(family: str, train: bool, smooth) -> None:
    head, layout = heads_and_layouts(family, 1, 1, train)[0]
    check(*FAMILIES[family], 1, 1, head, layout, train)


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("num_steps", [1, 2])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_gradients_of_every_backbone_are_finite_differences(
    family: str, batch: int, num_steps: int, train: bool, smooth
) -> None:
    for head, layout in heads_and_layouts(family, batch, num_steps, train):
        check(*{**FAMILIES, **VARIANTS}[family], batch, num_steps, head, layout, train)


@pytest.mark.parametrize("num_steps", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_one_image_is_that_beside_another_one_of_no_weight(
    family: str, dtype: torch.dtype, num_steps: int
) -> None:
    name, options = FAMILIES[family]
    options = {**options, "spk": "gelu"} if family == "spikeatconv" else options
    net = backbone(name, options, num_steps)
    x = pictures(name, 2, num_steps).float()

    def gradients(images: Tensor) -> list[Tensor]:
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            maps = net(images)[-1].float()
        weights = torch.randn(maps.shape, generator=torch.Generator().manual_seed(3))  # in NCHW
        weights[1:] = 0
        found = torch.autograd.grad((maps * weights).sum(), list(net.parameters()), allow_unused=True)
        return [torch.zeros(1) if g is None else g for g in found]

    one, both = (torch.cat([g.flatten() for g in gradients(images)]) for images in (x[:1], x))
    assert both.norm() > 0
    assert (one - both).norm() < (1e-3 if dtype == torch.float32 else 0.1) * both.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_maps_of_one_image_have_the_strides_of_their_memory_order(family: str) -> None:
    name, options = FAMILIES[family]
    for features in backbone(name, options, 1)(pictures(name, 1, 1).float()):
        assert features.stride() == torch.empty_like(features, memory_format=torch.channels_last).stride()
