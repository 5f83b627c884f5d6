"""No work is left out of a trace: ordinary layers are counted, all else is named."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from spimm.analyze import Probe, Trace, analyze, energy, probe, record
from spimm.deploy import fold
from spimm.neurons import LIF

from ..train.families import TINY, tiny_model


class Chain(nn.Module):
    """A neuron and then one layer, or any function of the spikes."""

    def __init__(self, layer: nn.Module | None = None, function: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.neuron, self.layer, self.function = LIF(), layer, function

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.neuron(x.unsqueeze(0)).squeeze(0)
        assert self.layer is not None or self.function is not None
        return self.layer(spikes) if self.function is None else self.function(spikes)  # type: ignore[misc]


@torch.no_grad()
def traced(model: nn.Module, x: Tensor) -> Trace:
    with record(model) as recorder:
        model(x)
    return recorder.trace()


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, groups=2), (4, 9), 6 * 2 * 3 * 4),
    "conv2d": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 5, 7), 6 * 2 * 9 * 35),
    "conv3d": (nn.Conv3d(4, 6, 3, padding=1), (4, 3, 5, 7), 6 * 4 * 27 * 105),
    "transposed": (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 5, 7), 4 * 6 * 4 * 35),
    "transposed groups": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 5, 7), 4 * 3 * 9 * 35),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3), (4, 9), 4 * 6 * 3 * 9),
    "transposed 3d": (nn.ConvTranspose3d(4, 6, 2), (4, 2, 3, 5), 4 * 6 * 8 * 30),
    "linear": (nn.Linear(7, 3), (4, 7), 4 * 21),
}


@pytest.mark.parametrize("name", LAYERS)
def test_ordinary_layers_are_counted(name: str) -> None:
    layer, shape, dense = LAYERS[name]
    trace = traced(Chain(layer), 3 * torch.rand(2, *shape))
    counted = trace.layer("layer")
    assert (counted.dense, counted.input_shape) == (dense, shape)
    if len(shape) == 4:
        return  # an input of five axes is read as a sequence of frames
    (line,) = (line for line in energy(trace, count_integers=False).lines if line.layer == "layer")
    assert line.operation == "AC"
    assert line.operations == pytest.approx(dense * counted.input("x").nonzero)


def test_additions_of_a_transposed_convolution_are_those_of_its_spikes() -> None:
    """Each spike adds every weight of its channel, where nothing is cut off."""
    layer = nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False)
    nn.init.ones_(layer.weight)
    model, x = Chain(layer), 3 * torch.rand(1, 4, 5, 7)
    (line,) = (line for line in energy(traced(model, x), count_integers=False).lines if line.layer == "layer")
    assert line.operations == pytest.approx(float(model(x).sum().detach()))


class Scaled(nn.Linear):
    """A linear layer by another name."""


class Table(nn.Module):
    """A leaf with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.table


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(4), nn.GroupNorm(2, 4), nn.LayerNorm(5), nn.PReLU(), Scaled(5, 3)],
    ids=lambda m: type(m).__name__,
)
def test_norms_and_subclasses_are_known(layer: nn.Module) -> None:
    assert traced(Chain(layer), 3 * torch.rand(2, 4, 5)).samples == 2


WEIGHT = torch.rand(5, 5)
UNCOUNTED: dict[str, tuple[nn.Module, str]] = {
    "leaf": (Chain(Table()), r"'layer' \(Table\)"),
    "lstm": (Chain(nn.LSTM(5, 3)), r"'layer' \(LSTM\)"),
    "attention": (
        Chain(function=nn.MultiheadAttention(5, 1, batch_first=True)),
        r"'function' \(\w+ in MultiheadAttention\)",
    ),
    "matmul": (Chain(function=lambda x: x @ WEIGHT), r"'Chain' \(\w+ in Chain\)"),
    "einsum": (Chain(function=lambda x: torch.einsum("bij,jk->bik", x, WEIGHT)), r"'Chain' \((bmm|einsum) in Chain\)"),
    "linear": (Chain(function=lambda x: functional.linear(x, WEIGHT)), r"in Chain\)"),
    "conv": (Chain(function=lambda x: functional.conv1d(x, torch.ones(2, 4, 1))), r"\((convolution|conv1d) in Chain\)"),
    "product": (Chain(function=lambda x: functional.scaled_dot_product_attention(x, x, x)), r"in Chain\)"),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", UNCOUNTED)
def test_what_no_probe_counts_is_named(name: str, inference: bool) -> None:
    model, named = UNCOUNTED[name]
    if name == "attention":
        attend = model.function
        model.forward = lambda x: attend(x, x, x)[0]  # type: ignore[method-assign]
    for call in (traced, lambda model, x: analyze(model, [x])):
        with torch.inference_mode(inference), pytest.raises(ValueError, match=named) as error:
            call(model, 3 * torch.rand(2, 4, 5))
        assert "analyze.probe.register" in str(error.value)
        assert str(error.value).count("\n") < 3


def test_a_layer_that_is_not_called_is_no_matter_and_one_called_by_its_forward_is() -> None:
    unused = Chain(nn.Bilinear(5, 5, 2), lambda x: x)
    assert traced(unused, torch.rand(2, 4, 5)).samples == 2
    inner = Chain(nn.Linear(5, 3))
    inner.function = lambda x: inner.layer.forward(x)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"addmm in Linear"):
        traced(inner, torch.rand(2, 4, 5))


def test_a_registered_probe_is_the_way_out() -> None:
    class Mine(Table):
        """One with a probe."""

    with pytest.raises(ValueError, match="Mine"):
        traced(Chain(Mine()), torch.rand(2, 4, 5))
    probe.register(Mine, lambda module: (Probe("scale", ("x",), leading=1),))
    assert traced(Chain(Mine()), torch.rand(2, 4, 5)).layer("layer").kind == "scale"


@pytest.mark.parametrize("folds", [False, True], ids=["plain", "folded"])
@pytest.mark.parametrize("family", TINY)
def test_every_family_is_counted_whole(family: str, folds: bool) -> None:
    model = tiny_model(family).eval()
    model = fold(model, merge="dense") if folds else model
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        before = model(x)
        with record(model) as recorder:
            assert torch.equal(model(x), before)
    assert recorder.trace().layers
