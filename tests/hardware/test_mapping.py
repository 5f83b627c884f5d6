import math

import pytest

from spimm.analyze import Layer
from spimm.hardware import Core, map_layers

VGG11 = ((64, 32), (128, 16), (256, 8), (256, 8), (512, 4), (512, 4), (512, 2), (512, 2), (4096, 1), (4096, 1), (10, 1))
"""Channels and side of its layers of neurons at 32x32 pixels."""


def test_vgg11_at_1024_neurons_a_core_fills_157_cores(neuron, trace):
    layers = [neuron(f"{n}", (width, side, side), [0.5] * width) for n, (width, side) in enumerate(VGG11)]
    chip = map_layers(trace(*layers))
    assert [len(layer.cores) for layer in chip.layers] == [64, 32, 16, 16, 8, 8, 2, 2, 4, 4, 1]
    assert sum(core.neurons for core in chip.cores) == 159_754
    assert {core.neurons for core in chip.layers[0].cores} == {1024}


def test_channels_are_shared_out_evenly_with_their_own_spikes(neuron, trace):
    rates = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    chip = map_layers(trace(neuron("a", (7, 2, 2), rates, steps=3)), neurons_per_core=15)  # three channels at most
    assert [core.neurons for core in chip.cores] == [12, 8, 8]
    assert [core.spikes for core in chip.cores] == pytest.approx([12 * 0.6, 12 * 0.9, 12 * 1.3])


def test_a_channel_too_large_for_a_core_is_cut_along_space(neuron, trace):
    chip = map_layers(trace(neuron("a", (2, 5, 5), [0.4, 0.8])), neurons_per_core=10)
    assert [core.neurons for core in chip.cores] == [9, 8, 8, 9, 8, 8]
    assert [core.spikes for core in chip.cores] == pytest.approx([0.4 * 9, 0.4 * 8, 0.4 * 8, 0.8 * 9, 0.8 * 8, 0.8 * 8])


@pytest.mark.parametrize("limit", [1, 3, 7, 16, 1024])
def test_no_neuron_and_no_spike_is_lost_and_no_core_is_too_full(random_trace, limit):
    for seed in range(10):
        recorded = random_trace(seed)
        chip = map_layers(recorded, neurons_per_core=limit)
        spiking = [layer for layer in recorded.layers if layer.step_rates]
        assert [layer.name for layer in chip.layers] == [layer.name for layer in spiking]
        for layer, cut in zip(spiking, chip.layers, strict=True):
            outputs = math.prod(layer.output_shape)
            assert cut.neurons == outputs
            assert cut.spikes == pytest.approx(sum(layer.step_rates) * outputs)
            sizes = [core.neurons for core in cut.cores]
            assert max(sizes) <= limit
            assert max(sizes) - min(sizes) <= max(1, outputs // len(layer.channel_rates))


def test_a_last_layer_without_neurons_receives_and_does_not_send(neuron, linear, trace):
    chip = map_layers(trace(neuron("a", (4,), [0.5] * 4), linear("head", (4,), 10, 0.5)), neurons_per_core=6)
    assert [layer.name for layer in chip.layers] == ["a", "head"]
    assert chip.layers[1].cores == (Core(5, 0.0), Core(5, 0.0))
    fires = trace(neuron("a", (4,), [0.5] * 4), linear("head", (4,), 10, 0.5), neuron("out", (10,), [1.0] * 10))
    assert [layer.name for layer in map_layers(fires).layers] == ["a", "out"]


def test_thresholds_of_one_neuron_are_side_by_side(neuron, trace):
    names = ["a", "b.neuron[1]", "b.neuron[2]", "c"]
    chip = map_layers(trace(*(neuron(name, (2,), [1.0, 1.0]) for name in names)))
    assert [[layer.name for layer in stage] for stage in chip.stages] == [["a"], names[1:3], ["c"]]
    assert chip.stage_cores() == [range(0, 1), range(1, 3), range(3, 4)]


def test_operations_are_those_behind_the_first_neuron(neuron, linear, trace):
    layers = linear("stem", (3,), 4, 1.0), neuron("a", (4,), [0.5] * 4, 2), linear("head", (4,), 10, 0.25, steps=2)
    assert map_layers(trace(*layers)).synaptic_operations == 4 * 10 * 2 * 0.25


def test_input_counts_only_if_asked_for(neuron, linear, trace):
    layers = trace(linear("stem", (3, 8), 4, 0.25, steps=2), neuron("a", (4,), [0.5] * 4))
    assert map_layers(layers).input_spikes == 0
    assert map_layers(layers, count_input=True).input_spikes == 24 * 0.25 * 2


def test_what_cannot_be_mapped_is_named(neuron, linear, trace):
    with pytest.raises(ValueError, match="neurons_per_core is 0; wanted at least 1"):
        map_layers(trace(neuron("a", (4,), [1.0] * 4)), neurons_per_core=0)
    with pytest.raises(ValueError, match="the trace of net has no neuron layer"):
        map_layers(trace(linear("head", (4,), 10, 0.5)))
    bare = Layer("bare", "neuron", (4,), (4,), 1, step_rates=(0.5,))
    with pytest.raises(ValueError, match="layer 'bare' has 4 outputs and rates of 0 channels"):
        map_layers(trace(bare))
    with pytest.raises(ValueError, match="its first layer, 'a', records none"):
        map_layers(trace(neuron("a", (4,), [1.0] * 4)), count_input=True)
