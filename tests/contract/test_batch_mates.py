"""A sample's output has the same bits whatever its batch-mates are: other images, blank, glaring or broken ones."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm.deploy import fold

NETWORKS: dict[str, dict[str, Any]] = {
    "qkformer_4_96_cifar": {"embed_dim": 64, "num_heads": 4},
    "metaspikeformer_cifar": {"widths": (8, 16, 32, 32, 64), "depths": (1, 1, 1, 2, 1), "num_heads": 2, "num_steps": 2},
    "spikeatconv_cifar": {},
    "resnet18_cifar_small": {},
    "ttfs_mnist_cnn": {},
}
BATCH = 3


def network(name: str, dtype: torch.dtype, *, folded: bool) -> tuple[nn.Module, Tensor]:
    """A network whose neurons fire, and images for it."""
    torch.manual_seed(0)
    model, card = spimm.create_model(name, **NETWORKS[name]), spimm.model_card(name)
    draw = torch.rand if card.unit_input else torch.randn
    images = draw(BATCH + 1, *card.input_size)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        for _ in range(2):
            model.train()(images)
    model.eval()
    return (fold(model) if folded else model).to(dtype), images.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("folded", [False, True], ids=["plain", "folded"])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_batch_mates_change_no_bit(name: str, folded: bool, dtype: torch.dtype, one_thread: None) -> None:
    model, images = network(name, dtype, folded=folded)
    sample, mate = images[0], images[-1]
    expected = model(images[:BATCH])[0]
    assert expected.isfinite().all()
    others = [mate, mate * 0, mate * 0 + 1]
    if not spimm.model_card(name).unit_input:  # pixels in [0, 1], and an error for others
        others += [mate * 0 + 50, mate * float("nan")]
    for other in others:
        assert torch.equal(model(torch.stack([sample, *[other] * (BATCH - 1)]))[0], expected)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("folded", [False, True], ids=["plain", "folded"])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_broken_image_has_no_logits(name: str, folded: bool, broken: float, one_thread: None) -> None:
    model, images = network(name, torch.float32, folded=folded)
    expected = model(images)
    images[1, :, 3, 4] = broken
    if spimm.model_card(name).unit_input:
        with pytest.raises(ValueError, match=r"wanted values in \[0, 1\]"):
            model(images)
        return
    found = model(images)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2, 3]], expected[[0, 2, 3]])
