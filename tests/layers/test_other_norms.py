"""Norms that users put in the place of our batch norm: each does in a unit what it does by itself."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from spimm.analyze import record
from spimm.deploy import fold
from spimm.layers import ConvNormNeuron, ConvUnit, RepConv, checkpointed
from spimm.layers.norm import max_pool
from spimm.neurons import LIF, MultiLIF

CHANNELS = 6
NORMS: dict[str, Callable[[], nn.Module]] = {
    "no affine": lambda: nn.BatchNorm2d(CHANNELS, affine=False),
    "no bias": lambda: nn.BatchNorm2d(CHANNELS, bias=False),
    "no statistics": lambda: nn.BatchNorm2d(CHANNELS, track_running_stats=False),
    "nothing": lambda: nn.BatchNorm2d(CHANNELS, affine=False, track_running_stats=False),
    "average": lambda: nn.BatchNorm2d(CHANNELS, momentum=None),
    "sync": lambda: nn.SyncBatchNorm(CHANNELS),
    "frozen": lambda: FrozenBatchNorm2d(CHANNELS),
    "group": lambda: nn.GroupNorm(2, CHANNELS),
    "instance": lambda: nn.InstanceNorm2d(CHANNELS, affine=True),
    "layer": lambda: LayerNorm2d(CHANNELS),
    "identity": nn.Identity,
    "act": lambda: BatchNormAct2d(CHANNELS),
    "frozen act": lambda: FrozenBatchNormAct2d(CHANNELS),
}


def make(name: str) -> nn.Module:
    """In float64, scaled, turned and shifted where it can be."""
    torch.manual_seed(0)
    norm = NORMS[name]().double()
    with torch.no_grad():
        for key, tensor in norm.state_dict().items():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 3) if key != "bias" else tensor.uniform_(-0.5, 1)
    return norm


def unit_with(norm: nn.Module, neuron: nn.Module | None, *, pool: bool = False) -> ConvNormNeuron:
    torch.manual_seed(1)
    unit = ConvNormNeuron(3, CHANNELS, 3, pool=pool, neuron=neuron).double()
    unit.norm = norm  # type: ignore[assignment]
    return unit


def by_hand(x: Tensor, unit: ConvUnit, norm: nn.Module, neuron: nn.Module | None) -> Tensor:
    y = norm(unit.conv(x.flatten(0, 1)))
    y = (max_pool(y) if unit.pool else y).unflatten(0, x.shape[:2])
    return y if neuron is None else neuron(y)


@pytest.mark.parametrize(
    "neuron", [LIF, lambda: MultiLIF(LIF(), (0.5, 1.0)), lambda: None], ids=["lif", "multi", "none"]
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NORMS)
def test_a_unit_with_another_norm_is_the_parts_in_a_row(
    name: str, training: bool, neuron: Callable[[], nn.Module | None], one_thread: None
) -> None:
    norm = make(name).train(training)
    x = torch.randn(2, 3, 3, 5, 4, dtype=torch.float64)
    for pool in (False, True):
        mine, other, last = deepcopy(norm), deepcopy(norm), neuron()
        unit = unit_with(mine, last, pool=pool).train(training)
        torch.testing.assert_close(unit(x), by_hand(x, unit, other, last), rtol=1e-9, atol=1e-9)
        for key, tensor in other.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[key], tensor)


@pytest.mark.parametrize("name", ["frozen", "sync", "no affine"])
def test_they_fold_and_are_recorded(name: str, one_thread: None) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = unit_with(make(name), LIF())

        def forward(self, x: Tensor) -> Tensor:
            return self.unit(x.unsqueeze(0), 3)

    net, x = Net().eval(), 3 * torch.randn(2, 3, 5, 4, dtype=torch.float64)
    folded = fold(net)
    assert not any(isinstance(module, FrozenBatchNorm2d | nn.SyncBatchNorm) for module in folded.modules())
    for model in (net, folded):
        with record(model) as recorder, torch.no_grad():
            assert torch.equal(model(x), net(x))
        assert 0 < recorder.trace().firing_rates()["unit.neuron"] < 1


@pytest.mark.parametrize("name", ["act", "group"])
def test_what_no_rule_knows_is_not_folded(name: str) -> None:
    with pytest.raises(ValueError, match=r"(own|cannot join)"):
        fold(nn.Sequential(unit_with(make(name), LIF())).eval())


@pytest.mark.parametrize("name", ["frozen", "sync", "no affine", "no bias"])
def test_repconv_pads_with_what_its_norm_makes_of_zero(name: str, one_thread: None) -> None:
    conv, norm = RepConv(3, CHANNELS).double().eval(), make(name).eval()
    conv.expand_norm = norm  # type: ignore[assignment]
    zero = torch.zeros(1, CHANNELS, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(conv.border(), norm(zero).flatten())
    conv.expand_norm = make("group")  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"expand_norm is GroupNorm.*pads with what its norm makes of 0"):
        conv.border()


def test_statistics_of_a_norm_with_its_own_forward_move_once_where_it_is_computed_again(one_thread: None) -> None:
    norm = make("act").train()
    unit, other = unit_with(deepcopy(norm), LIF()).train(), unit_with(norm, LIF()).train()
    x = torch.randn(2, 3, 3, 5, 4, dtype=torch.float64)
    checkpointed(unit, x).sum().backward()
    other(x)
    assert torch.equal(unit.norm.running_mean, other.norm.running_mean)
    assert unit.norm.num_batches_tracked == other.norm.num_batches_tracked == 1 + int(make("act").num_batches_tracked)
