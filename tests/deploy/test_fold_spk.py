"""Folded SpikeAtConvs and ResNets: SPK blocks of every kind, attention in groups, kernels for each branch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm.analyze import analyze
from spimm.deploy import fold, linear_steps, merge_convs, merge_costs
from spimm.layers import DCL, FORMS, BranchConv2d, ConvNeuron, ConvUnit, GroupAttention
from spimm.layers.repconv import DepthwiseConv2d
from spimm.neurons import LIF, MultiLIF, Neuron

from .conftest import settled

BLOCKS = [
    (kind, form) for kind in ("sl", "rl", "mbpl", "hsl", "dcl", "relu", "gelu") for form in FORMS.get(kind, (None,))
]
LOW = {"dcl": "0.3,0.3"}
"""Thresholds where the paper's are too high for an untrained network."""
ATTENTIONS = [(kind, part) for kind in ("sisa", "bdsa") for part in ("grid", "window", "full")] + [("none", "grid")]


def small(**options: Any) -> nn.Module:
    """A SpikeAtConv of 16 channels in its last stage, with groups that do not fill its maps of 5 and 3 places."""
    sizes = {"widths": (8, 16), "depths": (1, 2), "strides": (2, 2), "group_size": 3, "head_dim": 4, "num_steps": 2}
    return settled(spimm.create_model("spikeatconv_cifar", **{**sizes, **options}))


def resnet(**options: Any) -> nn.Module:
    sizes = {"width": 8, "depths": (1, 2), "num_steps": 2}
    return settled(spimm.create_model("resnet18_cifar_small", **{**sizes, **options}))


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(3, 3, 20, 20, generator=torch.Generator().manual_seed(1)).to(dtype)


@torch.no_grad()
def check(model: nn.Module) -> nn.Module:
    """The folded model, which is equal in float64 and has no norm."""
    model.double()
    folded = fold(model)
    expected = model.forward_features(images())
    assert expected.std() > 1e-3 and not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(folded.forward_features(images()), expected, atol=1e-10 * scale, rtol=0)
    torch.testing.assert_close(folded(images()), model(images()), atol=1e-10 * scale, rtol=0)
    return folded


@pytest.mark.parametrize(("kind", "form"), BLOCKS)
@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_spikeatconv_of_every_block_folds(kind: str, form: str | None, num_steps: int) -> None:
    check(small(spk=kind, form=form, thresholds=LOW.get(kind), num_steps=num_steps))


@pytest.mark.parametrize(("attention", "partition"), ATTENTIONS)
@pytest.mark.parametrize("kind", ["mbpl", "gelu"])
def test_a_spikeatconv_of_every_attention_folds(kind: str, attention: str, partition: str) -> None:
    check(small(spk=kind, attention=attention, partition=partition))


@pytest.mark.parametrize(("kind", "form"), [block for block in BLOCKS if block[1] != "concat"])
def test_a_resnet_of_every_block_folds(kind: str, form: str | None) -> None:
    check(resnet(spk=kind, form=form, thresholds=LOW.get(kind)))


@pytest.mark.parametrize(
    "options", [{"spk": "mbpl"}, {"form": "convnext"}, {"spk": "dcl", "form": "full_norm"}], ids=str
)
@torch.no_grad()
def test_folding_a_folded_model_changes_nothing(options: dict[str, Any]) -> None:
    for model in (small(**options), resnet(**options)):
        once = fold(model)
        again = fold(once)
        x = images(torch.float32)
        assert again is not once and torch.equal(again(x), once(x))


@pytest.mark.parametrize(
    "options",
    [{"spk": "sl"}, {"spk": "mbpl"}, {"form": "convnext"}, {"spk": "hsl"}, {"spk": "dcl"}, {"spk": "gelu"}],
    ids=str,
)
@torch.no_grad()
def test_bf16_is_what_flows_between_layers(options: dict[str, Any]) -> None:
    kinds = (ConvNeuron, nn.Conv2d, Neuron, MultiLIF, GroupAttention, DCL)
    for model in (small(**options), resnet(**options)):
        x, dtypes = images(torch.float32), []
        folded = fold(model, dtype=torch.bfloat16)
        for part in folded.modules():
            if isinstance(part, kinds):
                part.register_forward_hook(lambda *call, seen=dtypes: seen.append(call[2].dtype))
        found, expected = folded(x), model(x)
        assert len(dtypes) > 10 and set(dtypes) == {torch.bfloat16}
        assert found.dtype == torch.float32
        assert (found - expected).square().mean().sqrt() < 0.25 * expected.std()


UNITS = {  # C, C', stride, branches
    "one branch": (4, 4, 1, 1),
    "a multiplier": (4, 8, 2, 1),
    "branches": (4, 4, 1, 3),
    "branches and a multiplier": (4, 8, 2, 3),
}


@pytest.mark.parametrize("neuron", [None, LIF(), MultiLIF(LIF(), (0.5, 1.0))], ids=["membrane", "LIF", "MultiLIF"])
@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("pool", [False, True])
@torch.no_grad()
def test_kernels_of_each_branch_take_the_gain_and_their_sum_the_shift(
    pool: bool, name: str, neuron: nn.Module | None
) -> None:
    in_chans, out_chans, stride, branches = UNITS[name]
    conv = BranchConv2d(in_chans, out_chans, 5, stride=stride, branches=branches)
    unit = settled(ConvUnit(conv, out_chans, pool=pool, neuron=neuron)).double()
    folded = fold(unit)
    x = (torch.rand(2, 3, branches * in_chans, 7, 6) < 0.4).double()
    expected = unit(x)
    assert expected.std() > 0.01
    torch.testing.assert_close(folded(x), expected, atol=1e-12, rtol=0)
    assert isinstance(folded, ConvNeuron) and isinstance(folded.conv, BranchConv2d)
    assert folded.conv.weight.shape == conv.weight.shape and folded.conv.bias.shape == (out_chans,)
    torch.testing.assert_close(fold(folded)(x), expected, atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_bias_behind_the_branches_is_scaled_with_them() -> None:
    conv = BranchConv2d(2, 2, 3, branches=2)
    conv.bias = nn.Parameter(torch.tensor([1.0, -2.0]))
    unit = settled(ConvUnit(conv, 2, neuron=None)).double()
    x = torch.randn(1, 2, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(fold(unit)(x), unit(x), atol=1e-12, rtol=0)


def test_a_sum_of_branches_is_merged_with_nothing() -> None:
    conv = BranchConv2d(4, 4, 3, branches=2)
    assert linear_steps(conv) is None
    with pytest.raises(ValueError, match="hold no chain"):
        merge_convs([conv])
    chain = nn.Sequential(conv, nn.Conv2d(4, 3, 1))
    assert merge_costs(nn.Sequential(ConvUnit(chain, 3, neuron=None))) == []
    x = torch.randn(1, 8, 5, 5)
    torch.testing.assert_close(fold(chain)(x), chain(x))


@torch.no_grad()
def test_a_depthwise_convolution_alone_takes_the_norm_behind_it() -> None:
    unit = settled(ConvUnit(DepthwiseConv2d(4, 7), 4, neuron=None)).double()
    x = torch.randn(2, 3, 4, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(fold(unit)(x), unit(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("options", [{}, {"spk": "mbpl", "form": "convnext"}, {"spk": "dcl"}], ids=str)
def test_no_unit_is_a_chain_whose_form_could_be_chosen(options: dict[str, Any]) -> None:
    assert merge_costs(small(**options)) == merge_costs(resnet(**options)) == []


@pytest.mark.parametrize(
    "options", [{"spk": "mbpl"}, {"form": "convnext"}, {"spk": "hsl"}, {"spk": "dcl", "form": "split_norm"}], ids=str
)
@torch.no_grad()
def test_a_folded_model_is_analyzed_as_the_model_is(options: dict[str, Any]) -> None:
    for model in (small(**options).double(), resnet(**options).double()):
        plain, folded = (analyze(network, [images()], formula="spikeatconv") for network in (model, fold(model)))
        assert folded.trace.firing_rates() == pytest.approx(plain.trace.firing_rates())
        ours, theirs = ({layer.name: layer.products for layer in each.trace.layers} for each in (folded, plain))
        assert ours == theirs
        assert folded.energy.millijoules == pytest.approx(plain.energy.millijoules)
        assert folded.energy.beside_millijoules == plain.energy.beside_millijoules
