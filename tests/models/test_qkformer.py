from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm.layers import SPEDS, ConvNormNeuron, Residual, SpikingAttention, SpikingMLP
from spimm.models.qkformer import QKFormerConfig
from spimm.surrogate import ATan

from .conftest import count, lively, shapes_only, tiny


@pytest.mark.parametrize(
    ("name", "options", "params"),
    [
        ("qkformer_10_384", {}, 16_473_688),
        ("qkformer_10_512", {}, 29_079_336),
        ("qkformer_10_768", {}, 64_962_760),
        ("qkformer_4_384_cifar", {}, 6_706_234),
        ("qkformer_4_384_cifar", {"num_classes": 100}, 6_740_884),
        ("qkformer_2_256_dvs", {}, 1_504_138),
        ("qkformer_2_256_dvs", {"num_classes": 11}, 1_504_395),
        ("qkformer_2_256_dvs", {"num_classes": 11, "mlp_ratio": 4.0}, 1_999_371),
    ],
)
def test_published_sizes_are_met_to_the_parameter(name: str, options: dict[str, Any], params: int) -> None:
    assert count(shapes_only(name, **options)) == params


@pytest.mark.parametrize(
    ("name", "options", "millions"),
    [
        ("qkformer_4_384_cifar", {"attention": ("qkta", "qkta", "qkta")}, "6.444"),
        ("qkformer_4_384_cifar", {"attention": ("qkta", "qkca", "qkca")}, "6.444"),
        ("qkformer_4_384_cifar", {"attention": ("ssa", "ssa", "ssa")}, "6.788"),
        ("qkformer_2_256_dvs", {"attention": ("qkta", "qkta")}, "1.438"),
        ("qkformer_2_256_dvs", {"attention": ("ssa", "ssa")}, "1.521"),
    ],
)
def test_the_ablations_on_attention_have_their_published_sizes(
    name: str, options: dict[str, Any], millions: str
) -> None:
    classes = {"num_classes": 100} if "cifar" in name else {}
    counts = {f"{count(shapes_only(name, **options, **extra)) / 1e6:.3f}" for extra in ({}, classes)}
    assert millions in counts


@pytest.mark.parametrize("neuron", ["if", "lif", "plif"])
def test_neurons_of_the_ablation_can_be_exchanged(neuron: str) -> None:
    model = tiny(neuron=neuron)
    assert model(torch.randn(2, 3, 8, 8)).isfinite().all()
    learnt = [name for name, _ in model.named_parameters() if name.endswith(".w")]
    assert bool(learnt) == (neuron == "plif")


def test_the_attention_neuron_can_differ_from_the_others() -> None:
    model = tiny(attention_neuron="plif")
    assert {name.split(".")[-3] for name, _ in model.named_parameters() if name.endswith(".w")} == {"core"}


def test_settings_of_the_neuron_reach_every_neuron() -> None:
    model = tiny(tau=3.0, surrogate=ATan(1.5), detach_reset=False)
    neurons = [module for module in model.modules() if type(module).__name__ == "LIF"]
    assert len(neurons) == 3 * 3 + 4 * 5  # embeddings; blocks, where one neuron serves q, k and v
    assert {(n.tau, n.surrogate, n.detach_reset) for n in neurons} == {(3.0, ATan(1.5), False)}
    assert sorted({n.threshold for n in neurons}) == [0.5, 1.0]


def test_without_the_deformed_shortcut_its_convolutions_are_gone() -> None:
    with_, without = tiny(), tiny(deformed_shortcut=False)
    shortcuts = [parameter.numel() for name, parameter in with_.named_parameters() if ".shortcut." in name]
    assert count(with_) - count(without) == sum(shortcuts) > 0
    assert without(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_the_stream_holds_small_integers_that_grow_by_two_a_block() -> None:
    model, seen = tiny(), {}
    for index, stage in enumerate(model.stages):
        stage.embed.register_forward_hook(lambda m, i, y, index=index: seen.update({(index, "embed"): y}))
        stage.register_forward_hook(lambda m, i, y, index=index: seen.update({(index, "out"): y}))
    model(torch.randn(4, 3, 16, 16))
    for (index, place), y in seen.items():
        highest = 2 if place == "embed" else 2 + 2 * model.config.depths[index]
        assert set(y.unique().tolist()) <= set(range(highest + 1))
    assert max(y.max() for y in seen.values()) >= 3


def conv_inputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    inputs: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, args, y: inputs.append(args[0]))
    model(x)
    return inputs


@pytest.mark.parametrize("forms", [("cifar", "pool_last", "pool_last"), ("imagenet", "pool_first", "pool_first")])
def test_with_membrane_shortcuts_every_convolution_but_the_first_sees_spikes(forms: tuple[str, ...]) -> None:
    model = tiny(shortcut="membrane", patch_forms=forms)
    features = model.forward_features(torch.randn(2, 3, 32, 32))
    assert set(features.unique().tolist()) == {0, 1}
    first, *others = conv_inputs(model, torch.randn(2, 3, 32, 32))
    assert len(first.unique()) > 10
    assert all(((x == 0) | (x == 1)).all() for x in others)
    assert any(x.any() for x in others[-4:])


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("shortcut", ["spike_add", "membrane"])
@pytest.mark.parametrize("attention", ["qkta", "qkca", "ssa"])
def test_memory_stays_channels_last_from_stem_to_head(attention: str, shortcut: str, autocast: bool) -> None:
    model, odd = tiny(attention=(attention,) * 3, shortcut=shortcut).train(), []

    def check(name: str, output: Tensor) -> None:
        dense = output.movedim(-3, -1).is_contiguous()
        if not dense:
            odd.append((name, output.shape, output.stride()))

    kinds = (nn.Conv2d, nn.MaxPool2d, ConvNormNeuron, SPEDS, SpikingAttention, SpikingMLP, Residual)
    for name, module in model.named_modules():
        if isinstance(module, kinds) or name.endswith("core"):
            module.register_forward_hook(lambda m, i, y, name=name: check(name, y))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert odd == []
    assert all(
        parameter.is_contiguous(memory_format=torch.channels_last)
        for parameter in model.parameters()
        if parameter.dim() == 4
    )


def test_a_scale_merged_into_the_threshold_gives_equal_logits() -> None:
    apart, merged = tiny(), tiny(merge_scale=True)
    merged.load_state_dict(apart.state_dict())
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(apart(x), merged(x))


def test_legacy_differs_for_batches_and_only_with_self_attention() -> None:
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    for attention, differs in ((("qkta", "qkta", "ssa"), True), (("qkta", "qkca", "qkta"), False)):
        correct, legacy = tiny(attention=attention).double(), tiny(attention=attention, legacy=True).double()
        legacy.load_state_dict(correct.state_dict())
        assert torch.equal(correct(x), legacy(x)) != differs
        assert torch.equal(correct(x[:1]), legacy(x[:1]))


def test_bfloat16_autocast_gives_float32_logits_and_gradients() -> None:
    model = tiny().train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 3, 16, 16))
    assert logits.isfinite().all()
    logits.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("size", [(8, 8), (13, 9), (16, 40)])
def test_images_need_neither_be_square_nor_fill_the_patch_grid(size: tuple[int, int]) -> None:
    model = tiny()
    features = model.forward_features(torch.randn(1, 3, *size))
    assert features.shape == (3, 1, 16, -(-size[0] // 4), -(-size[1] // 4))


@pytest.mark.parametrize("shortcut", ["spike_add", "membrane"])
@pytest.mark.parametrize("form", ["imagenet", "cifar", "half", "dvs", "pool_first", "pool_last"])
def test_an_image_equals_its_repetition_whatever_the_first_embedding(form: str, shortcut: str) -> None:
    model = tiny(embed_dim=32, patch_forms=(form, "pool_last", "pool_last"), shortcut=shortcut)
    image = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(image), model(image.unsqueeze(1).expand(-1, 3, -1, -1, -1)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 16, 16), r"input has shape \(3, 16, 16\); wanted an image"),
        ((2, 1, 16, 16), r"has 1 channels; the model takes 3"),
        ((2, 3, 4, 16, 16), r"has 4 channels; the model takes 3"),
        ((2, 3, 3, 16), r"input is \(3, 16\) pixels; the patch grid needs at least 4"),
        ((0, 3, 16, 16), r"is empty"),
    ],
)
def test_input_of_another_form_is_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neuron": "lff"}, r"unknown neuron 'lff'; did you mean lif"),
        ({"attention_neuron": "pliff"}, r"unknown neuron 'pliff'; did you mean plif"),
        ({"surrogate": "sigmod"}, r"unknown surrogate 'sigmod'; did you mean sigmoid"),
        ({"attention": ("qkta", "qkc", "ssa")}, r"unknown attention 'qkc'; did you mean qkca"),
        ({"attention": ("qkta", "ssa")}, r"attention has 2 entries for 3 stages"),
        ({"patch_forms": ("cifar", "pool_last")}, r"patch_forms has 2 entries for 3 stages"),
        ({"patch_forms": ("cifar", "pool_last", "pool")}, r"unknown patch_forms 'pool'; did you mean pool"),
        ({"shortcut": "sew"}, r"unknown shortcut 'sew'; wanted one of vanilla, spike_add, membrane"),
        ({"embed_dim": 386}, r"embed_dim is 386; 3 stages need a positive multiple of 4"),
        ({"num_heads": 7}, r"4 channels do not divide into 7 heads"),
        ({"tau": 0.5}, r"tau is 0.5; wanted at least 1"),
        ({"num_step": 2}, r"QKFormer has no option 'num_step'; its options are num_classes, num_steps, .*num_heads"),
        ({"num_heads": 0}, r"num_heads"),
        ({"num_heads": -4}, r"num_heads"),
        ({"mlp_ratio": 0.0}, r"mlp_ratio"),
        ({"embed_dim": 0}, r"embed_dim"),
        ({"depths": (1, -1, 1)}, r"depths"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_the_width_halves_once_before_each_stage_but_the_first() -> None:
    model = tiny(embed_dim=40, num_heads=1)  # a multiple of 4, not of 16
    assert model(torch.rand(1, 3, 16, 16)).shape == (1, 10)


def test_a_configuration_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="num_steps is 0; wanted at least 1"):
        QKFormerConfig(num_steps=0)


def test_a_model_learns_to_tell_two_images_apart() -> None:
    model = lively(spimm.create_model("qkformer_3_64_digits", num_classes=2, embed_dim=16, num_heads=2)).train()
    images, labels = torch.randn(2, 1, 8, 8).repeat(4, 1, 1, 1), torch.arange(2).repeat(4)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1
