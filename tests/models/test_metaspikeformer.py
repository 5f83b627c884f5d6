import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm.deploy import fold
from spimm.layers import ConvNormNeuron, ConvUnit, RepConv, Residual, SepConv, SpikingAttention, SpikingMLP
from spimm.models.metaspikeformer import DETECTION_MAPS, SEGMENTATION_MAPS, MetaSpikeFormerConfig
from spimm.surrogate import ATan

from .conftest import assert_train_alike, lively, shapes_only, tiny_meta

KINDS = ("sdsa1", "sdsa2", "sdsa3", "sdsa4", "vsa")
SHORTCUTS = ("vanilla", "spike_add", "membrane")


def images(batch: int = 2, size: int = 16) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_blocks_are_conv_or_transformer_as_asked() -> None:
    for blocks, transformers in (("conv", 0), ("transformer", 6), ("conv,conv,conv,transformer,transformer", 3)):
        model = tiny_meta(blocks=blocks)
        assert sum(isinstance(part, SpikingAttention) for part in model.modules()) == transformers
        assert sum(isinstance(part, SepConv) for part in model.modules()) == 6 - transformers
        assert model(images()).std() > 0


def test_each_stage_may_have_its_attention() -> None:
    model = tiny_meta(attention="sdsa1,sdsa1,sdsa1,sdsa4,vsa")
    cores = [type(part.core).__name__ for part in model.modules() if isinstance(part, SpikingAttention)]
    assert cores == ["SpikeProduct", "SpikeProduct", "SoftmaxProduct"]


def test_sdsa4_learns_one_threshold_an_attention() -> None:
    model = tiny_meta(attention="sdsa4").train()
    model(images()).square().sum().backward()
    learnt = {name: p for name, p in model.named_parameters() if "threshold" in name}
    assert len(learnt) == 3 and all(name.endswith("core.neuron.threshold") for name in learnt)
    assert all(p.numel() == 1 and p.grad.abs() > 0 for p in learnt.values())


@pytest.mark.parametrize("kind", ["sdsa3", "sdsa4"])
def test_a_scale_merged_into_the_threshold_gives_equal_logits(kind: str) -> None:
    apart, merged = tiny_meta(attention=kind), tiny_meta(attention=kind, merge_scale=True)
    weights = {key: value for key, value in apart.state_dict().items() if "threshold" not in key}
    merged.load_state_dict(weights, strict=False)
    scales = [{part.core.scale for part in m.modules() if isinstance(part, SpikingAttention)} for m in (apart, merged)]
    assert scales == [{0.125}, {1.0}]
    assert torch.equal(apart(images(4)), merged(images(4)))


def test_settings_of_the_neuron_reach_every_neuron() -> None:
    model = tiny_meta(tau=3.0, surrogate=ATan(1.5), detach_reset=False)
    neurons = [module for module in model.modules() if type(module).__name__ == "LIF"]
    assert len(neurons) == 4 + 3 * 4 + 3 * 5 + 1  # embeddings, conv blocks, transformer blocks, head
    assert {(n.tau, n.surrogate, n.detach_reset) for n in neurons} == {(3.0, ATan(1.5), False)}
    assert sorted({n.threshold for n in neurons}) == [0.5, 1.0]


def test_the_attention_neuron_can_differ_from_the_others() -> None:
    model = tiny_meta(attention_neuron="plif")
    assert {name.split(".")[-3] for name, _ in model.named_parameters() if name.endswith(".w")} == {"core"}


def conv_inputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    inputs: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, args, y: inputs.append(args[0]))
    model(x)
    return inputs


@torch.no_grad()
def test_with_membrane_shortcuts_every_layer_but_the_first_sees_spikes() -> None:
    first, *others = conv_inputs(fold(tiny_meta(), merge="dense"), images())
    assert len(first.unique()) > 10
    assert len(others) == 4 + 3 * 4 + 3 * 4 + 1
    assert all(((x == 0) | (x == 1)).all() for x in others)
    assert sum(bool(x.any()) for x in others) > 20


@torch.no_grad()
@pytest.mark.parametrize("shortcut", ["vanilla", "spike_add"])
def test_other_shortcuts_let_convolutions_see(shortcut: str) -> None:
    _, *others = conv_inputs(fold(tiny_meta(shortcut=shortcut), merge="dense"), images(4))
    assert all(torch.equal(x, x.round()) for x in others[:-1])
    assert (max(float(x.max()) for x in others[:-1]) > 1) == (shortcut == "spike_add")


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_the_stream_between_blocks_is_of_the_kind_of_the_shortcut(shortcut: str) -> None:
    _, maps = tiny_meta(shortcut=shortcut).train().forward_intermediates(images(4))
    spikes = [bool(((x == 0) | (x == 1)).all()) for x in maps]
    whole = [torch.equal(x, x.round()) for x in maps]
    assert all(x.any() for x in maps)
    assert all(whole) == (shortcut != "membrane")
    assert all(spikes) == (shortcut == "vanilla")


def test_detection_and_segmentation_take_the_maps_of_the_paper() -> None:
    for indices, reductions, widths in (
        (DETECTION_MAPS, [4, 8, 16, 16], [96, 192, 384, 480]),
        (SEGMENTATION_MAPS, [2, 4, 8, 16], [48, 96, 192, 480]),
    ):
        backbone = shapes_only("metaspikeformer_31m", features_only=True, out_indices=indices)
        assert [info["reduction"] for info in backbone.feature_info] == reductions
        assert [info["num_chs"] for info in backbone.feature_info] == widths


@pytest.mark.parametrize("indices", [DETECTION_MAPS, SEGMENTATION_MAPS])
@torch.no_grad()
def test_maps_are_given_per_step_or_averaged(indices: tuple[int, ...]) -> None:
    small = {"widths": (4, 8, 16, 16, 32), "num_heads": 2, "strides": (2, 2, 2, 2, 1), "num_steps": 3}
    averaged, apart = (
        spimm.create_model(
            "metaspikeformer_cifar", features_only=True, out_indices=indices, per_step=per_step, **small
        ).eval()
        for per_step in (False, True)
    )
    lively(averaged)
    apart.load_state_dict(averaged.state_dict())
    x = torch.randn(2, 3, 64, 32)
    for info, mean, steps in zip(averaged.feature_info, averaged(x), apart(x), strict=True):
        assert steps.shape == (3, 2, info["num_chs"], 64 // info["reduction"], 32 // info["reduction"])
        assert torch.equal(mean, steps.mean(0))
        assert not torch.equal(steps[0], steps[1])


def test_maps_per_step_are_for_backbones() -> None:
    with pytest.raises(ValueError, match=r"per_step=True are for features_only=True"):
        spimm.create_model("metaspikeformer_cifar", per_step=True)
    with pytest.raises(ValueError, match=r"out_indices=\(0,\).*features_only=True"):
        spimm.create_model("metaspikeformer_cifar", out_indices=(0,))


def test_a_distilled_model_gives_two_logits_in_training_and_their_mean_otherwise() -> None:
    model, x = tiny_meta(distillation=True).double(), images().double()
    features = model.forward_features(x)
    spikes = model.forward_head(features, pre_logits=True)
    ours, taught = model.head(spikes), model.distilled_head(spikes)
    torch.testing.assert_close(model(x), (ours + taught) / 2)
    model.train()
    pair = model.forward_head(features)
    for found, expected in zip(pair, (ours, taught), strict=True):
        torch.testing.assert_close(found, expected)
    assert not torch.allclose(ours, taught)


def test_both_classifiers_are_exchanged_together() -> None:
    model = tiny_meta(distillation=True)
    model.reset_classifier(3)
    assert (model.head.out_features, model.distilled_head.out_features) == (3, 3)
    assert model(images()).shape == (2, 3)
    model.reset_classifier(0)
    assert model.distilled_head is None and model.train()(images()).shape == (2, 32)
    plain = tiny_meta()
    plain.reset_classifier(3)
    assert plain.distilled_head is None


def test_stochastic_depth_grows_linearly_to_the_last_block() -> None:
    model = tiny_meta(drop_path=0.5)
    rates = [part.drop_path for part in model.modules() if isinstance(part, Residual)]
    assert rates == pytest.approx([0.1 * i for i in range(6) for _ in range(2)])


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_the_head_fires_on_the_mean_over_space_of_membranes(shortcut: str) -> None:
    model, x = tiny_meta(shortcut=shortcut).double().train(), images(4).double()
    features = model.forward_features(x)
    means = features.mean((3, 4))
    seen = model.config.neuron_fn()(means) if shortcut == "membrane" else means
    assert seen.any() and torch.equal(seen, seen.round()) == (shortcut == "membrane")
    torch.testing.assert_close(model.forward_head(features), torch.stack([model.head(step) for step in seen]).mean(0))


def test_weights_of_one_step_run_at_four() -> None:
    one, four = tiny_meta(num_steps=1).double(), tiny_meta(num_steps=4).double()
    four.load_state_dict(one.state_dict())
    x = images().double()
    frames = x.unsqueeze(1).expand(-1, 4, -1, -1, -1)
    torch.testing.assert_close(four(x), one(frames), atol=1e-12, rtol=0)
    assert not torch.allclose(four(x), one(x))


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("training", [False, True])
def test_an_image_equals_its_repetition(shortcut: str, training: bool) -> None:
    model = tiny_meta(shortcut=shortcut).double().train(training)
    x, other = images().double(), copy.deepcopy(model)  # in training RepConv's border follows the running statistics
    torch.testing.assert_close(model(x), other(x.unsqueeze(1).expand(-1, 3, -1, -1, -1)), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_events_of_two_polarities_are_a_sequence(shortcut: str) -> None:
    model = tiny_meta(in_chans=2, shortcut=shortcut)
    events = torch.poisson(torch.full((2, 5, 2, 18, 18), 0.5))
    assert model.forward_features(events).shape[:2] == (5, 2)
    assert model(events).shape == (2, 10)
    assert spimm.model_card("metaspikeformer_18m_dvs").events
    assert spimm.model_card("metaspikeformer_nmnist").events


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("options", [{"attention": kind} for kind in KINDS] + [{"shortcut": "spike_add"}], ids=str)
def test_memory_stays_channels_last_from_stem_to_head(options: dict[str, str], autocast: bool) -> None:
    model, odd = tiny_meta(**options).train(), []

    def check(name: str, output: Tensor) -> None:
        if not output.movedim(-3, -1).is_contiguous():
            odd.append((name, output.shape, output.stride()))

    kinds = (nn.Conv2d, ConvUnit, RepConv, SpikingAttention, SpikingMLP, SepConv, Residual, ConvNormNeuron)
    for name, module in model.named_modules():
        if isinstance(module, kinds) or name.endswith(("core", "entry")):
            module.register_forward_hook(lambda m, i, y, name=name: check(name, y))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model(images()).sum().backward()
    assert odd == []
    assert all(
        parameter.is_contiguous(memory_format=torch.channels_last)
        for parameter in model.parameters()
        if parameter.dim() == 4
    )


@pytest.mark.parametrize("options", [{"checkpoint": True}, {"memory": "packed"}])
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_ways_to_save_memory_change_no_gradient(shortcut: str, options: dict[str, Any]) -> None:
    plain, thrifty = tiny_meta(shortcut=shortcut).train(), tiny_meta(shortcut=shortcut, **options).train()
    assert_train_alike(plain, thrifty, images())


def test_bfloat16_autocast_gives_float32_logits_and_gradients() -> None:
    model = tiny_meta().train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images())
    assert logits.isfinite().all()
    logits.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("size", [(8, 8), (13, 9), (16, 40)])
def test_images_need_neither_be_square_nor_fill_the_patch_grid(size: tuple[int, int]) -> None:
    features = tiny_meta().forward_features(torch.randn(1, 3, *size))
    assert features.shape == (3, 1, 32, math.ceil(size[0] / 8), math.ceil(size[1] / 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (1, 1, 2)}, r"depths are \(1, 1, 2\); wanted one for each of 5 stages"),
        ({"strides": (2, 2)}, r"strides are \(2, 2\); wanted one for each of 5 stages"),
        ({"depths": (1, -1, 1, 1, 1)}, r"depths are .*; wanted 0 or more in each stage"),
        ({"strides": (2, 2, 0, 2, 1)}, r"strides are .*; wanted 1 or more in each stage"),
        ({"widths": (4, 0, 16, 16, 32)}, r"widths are .*; wanted 1 or more in each stage"),
        ({"blocks": "cnn"}, r"unknown blocks 'cnn'; did you mean conv"),
        ({"blocks": ("conv", "transformer")}, r"blocks has 2 entries for 5 stages"),
        ({"attention": "sdsa"}, r"unknown attention 'sdsa'; did you mean sdsa"),
        ({"attention": "sdsa1,sdsa2"}, r"attention has 2 entries for 5 stages"),
        ({"channel_kernel": 2}, r"channel_kernel is 2; wanted an odd number"),
        ({"stem_kernel": 0}, r"stem_kernel is 0; wanted an odd number"),
        ({"qkv_conv": "conv"}, r"unknown convolution 'conv'; wanted one of repconv, linear"),
        ({"proj_conv": "conv"}, r"unknown convolution 'conv'; wanted one of repconv, linear"),
        ({"shortcut": "ms"}, r"unknown shortcut 'ms'; wanted one of vanilla, spike_add, membrane"),
        ({"num_heads": 3}, r"16 channels do not divide into 3 heads"),
        ({"neuron": "lff"}, r"unknown neuron 'lff'; did you mean lif"),
        ({"legacy": True}, r"MetaSpikeFormer has no option 'legacy'"),
        ({"memory": "none"}, r"memory is 'none'; wanted 'full' or 'packed'"),
        ({"drop_path": 1.0}, r"drop_path is 1.0; expected a probability from 0 to below 1"),
        ({"num_steps": 0}, r"num_steps is 0; wanted at least 1"),
        ({"mlp_ratio": 0.0}, r"mlp_ratio is 0.0; wanted more than 0"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_meta(**options)


def test_a_configuration_without_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="num_heads is 0; wanted at least 1"):
        MetaSpikeFormerConfig(num_heads=0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 1, 16, 16), r"has 1 channels; the model takes 3"),
        ((2, 3, 7, 16), r"input is \(7, 16\) pixels; the patch grid needs at least 8"),
    ],
)
def test_input_of_another_form_is_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_meta()(torch.zeros(shape))
