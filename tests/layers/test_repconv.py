"""RepConv, the separable and the branch convolution against their formulas in plain torch."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from spimm.layers import BorderConv2d, BranchConv2d, ConvUnit, Ending, RepConv, SepConv, SpikeConv2d
from spimm.neurons import LIF

from .conftest import is_channels_last, lively, spike_steps, steps


@torch.no_grad()
def uneven(module: nn.Module) -> nn.Module:
    """The module in float64, its norms unlike each other in every channel."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.uniform_(0.5, 2)
            part.bias.normal_()
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return module.double()


def written_out(conv: RepConv, x: Tensor) -> Tensor:
    """BN(PW(DW(pad(BN(PW(x)))))) of one branch: the first norm of zeros, as it is behind this batch, all around."""
    norm = conv.expand_norm
    y = norm(conv2d(x, conv.expand.weight))
    border = (norm.bias - norm.running_mean * norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    frame = pad(torch.zeros_like(y[:1, :1]), (1, 1, 1, 1), value=1.0)
    y = pad(y, (1, 1, 1, 1)) + frame * border.view(-1, 1, 1)
    y = conv2d(y, conv.depthwise.weight, groups=y.shape[1])
    return conv.project_norm(conv2d(y, conv.project.weight))


def spikes(channels: int = 6) -> Tensor:
    return spike_steps(1, 3, channels, 5, 4)[0].double()


@pytest.mark.parametrize("training", [False, True])
def test_repconv_is_its_formula_forward_and_backward(training: bool) -> None:
    ours = uneven(RepConv(6, 8)).train(training)
    theirs = copy.deepcopy(ours)
    results = []
    for call, conv in ((ours, ours), (lambda x: written_out(theirs, x), theirs)):
        x = spikes().requires_grad_()
        y = call(x)
        gradients = torch.autograd.grad((y * steps(1, 3, 8, 5, 4)[0]).sum(), [x, *conv.parameters()])
        results.append([y, *gradients, *conv.buffers()])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_the_border_is_what_the_layers_in_front_make_of_zeros_around_the_input() -> None:
    conv = uneven(RepConv(6, 8)).eval()
    around = conv.expand_norm(conv.expand(pad(spikes(), (1, 1, 1, 1))))
    y = conv2d(around, conv.depthwise.weight, groups=8)
    torch.testing.assert_close(conv(spikes()), conv.project_norm(conv.project(y)), atol=1e-12, rtol=0)


def test_the_border_takes_no_gradient() -> None:
    conv = uneven(RepConv(6, 8))
    assert not conv.border().requires_grad
    torch.testing.assert_close(conv.border(), conv.expand_norm.eval()(torch.zeros(1, 8, 1, 1).double()).flatten())


@pytest.mark.parametrize("training", [False, True])
def test_branches_are_repconvs_that_do_not_mix(training: bool) -> None:
    joined = uneven(RepConv(6, 12, branches=3)).train(training)
    parts = []
    for i in range(3):
        part = RepConv(6, 4).double().train(training)
        own = {key: value.chunk(3)[i] if value.dim() else value for key, value in joined.state_dict().items()}
        part.load_state_dict(own)
        parts.append(part(spikes()))
    torch.testing.assert_close(joined(spikes()), torch.cat(parts, dim=1), atol=1e-12, rtol=1e-12)


def test_a_border_convolution_pads_each_channel_with_its_value() -> None:
    conv, x, border = BorderConv2d(4).double(), torch.randn(2, 4, 5, 3).double(), torch.randn(4).double()
    padded = torch.cat([pad(x[:, i : i + 1], (1, 1, 1, 1), value=float(border[i])) for i in range(4)], dim=1)
    torch.testing.assert_close(conv(x, border), conv2d(padded, conv.weight, groups=4), atol=1e-12, rtol=0)


def test_repconv_has_the_weights_of_the_paper() -> None:
    sizes = [parameter.numel() for parameter in RepConv(6, 6).parameters() if parameter.dim() == 4]
    assert sum(sizes) == 2 * 6**2 + 9 * 6


def test_memory_stays_channels_last_through_repconv() -> None:
    x = spike_steps(2, 3, 6, 5, 4)
    conv = RepConv(6, 8).to(memory_format=torch.channels_last)
    unit = ConvUnit(conv, 8, neuron=None)
    assert is_channels_last(unit(x))


@pytest.mark.parametrize("end", [Ending(None), Ending(LIF())])
def test_the_separable_convolution_is_its_formula(end: Ending) -> None:
    layer = lively(SepConv(6, neuron=LIF(), ending=end)).double().eval()
    x, added = spike_steps(3, 2, 6, 9, 8).double(), steps(3, 2, 6, 9, 8).double()
    expand, (depthwise, pointwise) = layer.expand, layer.mix.conv
    flat = x.flatten(0, 1)
    hidden = expand.norm(conv2d(flat, expand.conv.weight))
    fired = LIF()(hidden.unflatten(0, (3, 2)))
    y = conv2d(fired.flatten(0, 1), depthwise.weight, padding=3, groups=12)
    y = layer.mix.norm(conv2d(y, pointwise.weight)).unflatten(0, (3, 2))
    y = y if end.neuron is None else LIF()(y)
    assert 0 < fired.mean() < 1
    assert depthwise.weight.shape == (12, 1, 7, 7) and depthwise.bias is None and pointwise.bias is None
    torch.testing.assert_close(layer(x, added), y + added, atol=1e-10, rtol=0)


def test_only_the_first_convolution_of_each_row_takes_spikes() -> None:
    layer = nn.ModuleList([SepConv(6, neuron=LIF(), ending=Ending(None)), RepConv(6, 6)])
    assert [name for name, part in layer.named_modules() if isinstance(part, SpikeConv2d)] == [
        "0.expand.conv",
        "1.expand",
    ]


@pytest.mark.parametrize("out_chans", [4, 12])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("branches", [1, 3])
def test_a_branch_convolution_sums_a_depthwise_convolution_of_each_branch(
    branches: int, stride: int, out_chans: int
) -> None:
    ours = BranchConv2d(4, out_chans, 5, stride=stride, branches=branches).double()
    x = torch.randn(2, branches * 4, 9, 6).double().requires_grad_()
    parts = zip(x.chunk(branches, 1), ours.weight.chunk(branches), strict=True)
    expected = torch.stack([conv2d(y, w, stride=stride, padding=2, groups=4) for y, w in parts]).sum(0)
    weights, results = torch.randn_like(expected), []
    for y in (ours(x), expected):
        results.append([y, *torch.autograd.grad((y * weights).sum(), [x, ours.weight])])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)
    assert ours(x).shape == (2, out_chans, -(-9 // stride), -(-6 // stride))
    assert ours.weight.shape == (branches * out_chans, 1, 5, 5) and ours.bias is None


def test_a_bias_of_a_branch_convolution_is_added_once() -> None:
    conv, x, bias = BranchConv2d(4, 8, 3, branches=3).double(), torch.randn(2, 12, 5, 4).double(), torch.randn(8)
    plain = conv(x)
    conv.bias = nn.Parameter(bias.double())
    torch.testing.assert_close(conv(x), plain + bias.double().view(-1, 1, 1))


@pytest.mark.parametrize(("stride", "out_chans"), [(1, 4), (2, 8)])
def test_memory_stays_channels_last_through_a_branch_convolution(stride: int, out_chans: int) -> None:
    conv = BranchConv2d(4, out_chans, 7, stride=stride, branches=3).to(memory_format=torch.channels_last)
    y = conv(spike_steps(1, 2, 12, 6, 4)[0])
    assert y.is_contiguous(memory_format=torch.channels_last)
