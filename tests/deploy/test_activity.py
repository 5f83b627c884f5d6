"""How many neurons are active, and when: with the dynamic threshold, without it, and as an ordinary network."""

import pytest
import torch

from spimm.deploy import compare_activity, raster_constant, raster_dynamic, run_causal, run_closed_form

from .ttfs_nets import direct, images, small


def test_active_neurons_are_counted_in_all_three_networks() -> None:
    model, x = small(), images(6)
    found = compare_activity(model, [x[:4], x[4:]], threshold=0.8)
    ordinary, dynamic = run_closed_form(model, x, relu1=True), run_closed_form(model, x)
    constant = run_causal(model, x, threshold=0.8)
    assert [layer.layer for layer in found] == ["stages.0.0", "stages.0.1", "stages.1.0", "hidden.0", "hidden.1"]
    assert [layer.neurons for layer in found] == [144, 6 * 10**2, 8 * 3**2, 20, 16]
    for layer in found:
        assert layer.active_ann == pytest.approx((ordinary.spikes[layer.layer][0] > 0).sum().item() / 6)
        assert layer.active_dynamic == pytest.approx(dynamic.spikes[layer.layer][1].sum().item() / 6)
        assert layer.active_constant == pytest.approx(constant.times[layer.layer].isfinite().sum().item() / 6)
        active = layer.active_ann, layer.active_dynamic, layer.active_constant
        assert list(layer.inactive.values()) == pytest.approx([1 - count / layer.neurons for count in active])
        assert list(layer.inactive) == ["ann", "dynamic", "constant"]


@pytest.mark.parametrize("window", [1.0, 2.0])
def test_an_ordinary_network_with_the_same_weights_is_the_twin(window: float) -> None:
    for build, x in ((small, images()), (direct, torch.randn(5, 3, 8, 8, dtype=torch.float64))):
        model, twin = build(window=window), build(neuron="relu1")
        twin.load_state_dict(model.state_dict())
        ordinary = run_closed_form(model, x, relu1=True)
        torch.testing.assert_close(ordinary.logits, twin(x))
        for layer, activation in run_closed_form(twin, x).spikes.items():
            torch.testing.assert_close(ordinary.spikes[layer], activation)
        assert compare_activity(model, [x]) == compare_activity(model, [x], twin=twin)


def test_other_weights_of_the_twin_change_its_own_activity_only() -> None:
    model, x = small(), images()
    own, other = compare_activity(model, [x]), compare_activity(model, [x], twin=small(neuron="relu1"))
    assert [layer.active_dynamic for layer in own] == [layer.active_dynamic for layer in other]
    assert [layer.active_ann for layer in own] != [layer.active_ann for layer in other]


def test_spikes_of_an_image_lie_in_the_windows_of_their_layers_only_with_the_dynamic_threshold() -> None:
    model, image = small(window=2.0), images()[1]
    dynamic, constant = raster_dynamic(model, image), raster_constant(model, image)
    spikes = run_closed_form(model, image.unsqueeze(0)).spikes
    for number, (raster, (layer, planes)) in enumerate(zip(dynamic, spikes.items(), strict=True)):
        assert raster.layer == layer
        assert len(raster.times) == len(raster.neurons) == planes[1].sum() > 0
        assert 2 * number <= raster.times.min() <= raster.times.max() <= 2 * (number + 1)
        assert 0 <= raster.neurons.min() < raster.neurons.max() <= 1
        assert (raster.neurons.diff() > 0).all()
    times = run_causal(model, image.unsqueeze(0)).times
    for raster, (layer, when) in zip(constant, times.items(), strict=True):
        assert raster.layer == layer
        assert torch.equal(raster.times, when.flatten()[when.flatten().isfinite()])
    assert constant[-1].times.max() > 2 * len(constant)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no image"):
        compare_activity(small(), [])
    with pytest.raises(ValueError, match=r"the twin has the layers .*'hidden.0'\]; wanted .*'hidden.1'\]"):
        compare_activity(small(), [images()], twin=small(neuron="relu1", hidden="20"))
