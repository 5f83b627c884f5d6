"""The quantiser's identities, its gradient, and a model that computes with quantised weights."""

import copy

import pytest
import torch
from torch import Tensor, nn

from spimm.layers import (
    ConvNormNeuron,
    checkpointed,
    quantise_weight,
    quantised,
    quantised_weights,
    set_quantised,
    to_levels,
)
from spimm.layers.repconv import DepthwiseConv2d
from spimm.neurons import LIF

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def weight(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*(shape or (16, 5, 3, 3)), generator=torch.Generator().manual_seed(2)).to(dtype)


@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_are_symmetric_and_off_by_half_a_scale_at_most(bits: int, per: str) -> None:
    w = weight(dtype=torch.float64)
    found = to_levels(w, bits, per)
    assert found.levels.dtype == torch.int8 and found.levels.shape == w.shape
    assert int(found.levels.abs().max()) == found.top == 2 ** (bits - 1) - 1
    scale = found.scale if per == "layer" else found.scale.view(-1, 1, 1, 1)
    assert ((found.dequantise() - w).abs() <= scale / 2 * (1 + 1e-12)).all()
    torch.testing.assert_close(found.dequantise(), found.levels * scale, rtol=1e-15, atol=0)
    assert torch.equal(to_levels(-w, bits, per).levels, -found.levels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_quantising_twice_is_quantising_once(bits: int, per: str, dtype: torch.dtype) -> None:
    for seed in range(20):  # several peaks: where rounding of the scale moved it, some of them would show it
        w = (weight() * torch.rand(1, generator=torch.Generator().manual_seed(seed))).to(dtype)
        once = to_levels(w, bits, per)
        twice = to_levels(once.dequantise(), bits, per)
        assert torch.equal(twice.levels, once.levels) and torch.equal(twice.peak, once.peak)
        assert torch.equal(twice.dequantise(), once.dequantise()) and twice.dequantise().dtype == dtype


def test_the_levels_of_a_weight_by_hand() -> None:
    w = torch.tensor([[0.7, -0.14, 0.06], [0.0, 0.2, -1.4]])
    layer, channel = to_levels(w, 4), to_levels(w, 4, "channel")
    assert layer.levels.tolist() == [[4, -1, 0], [0, 1, -7]]  # 3.5 to the even level
    torch.testing.assert_close(layer.scale, torch.tensor(0.2))
    assert channel.levels.tolist() == [[7, -1, 1], [0, 1, -7]]
    torch.testing.assert_close(channel.scale, torch.tensor([0.1, 0.2]))
    assert to_levels(w, 2).levels.tolist() == [[0, 0, 0], [0, 0, -1]]


def test_zero_weights_stay_zero_in_a_layer_and_in_a_channel() -> None:
    for per in ("layer", "channel"):
        found = to_levels(torch.zeros(3, 2), 4, per)
        assert not found.levels.any() and torch.equal(found.dequantise(), torch.zeros(3, 2))
    w = torch.cat([torch.zeros(1, 2), torch.ones(1, 2)])
    assert torch.equal(to_levels(w, 4, "channel").dequantise(), w)


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_scale_for_each_channel_never_makes_the_largest_error_of_a_channel_worse(bits: int) -> None:
    w = weight(32, 4, 3, 3) * torch.logspace(-2, 0, 32).view(-1, 1, 1, 1)
    layer, channel = (to_levels(w, bits, per) for per in ("layer", "channel"))
    assert (channel.scale <= layer.scale).all()
    errors = [(found.dequantise() - w).abs().flatten(1).amax(1) for found in (layer, channel)]
    assert float(errors[1].max()) <= float(errors[0].max())
    assert (errors[1] <= channel.scale / 2 * (1 + 1e-5)).all()
    assert float(errors[1].sum()) < 0.7 * float(errors[0].sum())


def test_more_bits_make_smaller_errors() -> None:
    w = weight(64, 32)
    errors = [float((to_levels(w, bits).dequantise() - w).square().mean()) for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3 * errors[0]


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_the_gradient_passes_straight(per: str) -> None:
    w = weight().requires_grad_()
    upstream = torch.randn_like(w)
    q = quantise_weight(w, 4, per)
    assert torch.equal(q, to_levels(w, 4, per).dequantise()) and not torch.equal(q, w)
    (gradient,) = torch.autograd.grad(q, w, upstream)
    assert torch.equal(gradient, upstream)


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_the_memory_order_stays(per: str) -> None:
    """Of one input channel there are several; convolutions sum in another order for each."""
    for chans in (1, 3):
        w = nn.Conv2d(chans, 8, 5).to(memory_format=torch.channels_last).weight
        assert quantise_weight(w, 4, per).stride() == w.stride()


@pytest.mark.parametrize(
    ("bits", "per", "text"),
    [
        (1, "layer", "bits is 1; wanted 2 to 8"),
        (9, "layer", "bits is 9; wanted 2 to 8"),
        (4, "row", "per is 'row'; wanted 'layer' or 'channel'"),
    ],
)
def test_other_quantisers_are_refused(bits: int, per: str, text: str) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=text):
        to_levels(model.weight, bits, per)
    with pytest.raises(ValueError, match=text):
        set_quantised(model, bits, per)
    with pytest.raises(ValueError, match=text), quantised(model, bits, per):
        pass


class Net(nn.Module):
    """Convolutions of three classes, one inside an op with its neuron, a linear layer twice, and no two alike."""

    def __init__(self, *, again: bool = False) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.unit = ConvNormNeuron(2, 6, 3, neuron=LIF())
        self.depthwise = DepthwiseConv2d(6, 3)
        self.mix = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 6)
        self.again = again

    def forward(self, x: Tensor) -> Tensor:
        x = checkpointed(self._features, x) if self.again else self._features(x)
        return self.head(torch.tanh(self.head(x)))

    def _features(self, x: Tensor) -> Tensor:
        return self.mix(self.depthwise(self.unit(x).mean(0))).mean((2, 3))


def gradients(model: nn.Module, x: Tensor, bits: int | None, per: str = "layer") -> tuple[Tensor, dict[str, Tensor]]:
    with quantised(model, bits, per):
        y = model(x)
        y.square().sum().backward()
    return y.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize("per", ["layer", "channel"])
def test_within_the_context_the_parameters_get_the_gradients_at_the_quantised_weights(per: str, again: bool) -> None:
    model, x = Net(again=again), 3 * torch.rand(4, 2, 2, 5, 5)
    plain = copy.deepcopy(model)
    set_quantised(plain, 3, per)
    before = copy.deepcopy(model.state_dict())
    wanted, found = gradients(plain, x, None), gradients(model, x, 3, per)
    assert torch.equal(found[0], wanted[0])
    assert all(torch.equal(found[1][name], gradient) for name, gradient in wanted[1].items())
    assert all(bool(gradient.any()) for name, gradient in found[1].items() if name.endswith("weight"))
    for key, value in model.state_dict().items():
        if "running" not in key and "tracked" not in key:
            assert torch.equal(value, before[key]), key


def test_the_model_is_as_it_was_behind_the_context_even_after_an_error() -> None:
    model, x = Net().eval(), torch.rand(2, 1, 2, 5, 5)
    before = model(x)
    with quantised(model, 2):
        assert not torch.equal(model(x), before)
        assert list(model.state_dict()) == list(Net().state_dict())
        assert model.head.weight is not dict(model.named_parameters())["head.weight"]
    assert torch.equal(model(x), before)
    with pytest.raises(ValueError, match="shape"), quantised(model, 2):
        model(torch.rand(3, 3))
    assert torch.equal(model(x), before)
    assert model.head.weight is dict(model.named_parameters())["head.weight"]


def test_without_bits_the_context_changes_nothing() -> None:
    model = nn.Linear(3, 2)
    with quantised(model, None):
        assert model.weight is next(model.parameters())


def test_convolutions_and_linear_layers_are_quantised_and_nothing_else() -> None:
    keys = set(quantised_weights(Net()))
    assert keys == {"unit.conv.weight", "depthwise.weight", "mix.weight", "head.weight"}


def test_weights_that_are_not_finite_are_named() -> None:
    model = Net()
    with torch.no_grad():
        model.mix.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"mix\.weight is not finite"):
        set_quantised(model)
    with quantised(model, 4):
        assert model.mix.weight.isnan().all()  # shows in the loss, which training stops at
