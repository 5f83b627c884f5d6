"""Folded models against the models in eval mode."""

import copy
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm.analyze import analyze
from spimm.deploy import fold, fold_module, merge_convs, scale_threshold
from spimm.kernels.lif import reference
from spimm.layers import ConvNeuron, ConvNormNeuron, SpikeProduct
from spimm.neurons import IF, LIF, PLIF, Neuron

from ..kernels.conftest import TOLERANCES, Potentials, assert_spike_parity
from .conftest import settled, tiny

OPTIONS = {
    "as published": {},
    "channel attention": {"attention": "qkca"},
    "SSA everywhere": {"attention": "ssa", "neuron": "plif"},
    "merged scale": {"merge_scale": True},
    "legacy": {"legacy": True},
    "membrane": {"shortcut": "membrane", "neuron": "if"},
    "vanilla": {"shortcut": "vanilla"},
    "no deformed shortcut": {"deformed_shortcut": False},
    "no blocks, all pools": {"depths": (0, 1, 0), "patch_forms": ("imagenet", "pool_first", "pool_first")},
}
AFFORDABLE = [name for name in spimm.list_models() if spimm.model_card(name).params < 100_000_000]
"""Larger models differ from these in widths and depths alone."""
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def images(batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)


def units(model: nn.Module) -> Iterator[tuple[str, ConvNeuron]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, ConvNeuron))


def plus(x: Tensor, kwargs: dict[str, Tensor | None]) -> Tensor:
    """With the shortcut that a unit adds."""
    added = kwargs.get("added")
    return x if added is None else x + added


def minus(x: Tensor, kwargs: dict[str, Tensor | None]) -> Tensor:
    added = kwargs.get("added")
    return x if added is None else x - added


@pytest.mark.parametrize("name", OPTIONS)
@torch.no_grad()
def test_a_folded_model_equals_the_model_in_float64(name: str) -> None:
    model, x = tiny(**OPTIONS[name]).double(), images(dtype=torch.float64)
    folded = fold(model)
    expected, found = model.forward_features(x), folded.forward_features(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(folded(x), model(x), atol=1e-10, rtol=0)
    if name != "membrane":
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", AFFORDABLE)
@torch.no_grad()
def test_every_registered_model_folds(name: str) -> None:
    """A new model is found here by its registration alone."""
    card = spimm.model_card(name)
    once = card.family == "ttfs"  # one window a layer, images of one size
    model = settled(spimm.create_model(name, num_steps=1 if once else 2)).double()
    size = card.input_size[1] if once else 2 * model.feature_info[-1]["reduction"]
    x = torch.rand(1, card.input_size[0], size, size, dtype=torch.float64)
    folded = fold(model)
    assert not any(isinstance(module, NORMS) for module in folded.modules())
    expected = model(x)
    torch.testing.assert_close(folded(x), expected, atol=1e-10 * max(1.0, float(expected.abs().max())), rtol=0)


@pytest.mark.parametrize("name", ["as published", "membrane", "no blocks, all pools"])
@torch.no_grad()
def test_every_unit_gives_the_spikes_of_the_unfolded_one_in_float32(name: str) -> None:
    """The truth is the unfolded unit in float64 on the inputs of the folded one: spikes differ near the threshold."""
    model = tiny(**OPTIONS[name])
    folded, tolerance = fold(model), 10 * TOLERANCES[torch.float32].potential
    exact, seen = dict(copy.deepcopy(model).double().named_modules()), []

    def compare(unit: ConvNormNeuron, module: ConvNeuron, args: tuple, kwargs: dict, output: Tensor) -> None:
        steps, neuron = args[1] if len(args) > 1 else None, unit.neuron
        unit.neuron = None
        membrane = unit(args[0].double(), steps)
        unit.neuron = neuron
        seen.append(unit)
        if neuron is None:
            torch.testing.assert_close(output.double(), plus(membrane, kwargs), atol=tolerance, rtol=0)
            return
        fire = Potentials(neuron.surrogate)
        truth, _ = reference.lif(membrane, neuron.dynamics(), num_steps=steps or len(membrane), fire=fire)
        assert_spike_parity(minus(output, kwargs), truth, fire.decided(tolerance))

    for key, module in units(folded):
        module.register_forward_hook(partial(compare, exact[key]), with_kwargs=True)
    folded(images())
    assert len(seen) == sum(1 for _ in units(folded)) > 10


@torch.no_grad()
def test_logits_agree_in_float32() -> None:
    """Save for images in which a potential meets the threshold within rounding: what follows such a spike differs."""
    model, x = tiny(), images(8)
    folded = fold(model)
    same = (folded.forward_features(x) == model.forward_features(x)).movedim(1, 0).flatten(1).all(1)
    assert same.sum() >= 6
    torch.testing.assert_close(folded(x)[same], model(x)[same], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_convolutions_neurons_and_the_head_are_all_that_computes(name: str) -> None:
    folded = fold(tiny(**OPTIONS[name]))
    leaves = [module for module in folded.modules() if not list(module.children())]
    assert not any(isinstance(module, NORMS) for module in folded.modules())
    kinds = (nn.Conv2d, nn.Linear, nn.Identity, nn.Sequential, Neuron)
    assert all(isinstance(module, kinds) for module in leaves)
    assert not any("norm" in key or "running" in key for key in folded.state_dict())
    assert all(module.scale == 1 for module in folded.modules() if isinstance(module, SpikeProduct))


def test_the_scale_of_ssa_goes_into_its_threshold() -> None:
    core = fold(tiny()).stages[2].blocks[0].attention.branch.core
    assert (core.scale, core.neuron.threshold) == (1, 4.0)


def test_the_original_stays_as_it_is_and_the_copy_is_for_inference() -> None:
    model = tiny().train()
    before, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    folded = fold(model, dtype=torch.bfloat16)
    assert all(a is b and a.training for a, b in zip(model.modules(), modules, strict=True))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.stages[2].blocks[0].attention.branch.core.scale == 0.125
    assert not any(module.training for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
def test_memory_stays_channels_last() -> None:
    for dtype in (None, torch.bfloat16):
        folded, layouts = fold(tiny(), dtype=dtype), []
        for _, unit in units(folded):
            unit.register_forward_hook(lambda *call, seen=layouts: seen.append(call[2].movedim(2, -1).is_contiguous()))
        folded(images())
        assert len(layouts) > 10 and all(layouts)


@torch.no_grad()
def test_an_image_is_convolved_once_for_all_steps() -> None:
    folded, seen = fold(tiny(num_steps=3)), []
    folded.stages[0].embed.units[0].conv.register_forward_hook(lambda *call: seen.append(len(call[2])))
    assert folded.forward_features(images()).shape[0] == 3
    assert seen == [2]


@pytest.mark.parametrize("shortcut", ["spike_add", "membrane"])
@torch.no_grad()
def test_bf16_is_what_flows_between_layers(shortcut: str) -> None:
    """Each unit against itself in float64: bf16 rounds what its convolution gives, and nothing else."""
    folded, checked = fold(tiny(shortcut=shortcut), dtype=torch.bfloat16), []

    def compare(module: ConvNeuron, args: tuple, kwargs: dict, output: Tensor) -> None:
        steps = args[1] if len(args) > 1 else None
        conv = copy.deepcopy(module.conv).double()
        membrane = ConvNeuron(conv, pool=module.pool, neuron=None)(args[0].bfloat16().double())
        assert output.dtype == torch.bfloat16
        checked.append(module)
        if module.neuron is None:
            expected = plus(membrane, kwargs)
            torch.testing.assert_close(output.double(), expected, atol=2**-7 * float(expected.abs().max()), rtol=0)
            return
        fire = Potentials(module.neuron.surrogate)
        truth, _ = reference.lif(membrane, module.neuron.dynamics(), num_steps=steps or len(membrane), fire=fire)
        decided, spikes = fire.decided(2**-7 * float(membrane.abs().max())), minus(output, kwargs)
        assert ((spikes == 0) | (spikes == 1)).all() and decided.double().mean() > 0.8
        assert torch.equal(spikes.double()[decided], truth[decided])

    for _, unit in units(folded):
        assert unit.conv.weight.dtype == unit.conv.bias.dtype == torch.bfloat16
        unit.register_forward_hook(compare, with_kwargs=True)
    logits = folded(images())
    assert logits.dtype == folded.head.weight.dtype == torch.float32 and logits.isfinite().all()
    assert len(checked) > 10


@torch.no_grad()
def test_a_folded_model_is_analyzed_as_the_model_is() -> None:
    model = tiny().double()
    plain, folded = (
        analyze(network, [images(dtype=torch.float64)], model_name="tiny") for network in (model, fold(model))
    )
    assert folded.trace.firing_rates() == plain.trace.firing_rates()
    ours, theirs = folded.trace.layers, plain.trace.layers
    assert {layer.name: layer.products for layer in ours} == {layer.name: layer.products for layer in theirs}
    assert folded.energy.millijoules == pytest.approx(plain.energy.millijoules)
    assert folded.integer_energy.groups() == pytest.approx(plain.integer_energy.groups())


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@torch.no_grad()
def test_weights_of_a_folded_model_are_saved_and_loaded(dtype: torch.dtype | None, tmp_path) -> None:
    folded, other = (fold(tiny(), dtype=dtype) for _ in range(2))
    assert not torch.equal(folded(images()), other(images()))
    spimm.load_weights(other, spimm.save_weights(folded, tmp_path / "folded.safetensors"))
    assert torch.equal(folded(images()), other(images()))


@torch.no_grad()
def test_folding_again_changes_nothing() -> None:
    once = fold(tiny())
    again = fold(once)
    assert again is not once and torch.equal(again(images()), once(images()))


@torch.no_grad()
def test_a_backbone_is_folded_as_well() -> None:
    backbone = tiny().double().features_only()
    found, expected = fold(backbone)(images(dtype=torch.float64)), backbone(images(dtype=torch.float64))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("learnt", [False, True])
@pytest.mark.parametrize("v_reset", [0.0, -0.25, None])
@pytest.mark.parametrize("kind", [IF, LIF, PLIF])
@torch.no_grad()
def test_a_scaled_threshold_gives_the_spikes_of_the_scaled_input(
    kind: type[Neuron], v_reset: float | None, learnt: bool
) -> None:
    neuron, x = kind(threshold=0.5, v_reset=v_reset, learn_threshold=learnt), 16 * torch.randn(6, 4, 5)
    scaled = scale_threshold(neuron, 0.125)
    assert torch.equal(scaled(x), neuron(0.125 * x)) and 0.1 < scaled(x).mean() < 0.9
    assert (float(neuron.threshold), float(scaled.threshold)) == (0.5, 4.0)
    assert type(scaled.threshold) is type(neuron.threshold)


def test_a_scale_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scale of -1\.0"):
        scale_threshold(LIF(), -1.0)


def test_a_row_of_layers_keeps_the_names_of_its_convolutions() -> None:
    row = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
    )
    folded = fold(settled(row))
    assert [type(layer).__name__ for layer in folded] == ["Conv2d", "Identity", "ReLU", "Conv2d", "Identity"]
    torch.testing.assert_close(folded(images()), row(images()))


def test_a_row_of_linear_layers_is_one_convolution() -> None:
    row = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5)))
    folded = fold(settled(row))
    assert type(folded) is nn.Conv2d
    torch.testing.assert_close(folded(images()), row(images()))


class Twice(nn.Module):
    """One unit used under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = ConvNormNeuron(3, 3, 1, neuron=LIF())

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def test_a_unit_used_twice_stays_one() -> None:
    folded = fold(settled(Twice()))
    assert type(folded.first) is ConvNeuron and folded.first is folded.second


class Stray(nn.Module):
    """A norm that stands in front of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


def test_a_norm_that_no_rule_folds_is_named() -> None:
    with pytest.raises(ValueError, match=r"'1\.norm' is left over"):
        fold(nn.Sequential(nn.ReLU(), Stray()))


def test_a_rule_makes_a_new_layer_known() -> None:
    class Padless(Stray):
        """The same with a 1x1 convolution."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

    fold_module.register(Padless, lambda module: merge_convs([module.norm, module.conv]))
    network = settled(nn.Sequential(nn.ReLU(), Padless()))
    torch.testing.assert_close(fold(network)(images()), network(images()))


def test_a_norm_without_running_statistics_is_named() -> None:
    model = tiny()
    model.stages[1].embed.units[0].norm = nn.BatchNorm2d(8, track_running_stats=False)
    with pytest.raises(ValueError, match=r"'stages\.1\.embed\.units\.0\.norm' has no running statistics"):
        fold(model)


def test_a_dtype_of_integers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dtype is torch\.int8"):
        fold(tiny(), dtype=torch.int8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["qkformer_3_64_digits", "metaspikeformer_mnist", "spikeatconv_mnist"])
def test_a_folded_model_runs_under_autocast_in_inference_as_with_gradients(name: str, dtype: torch.dtype) -> None:
    folded = fold(spimm.create_model(name).eval())
    x = torch.rand(2, *folded.pretrained_cfg["input_size"])
    with torch.autocast("cpu", dtype):
        expected = folded(x)
        with torch.no_grad():
            found = folded(x)
    assert found.dtype == expected.dtype and torch.allclose(found.float(), expected.float(), atol=0.1)
