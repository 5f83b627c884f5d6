"""torch.nn.utils.prune on the channels-last weights of every family."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import spimm

from .conftest import lively
from .test_gradients import FAMILIES, VARIANTS, pictures

ALL = {**FAMILIES, **VARIANTS}
WAYS: dict[str, Callable[[nn.Module], object]] = {
    "random": lambda conv: prune.random_unstructured(conv, "weight", amount=0.3),
    "l1": lambda conv: prune.l1_unstructured(conv, "weight", amount=0.3),
    "filters": lambda conv: prune.ln_structured(conv, "weight", amount=0.5, n=2, dim=0),
    "twice": lambda conv: prune.l1_unstructured(
        prune.l1_unstructured(conv, "weight", amount=0.2), "weight", amount=0.2
    ),
}


def network(name: str) -> nn.Module:
    model, options = ALL[name]
    torch.manual_seed(0)
    return lively(spimm.create_model(model, num_classes=5, **options).eval())


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [part for part in net.modules() if isinstance(part, nn.Conv2d)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["qkformer", "metaspikeformer conv", "spikeatconv dcl", "resnet", "ttfs"])
def test_every_convolution_may_be_pruned(name: str, way: str) -> None:
    net, x = network(name), pictures(ALL[name][0], 2, 1).float()
    for conv in convolutions(net):
        WAYS[way](conv)
    plain = network(name)
    with torch.no_grad():
        for conv, pruned in zip(convolutions(plain), convolutions(net), strict=True):
            assert 0.2 < (pruned.weight == 0).float().mean() < 0.7 or pruned.weight.numel() < 20
            conv.weight.copy_(pruned.weight)
    net(x).square().sum().backward()
    torch.testing.assert_close(net(x), plain(x), rtol=1e-3, atol=1e-4)
    for conv in convolutions(net):
        mask = dict(conv.named_buffers())["weight_mask"]
        grad = conv.get_parameter("weight_orig").grad
        assert grad is not None and not grad[mask == 0].any()
        prune.remove(conv, "weight")


def test_all_weights_together_are_pruned_once_they_are_contiguous() -> None:
    net, x = network("qkformer"), pictures("qkformer", 2, 1).float()
    net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    prune.global_unstructured([(conv, "weight") for conv in convolutions(net)], prune.L1Unstructured, amount=0.3)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = torch.cat([conv.weight.flatten() for conv in convolutions(net)])
    assert (weights == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert net(x).isfinite().all()
