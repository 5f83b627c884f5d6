import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm.deploy import fold
from spimm.layers import DCL, FORMS, SPK, ConvNeXt, GroupAttention, SpikingAttention, SpikingMLP
from spimm.models.spikeatconv import VARIANTS, SpikeAtConvConfig
from spimm.neurons import LIF, MultiLIF, Neuron
from spimm.surrogate import ATan, Sigmoid
from spimm.train import Recipe
from spimm.train.optim import build_optimizer

from .conftest import assert_train_alike, lively, shapes_only

BLOCKS = [{"spk": kind, "form": form} for kind in (*SPK, "relu", "gelu") for form in (None, *FORMS.get(kind, ())[1:])]
every_block = pytest.mark.parametrize("options", BLOCKS, ids=lambda options: "-".join(filter(None, options.values())))


def tiny(**options: Any) -> nn.Module:
    """Two stages of maps of 8x8 and 4x4 for 32 pixels; neurons fire in eval mode, too."""
    small = {"widths": (8, 16), "depths": (1, 2), "strides": (2, 2), "head_dim": 8, "num_classes": 5}
    return lively(spimm.create_model("spikeatconv_cifar", **{**small, **options}).eval())


def images(*size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *(size or (32, 32)), generator=torch.Generator().manual_seed(1))


@every_block
@pytest.mark.parametrize("num_steps", [1, 2])
@pytest.mark.parametrize("size", [(32, 32), (37, 21)])
def test_every_block_computes_and_learns(size: tuple[int, int], num_steps: int, options: dict[str, Any]) -> None:
    model = tiny(num_steps=num_steps, **options).train()
    features, maps = model.forward_intermediates(images(*size))
    for reduction, x in zip((4, 8), maps, strict=True):
        assert x.shape == (num_steps, 2, 2 * reduction, *(math.ceil(side / reduction) for side in size))
    logits = model.forward_head(features)
    assert logits.shape == (2, 5) and logits.std() > 0
    nn.functional.cross_entropy(logits, torch.tensor([0, 4])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.dim() < 4 or parameter.grad.any(), name


@pytest.mark.parametrize("attention", ["sisa", "bdsa"])
@pytest.mark.parametrize("partition", ["grid", "window", "full"])
@pytest.mark.parametrize("size", [(32, 32), (37, 21)])
def test_partitions_and_attentions_differ_in_their_logits_alone(
    size: tuple[int, int], partition: str, attention: str
) -> None:
    plain, other = tiny(), tiny(partition=partition, attention=attention)
    weights = {key: value for key, value in plain.state_dict().items() if key in other.state_dict()}
    other.load_state_dict(weights)
    assert len(plain.state_dict()) - len(weights) == (0 if attention == "sisa" else 3 * 6)
    logits = other(images(*size))
    assert logits.isfinite().all()
    assert torch.equal(logits, plain(images(*size))) == (partition == "grid" and attention == "sisa")


def test_attention_can_be_left_out() -> None:
    model = tiny(attention="none")
    assert not any(isinstance(part, SpikingAttention) for part in model.modules())
    assert sum(isinstance(part, ConvNeXt) for part in model.modules()) == 3
    assert sum(isinstance(part, SpikingMLP) for part in model.modules()) == 3
    assert model(images()).std() > 0


def conv_inputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    inputs: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, args, y: inputs.append(args[0]))
    model(x)
    return inputs


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "top"),
    [
        ({"spk": "sl"}, 1),
        ({"spk": "hsl"}, 1),
        ({"spk": "rl"}, 2),
        ({"spk": "mbpl", "form": "sum"}, 4),
        ({"spk": "mbpl"}, 4),
        ({"spk": "mbpl", "attention": "bdsa"}, 4),
    ],
    ids=str,
)
def test_every_convolution_but_the_first_sees_spikes(options: dict[str, Any], top: int) -> None:
    first, *others = conv_inputs(tiny(num_steps=2, **options), 3 * images())
    assert len(others) == 1 + 3 * (3 + 2 + 2) + 2 - 3 * (options.get("attention") == "bdsa")
    assert len(first.unique()) > 100
    assert all(torch.equal(x, x.round()) and x.min() >= 0 for x in others)
    assert max(float(x.max()) for x in others) <= 4 * top  # the pool of a shortcut adds up four places
    assert sum(bool(x.any()) for x in others) > 20


def spks(model: nn.Module) -> list[nn.Module]:
    return [part.core.spk for part in model.modules() if isinstance(part, SpikingAttention)]


def test_the_block_behind_the_attention_fires_on_its_gain_times_the_mean() -> None:
    (printed, *_), (ours, *_) = (spks(tiny(spk="sl", attention_gain=gain)) for gain in (1.0, 5.0))
    means = torch.rand(1, 2, 4, 3, 3)
    assert (printed.threshold, ours.threshold) == (1.0, 0.2)
    assert torch.equal(ours(means), printed(5 * means)) and ours(means).any()
    assert not printed(torch.ones_like(means)).any()
    assert spks(tiny(attention_gain=2.0))[0].thresholds == (0.1, 0.5, 1.0, 2.0)


@pytest.mark.parametrize("options", [{"spk": kind} for kind in SPK], ids=lambda options: options["spk"])
def test_a_group_that_fires_as_a_whole_is_no_tie_behind_the_attention(options: dict[str, Any]) -> None:
    spk, ones = spks(tiny(**options))[0], torch.ones(4, 1, 8, 1, 1)
    for rounding in (1e-6, 1e-5):
        assert torch.equal(spk(ones * (1 - rounding)), spk(ones * (1 + rounding)))


def on_qkv(model: nn.Module, attention: str) -> list[nn.Module]:
    """What fires on queries, keys and values of each block."""
    found = [part.qkv for part in model.modules() if isinstance(part, SpikingAttention)]
    return found if attention == "bdsa" else [unit.neuron for unit in found]


@pytest.mark.parametrize("attention", ["sisa", "bdsa"])
@pytest.mark.parametrize("kind", SPK)
def test_queries_keys_and_values_fire_by_the_rows_own_block_if_asked(kind: str, attention: str) -> None:
    options: dict[str, Any] = {"spk": kind, "attention": attention, "num_steps": 2}
    text, equation = tiny(**options, attention_spk="spk"), tiny(**options)
    assert {type(part) for part in on_qkv(equation, attention)} == {LIF}
    thresholds = {getattr(part, "thresholds", None) for part in on_qkv(text, attention)}
    assert thresholds == {{"rl": (1.0, 2.0), "mbpl": (0.2, 1.0, 2.0, 4.0)}.get(kind)}
    assert len(on_qkv(text, attention)) == 3
    text.load_state_dict(equation.state_dict())
    logits = text(3 * images())
    assert logits.std() > 0
    same = kind in ("sl", "dcl")  # one LIF of threshold 1
    assert torch.equal(logits, equation(3 * images())) == same
    torch.testing.assert_close(fold(text)(3 * images()), logits, atol=1e-4, rtol=1e-4)


def test_halves_of_hsl_are_those_of_queries_of_keys_and_of_values() -> None:
    (block, *_) = on_qkv(tiny(spk="hsl", attention_spk="spk"), "sisa")
    x = torch.full((1, 1, 24, 1, 1), 3.0)  # a potential of 1.5 is between the thresholds 1 and 2
    assert block(x).flatten().tolist() == ([1.0] * 4 + [0.0] * 4) * 3


def test_the_head_sees_the_mean_of_the_last_blocks_spikes() -> None:
    model, seen = tiny(), {}
    model.last_neuron.register_forward_hook(lambda module, args, y: seen.update(membrane=args[0], spikes=y))
    model.head.register_forward_pre_hook(lambda module, args: seen.update(head=args[0]))
    model(3 * images())
    assert isinstance(model.last_neuron, MultiLIF)
    assert seen["spikes"].any() and not torch.equal(seen["spikes"], seen["membrane"])
    torch.testing.assert_close(seen["head"], seen["spikes"].mean((0, 3, 4)))


def test_settings_of_the_neuron_reach_every_neuron() -> None:
    model = tiny(spk="hsl", taus="3,1.5", thresholds=(0.5, 1.5), surrogate=ATan(1.5), detach_reset=False)
    neurons = [part for part in model.modules() if isinstance(part, Neuron)]
    assert {(n.surrogate, n.detach_reset) for n in neurons} == {(ATan(1.5), False)}
    halves = {(n.threshold, n.tau) for name, n in model.named_modules() if name.endswith("expand.neuron.first")}
    halves |= {(n.threshold, n.tau) for name, n in model.named_modules() if name.endswith("expand.neuron.second")}
    assert halves == {(0.5, 3.0), (1.5, 1.5)}


def test_neurons_are_those_of_the_paper_unless_told_otherwise() -> None:
    config = VARIANTS["spikeatconv_base_table"].config
    assert (config.num_steps, config.spk, config.tau, config.attention) == (1, "mbpl", 2.0, "sisa")
    model = tiny()
    assert {part.thresholds for part in model.modules() if isinstance(part, MultiLIF)} >= {(0.2, 1.0, 2.0, 4.0)}
    assert {part.surrogate for part in model.modules() if isinstance(part, Neuron)} == {ATan()}
    model = tiny(surrogate="sigmoid")
    assert {part.surrogate for part in model.modules() if isinstance(part, Neuron)} == {Sigmoid()}


@pytest.mark.parametrize("saving", [{"checkpoint": True}, {"memory": "packed"}], ids=str)
@every_block
def test_ways_to_save_memory_change_no_gradient(options: dict[str, Any], saving: dict[str, Any]) -> None:
    plain, thrifty = tiny(num_steps=2, **options).train(), tiny(num_steps=2, **options, **saving).train()
    assert_train_alike(plain, thrifty, images())


def test_position_biases_do_not_decay_and_kernels_do() -> None:
    model = tiny()
    recipe = Recipe(model="m", data="d", weight_decay=0.3)
    decayed, spared = build_optimizer(model, recipe).param_groups
    biases = {id(part.bias) for part in model.modules() if isinstance(part, GroupAttention)}
    kernels = {id(parameter) for parameter in model.parameters() if parameter.dim() == 4}
    assert len(biases) == 3 and biases <= {id(parameter) for parameter in spared["params"]}
    assert {id(parameter) for parameter in decayed["params"]} == {*kernels, id(model.head.weight)}


@pytest.mark.parametrize(
    "options",
    [{"num_steps": 2}, {"attention": "bdsa", "spk": "sl", "num_steps": 2}, {"spk": "dcl"}, {"spk": "gelu"}],
    ids=str,
)
@pytest.mark.parametrize("size", [(32, 32), (37, 21)])
def test_memory_stays_channels_last_from_stem_to_head(size: tuple[int, int], options: dict[str, Any]) -> None:
    model, odd = tiny(**options).train(), []

    def check(name: str, output: Tensor) -> None:
        if output.dim() >= 4 and not output.movedim(-3, -1).is_contiguous():
            odd.append((name, output.shape, output.stride()))

    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            module.register_forward_hook(lambda m, i, y, name=name: check(name, y))
    model.forward_features(images(*size)).sum().backward()
    assert odd == []


@pytest.mark.parametrize("options", [{}, {"spk": "gelu"}, {"partition": "full", "attention": "bdsa"}], ids=str)
def test_bfloat16_autocast_gives_float32_logits_and_gradients(options: dict[str, Any]) -> None:
    model = tiny(**options).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images(37, 21))
    assert logits.isfinite().all()
    logits.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_it_serves_as_a_backbone_of_four_maps() -> None:
    backbone = shapes_only("spikeatconv_tiny_table", features_only=True)
    assert [(info["num_chs"], info["reduction"]) for info in backbone.feature_info] == [
        (64, 4), (128, 8), (256, 16), (512, 32),
    ]  # fmt: skip
    maps = tiny(num_steps=2).features_only([-1])(images(37, 21))
    assert [x.shape for x in maps] == [(2, 16, 5, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (1,)}, r"depths are \(1,\); wanted one for each of 2 stages"),
        ({"strides": (2, 2, 2)}, r"strides are \(2, 2, 2\); wanted one for each of 2 stages"),
        ({"depths": (1, 0)}, r"depths are \(1, 0\); wanted 1 or more in each stage"),
        ({"widths": (), "depths": (), "strides": ()}, r"widths are \(\); wanted 1 or more in each stage"),
        ({"widths": (8, 12)}, r"widths are \(8, 12\); wanted 2 or more, each a multiple of the one before it"),
        ({"widths": (1, 16)}, r"widths are \(1, 16\); wanted 2 or more, each a multiple"),
        ({"widths": (6, 12), "head_dim": 6, "spk": "hsl"}, r"3 channels do not divide into two halves"),
        ({"head_dim": 3}, r"16 channels do not divide into 5 heads"),
        ({"kernel_size": 4}, r"kernel_size is 4; wanted an odd number"),
        ({"group_size": 0}, r"group_size is 0; wanted at least 1"),
        ({"stem_stride": 0}, r"stem_stride is 0; wanted at least 1"),
        ({"mlp_ratio": 0}, r"mlp_ratio is 0; wanted more than 0"),
        ({"attention_gain": -1}, r"attention_gain is -1; wanted more than 0"),
        ({"attention_spk": "sl"}, r"unknown attention_spk 'sl'; expected lif or spk"),
        ({"attention": "sdsa"}, r"unknown attention 'sdsa'; wanted sisa, bdsa or none"),
        ({"partition": "block"}, r"unknown partition 'block'; wanted one of grid, window, full"),
        ({"spk": "mpbl"}, r"unknown SPK block 'mpbl'; did you mean mbpl"),
        ({"form": "split"}, r"mbpl has no form 'split'; it has sum, concat, depthwise, convnext"),
        ({"neuron": "lff"}, r"unknown neuron 'lff'; did you mean lif"),
        ({"memory": "none"}, r"memory is 'none'; wanted 'full' or 'packed'"),
        ({"shortcut": "membrane"}, r"SpikeAtConv has no option 'shortcut'"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 1, 32, 32), r"has 1 channels; the model takes 3"),
        ((2, 3, 7, 32), r"input is \(7, 32\) pixels; the patch grid needs at least 8"),
    ],
)
def test_input_of_another_form_is_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny()(torch.zeros(shape))


def test_dcl_gives_way_to_its_first_neuron_in_front_of_1x1_convolutions() -> None:
    config = SpikeAtConvConfig(spk="dcl", thresholds="0.5,2")
    assert config.linear_spk(4).threshold == 0.5
    assert config.linear_spk(4, gain=2.0).threshold == 0.25
    assert isinstance(config.conv_spk(4), DCL)
