"""What is recorded of networks of spike times."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm.analyze import SpikeTimes, Trace, energy, purity, record
from spimm.analyze.tally import sum_times
from spimm.neurons import spike_times

SMALL: dict[str, Any] = {"image_size": 6, "convs": "4,5,M,6,M", "hidden": "7"}
PIXELS: dict[str, Any] = {**SMALL, "convs": "5,M,6,M", "in_chans": 1, "code": "pixels"}


def build(options: dict[str, Any] = SMALL, *, name: str = "ttfs_vgg11", **more: Any) -> nn.Module:
    torch.manual_seed(0)
    return spimm.create_model(name, **{**options, **more}).double().eval()


def images(count: int = 3, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, 6, 6, generator=generator, dtype=torch.float64)


@torch.no_grad()
def traced(model: nn.Module, *batches: Tensor) -> Trace:
    with record(model) as recorder:
        for batch in batches:
            model(batch)
    return recorder.trace()


@torch.no_grad()
def expected_times(model: Any, x: Tensor) -> dict[str, Tensor]:
    """Spike times of every layer in front of its pool, in windows, [N, ...]; not of the outputs."""
    found: dict[str, Tensor] = {}
    for i, stage in enumerate(model.stages):
        for name, unit in stage.named_children():
            if hasattr(unit, "conv"):
                a = unit.conv(x).clamp(0, 1)
                found[f"stages.{i}.{name}.neuron"] = torch.where(a > 0, 1 - a, math.inf)
            elif hasattr(unit, "neuron"):
                spikes = unit.neuron(unit.product(x))
                found[f"stages.{i}.{name}.neuron"] = spike_times(spikes, unit.neuron.window) / unit.neuron.window
            x = unit(x)
    x = x.flatten(2)
    for i, unit in enumerate(model.hidden):
        x = unit(x)
        found[f"hidden.{i}.neuron"] = spike_times(x, unit.neuron.window) / unit.neuron.window
    return found


@pytest.mark.parametrize("window", [1.0, 2.0])
@pytest.mark.parametrize("code", ["direct", "pixels"])
def test_neurons_are_those_in_front_of_pools_with_their_times_in_windows(code: str, window: float) -> None:
    options = PIXELS if code == "pixels" else SMALL
    model = build(options, window=window)
    x = images(channels=1).clamp(0, 1) if code == "pixels" else images()
    trace, expected = traced(model, x), expected_times(model, x)
    neurons = {layer.name: layer for layer in trace.layers if layer.times}
    assert list(neurons) == list(expected)
    for name, times in expected.items():
        layer, fired = neurons[name], times[times < math.inf]
        assert layer.times and layer.output_shape == times.shape[1:]
        assert layer.rate == pytest.approx(len(fired) / times.numel())
        assert layer.times.mean == pytest.approx(fired.mean().item())
        assert layer.times.at_start == (fired == 0).sum().item() / len(fired)
        counts = torch.histc(fired, 20, 0, 1) / len(fired)
        assert layer.times.histogram == pytest.approx(counts.tolist())


def test_recording_leaves_the_network_as_it_was() -> None:
    model, x = build(), images()
    plain = model(x)
    with record(model):
        assert torch.equal(model(x), plain)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("readout", ["start", "end"])
def test_outputs_read_by_their_potential_count_as_spikes_without_a_time(readout: str) -> None:
    layer = traced(build(readout=readout), images()).layer("readout.neuron")
    assert (layer.output_shape, layer.rate, layer.times) == ((10,), 1, None)


def test_outputs_read_by_their_time_are_spikes_where_they_fire() -> None:
    model = build(readout="time")
    x = images()
    layer = traced(model, x).layer("readout.neuron")
    fired = model(x) > -1
    assert 0 < layer.rate < 1
    assert layer.rate == pytest.approx(fired.double().mean().item())
    assert layer.times and layer.times.mean == pytest.approx(-model(x)[fired].mean().item())


def test_products_receive_spikes_and_the_first_one_the_image() -> None:
    model, x = build(), images()
    trace = traced(model, x)
    assert purity(trace).layers() == {
        "stages.0.0.conv": "reals",
        "stages.0.1.product": "spikes",
        "stages.1.0.product": "spikes",
        "hidden.0.product": "spikes",
        "head": "spikes",
    }
    fired = model.stages[0](x)[1]
    assert trace.layer("stages.1.0.product").input("x").nonzero == pytest.approx(fired.mean().item())
    report = energy(trace, count_integers=True)
    lines = {line.layer: line for line in report.lines}
    assert report.macs == 9 * 3 * 4 * 6 * 6
    assert lines["stages.1.0.product"].operations == pytest.approx(fired.mean().item() * 9 * 5 * 6 * 3 * 3)
    assert lines["hidden.0.product"].dense == 6 * 7
    assert [line.group for line in report.lines] == ["input", "conv", "conv", "linear", "classifier"]
    assert {line.operation for name, line in lines.items() if name != "stages.0.0.conv"} == {"AC"}


def test_pixels_are_an_input_and_no_neurons() -> None:
    x = images(channels=1).clamp(0, 1)
    trace = traced(build(PIXELS), x)
    assert trace.layers[0].name == "stages.0.1.product"
    assert trace.layers[0].input("x").nonzero == pytest.approx((x > 0).double().mean().item())
    assert list(trace.firing_rates()) == [
        "stages.0.1.neuron", "stages.1.0.neuron", "hidden.0.neuron", "readout.neuron"
    ]  # fmt: skip


def test_frames_are_steps_of_their_own() -> None:
    model = build()
    frames = images(6).unflatten(0, (2, 3))
    trace = traced(model, frames)
    alone = [traced(model, frames[:, i]) for i in range(3)]
    assert trace.num_steps == 3
    assert len(set(trace.layer("stages.0.0.neuron").step_rates)) == 3
    for layer in trace.layers:
        assert layer.steps == 3
        if layer.times:
            rates = [single.layer(layer.name).rate for single in alone]
            assert layer.step_rates == pytest.approx(rates)


def test_batches_add_up() -> None:
    model, x = build(), images(5)
    apart, together = traced(model, x[:2], x[2:]), traced(model, x)
    assert apart.firing_rates() == together.firing_rates()
    timed = [layer for layer in together.layers if layer.times]
    assert len(timed) == 4
    for layer in timed:
        found, expected = (trace.layer(layer.name).times for trace in (apart, together))
        assert found and expected and found.mean == pytest.approx(expected.mean)
        assert (found.at_start, found.histogram) == (expected.at_start, expected.histogram)


def test_the_twin_has_activations_and_multiplies() -> None:
    model, x = build(neuron="relu1"), images()
    trace = traced(model, x)
    assert trace.firing_rates() == {} and not any(layer.times for layer in trace.layers)
    activation = model.stages[0][0].conv(x).clamp(0, 1)
    layer = trace.layer("stages.0.0.neuron")
    assert (layer.kind, layer.input_shape) == ("activation", (4, 6, 6))
    assert layer.input("a").nonzero == pytest.approx((activation > 0).double().mean().item())
    second = model.stages[0][1].product(model.stages[0][0](x)).clamp(0, 1)
    layer = trace.layer("stages.0.1.neuron")
    assert layer.input_shape == (5, 6, 6)  # in front of the pool
    assert layer.input("a").nonzero == pytest.approx((second > 0).double().mean().item())
    assert energy(trace, count_integers=True).acs == 0


def test_a_trace_with_times_is_read_back_and_shows_them() -> None:
    trace = traced(build(), images())
    assert Trace.from_json(trace.to_json()) == trace
    headings = [column.header for column in trace.table().columns]
    assert headings[-2:] == ["spike time", "at start"]
    assert "spike time" not in [column.header for column in traced(build(neuron="relu1"), images()).table().columns]


def test_times_at_both_ends_of_the_window_are_counted() -> None:
    times = torch.tensor([0.0, 0.0, 0.05, 1.0, math.inf, math.inf])
    assert sum_times(times, "n").summary() == SpikeTimes(pytest.approx(1.05 / 4), 0.5, (0.5, 0.25, *[0.0] * 17, 0.25))


def test_neurons_that_never_fire_have_no_times() -> None:
    silent = build(closed=False)
    with torch.no_grad():
        silent.hidden[0].product.weight.fill_(-1)
    layer = traced(silent, images()).layer("hidden.0.neuron")
    assert (layer.rate, layer.times, layer.silent) == (0, None, 1)


@pytest.mark.parametrize("time", [-0.1, 1.1, math.nan])
def test_times_outside_the_window_are_refused(time: float) -> None:
    with pytest.raises(ValueError, match=r"neuron 'n' fires between .* of its window; wanted 0 to 1"):
        sum_times(torch.tensor([0.5, time]), "n")
