import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import spimm
from spimm.analyze import (
    HOROWITZ_45NM,
    Constants,
    EnergyReport,
    Input,
    Layer,
    Product,
    Trace,
    energy,
    implied_rate,
    record,
)

Build = Callable[..., nn.Module]


@torch.no_grad()
def traced(model: nn.Module, x: Tensor) -> Trace:
    with record(model) as recorder:
        model(x)
    return recorder.trace()


def _line(report: EnergyReport, layer: str, product: str | None = None) -> tuple[str, str, float, float]:
    """Group, operation, operations and pJ of a layer's only line, or that of a product."""
    (line,) = (line for line in report.lines if line.layer == layer and product in (None, line.product))
    return line.group, line.operation, line.operations, line.picojoules


def test_a_network_counted_by_hand_costs_these_picojoules(countable: Build, one_pixel: Tensor) -> None:
    report = energy(traced(countable(), one_pixel), count_integers=False)
    assert _line(report, "stem.conv") == ("input", "MAC", 8, pytest.approx(8 * 4.6))  # 2 channels, 4 pixels, once
    # 9 weights, 2 input channels, 4 pixels, 4 steps; 6 spikes of 2 images x 4 steps x 8 neurons
    additions = 9 * 2 * 4 * 4 * 6 / 64
    assert _line(report, "body.conv") == ("conv", "AC", additions, pytest.approx(additions * 0.9))
    assert _line(report, "head") == ("classifier", "MAC", 2, pytest.approx(2 * 4.6))
    assert len(report.lines) == 3
    assert (report.macs, report.acs) == (10, additions)
    assert report.mac_millijoules == pytest.approx(46e-9)
    assert report.ac_millijoules == pytest.approx(24.3e-9)
    assert report.millijoules == pytest.approx(70.3e-9)
    assert report.dense_millijoules == pytest.approx((8 + 72 + 2) * 4.6e-9)
    assert report.groups() == {
        "input": pytest.approx(36.8e-9),
        "conv": pytest.approx(24.3e-9),
        "classifier": pytest.approx(9.2e-9),
    }


def test_averages_that_happen_to_be_integers_are_no_spikes(countable: Build, one_pixel: Tensor) -> None:
    trace = traced(countable(), one_pixel)  # the last neuron of the first image always fires, of the second never
    assert trace.layer("head").input("x").integers
    assert _line(energy(trace, count_integers=False), "head")[1] == "MAC"
    single = traced(countable(), one_pixel.unsqueeze(1))  # in one step nothing is averaged over time
    assert _line(energy(single, count_integers=False), "head")[1:3] == ("AC", 1)


def test_the_first_layer_can_be_counted_at_each_step(countable: Build, one_pixel: Tensor) -> None:
    still = traced(countable(), one_pixel)
    each = energy(still, count_integers=False, first_layer_steps="each")
    assert _line(each, "stem.conv")[2] == 32
    assert _line(each, "head")[2] == 2
    frames = traced(countable(), one_pixel.unsqueeze(1).expand(-1, 4, -1, -1, -1))
    for steps in ("once", "each"):
        assert energy(frames, count_integers=False, first_layer_steps=steps).groups() == each.groups()


def test_event_counts_cause_additions_in_the_first_layer_too(countable: Build) -> None:
    frames = torch.zeros(1, 2, 1, 2, 2)
    frames[0, 0, 0, 0, 0], frames[0, 1, 0, 1, 1] = 3, 1
    trace = traced(countable(), frames)
    assert _line(energy(trace, count_integers=False), "stem.conv")[:3] == ("input", "AC", 2 * 2)  # 2 values, 2 channels
    assert _line(energy(trace, count_integers=True), "stem.conv")[:3] == ("input", "AC", 4 * 2)  # 4 events
    assert _line(energy(traced(countable(), frames / 2), count_integers=True), "stem.conv")[:2] == ("input", "MAC")


def _spiking(*values: Input, products: tuple[Product, ...], steps: int = 4) -> Trace:
    first = Layer("neuron", "neuron", (1,), (1,), steps, step_rates=(0.5,) * steps)
    layer = Layer("layer", "conv", (1,), (1,), steps, values, products)
    return Trace("net", steps, 1, (first, layer, first))


def _input(name: str, histogram: tuple[float, ...]) -> Input:
    mean = sum(value * part for value, part in enumerate(histogram))
    return Input(name, (1,), 1 - histogram[0], mean, mean, histogram)


def test_integers_count_once_or_as_many_spikes() -> None:
    trace = _spiking(_input("x", (0.5, 0.3, 0.2)), products=(Product("conv", 100, "x", None),))
    assert energy(trace, count_integers=False).acs == pytest.approx(100 * 4 * 0.5)
    assert energy(trace, count_integers=True).acs == pytest.approx(100 * 4 * 0.7)


def test_spiking_attention_counts_k_alone_or_pairs_of_k_and_v(firing: Build) -> None:
    trace = traced(firing(), torch.rand(4, 1, 8, 8))
    name = "stages.2.blocks.0.attention.branch.core"
    layer = trace.layer(name)
    single, paired = (energy(trace, count_integers=False, paired=flag) for flag in (False, True))
    dense = layer.products[0].dense * 4
    assert _line(single, name, "k^T v")[:3] == ("attention", "AC", pytest.approx(dense * layer.input("k").nonzero))
    assert layer.products[0].paired is not None
    assert _line(paired, name, "k^T v")[2] == pytest.approx(dense * layer.products[0].paired)
    assert _line(paired, name, "k^T v")[2] < _line(single, name, "k^T v")[2]
    assert _line(paired, name, "q (k^T v)") == _line(single, name, "q (k^T v)")
    assert _line(single, name, "q (k^T v)")[2] == pytest.approx(dense * layer.input("q").nonzero)


@pytest.mark.parametrize("count_integers", [False, True])
def test_the_energy_of_additions_is_linear_in_the_rates(firing: Build, count_integers: bool) -> None:
    trace = traced(firing(), torch.rand(2, 1, 8, 8))

    def thinned(layer: Layer) -> Layer:
        inputs = (replace(entry, nonzero=entry.nonzero / 4, magnitude=entry.magnitude / 4) for entry in layer.inputs)
        return replace(layer, inputs=tuple(inputs))

    thin = replace(trace, layers=tuple(map(thinned, trace.layers)))
    full, quarter = (energy(x, count_integers=count_integers) for x in (trace, thin))
    assert full.acs > 0
    assert quarter.acs == pytest.approx(full.acs / 4)
    assert quarter.macs == full.macs


def test_energy_is_proportional_to_the_constants(countable: Build, one_pixel: Tensor) -> None:
    trace = traced(countable(), one_pixel)
    free = energy(trace, count_integers=False, constants=Constants("test", mac=0.0, ac=2.0, source="none"))
    assert free.mac_millijoules == 0
    assert free.millijoules == pytest.approx(2 * free.acs * 1e-9)
    assert "ISSCC 2014" in HOROWITZ_45NM.source


def test_only_the_image_and_the_classifier_need_multiplications(firing: Build) -> None:
    for shortcut in ("spike_add", "membrane"):
        report = energy(traced(firing(shortcut=shortcut), torch.rand(2, 1, 8, 8)), count_integers=True)
        macs = [(line.layer, line.group) for line in report.lines if line.operation == "MAC"]
        assert macs == [("stages.0.embed.units.0.conv", "input"), ("head", "classifier")]
        assert report.millijoules == pytest.approx(sum(report.groups().values()))


def test_a_given_rate_stands_for_all_inputs_behind_the_first_neuron(countable: Build, one_pixel: Tensor) -> None:
    report = energy(traced(countable(), one_pixel), count_integers=True, rates=0.25)
    assert _line(report, "stem.conv")[:3] == ("input", "MAC", 8)
    assert _line(report, "body.conv")[1:3] == ("AC", 72 * 4 * 0.25)
    assert _line(report, "head")[1:3] == ("AC", 2 * 0.25)  # averaged over time: one step
    assert report.rates == 0.25


def test_a_rate_can_be_given_for_one_layer_alone(countable: Build, one_pixel: Tensor) -> None:
    trace = traced(countable(), one_pixel)
    measured, given = (energy(trace, count_integers=False, rates=rates) for rates in (None, {"body.conv": 0.5}))
    assert _line(given, "body.conv")[1:3] == ("AC", 72 * 4 * 0.5)
    for name in ("stem.conv", "head"):
        assert _line(given, name) == _line(measured, name)
    assert energy(trace, count_integers=False, rates={}).lines == measured.lines
    assert json.loads(given.to_json())["rates"] == {"body.conv": 0.5}


def test_rates_that_fit_no_layer_are_refused(countable: Build, one_pixel: Tensor) -> None:
    trace = traced(countable(), one_pixel)
    for name in ("body.convs", "stem.conv", "body.neuron"):  # unknown, in front of the first neuron, no products
        with pytest.raises(ValueError, match=f"no layer '{name}' of CountableNet takes a rate; did you mean body.conv"):
            energy(trace, count_integers=False, rates={name: 0.1})
    for rate in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"rate of layer 'body.conv' is {rate}; wanted a number of at least 0"):
            energy(trace, count_integers=False, rates=rate)


@pytest.mark.parametrize("steps", ["once", "each"])
def test_the_implied_rate_is_the_one_that_was_given(countable: Build, one_pixel: Tensor, steps: str) -> None:
    trace = traced(countable(), one_pixel)
    settings = {"first_layer_steps": steps, "constants": Constants("test", mac=3.0, ac=2.0, source="none")}
    cost = energy(trace, count_integers=False, rates=0.37, **settings).millijoules
    assert implied_rate(trace, cost, **settings) == pytest.approx(0.37)
    first = energy(trace, count_integers=False, rates=0, **settings).millijoules
    assert implied_rate(trace, first, **settings) == 0
    with pytest.raises(ValueError, match=f"millijoules is {first / 2}; the first layer of CountableNet alone takes"):
        implied_rate(trace, first / 2, **settings)


def test_a_network_without_neurons_implies_no_rate() -> None:
    trace = traced(nn.Sequential(nn.Conv2d(1, 1, 1)), torch.rand(1, 1, 2, 2))
    with pytest.raises(ValueError, match="no layer of Sequential is behind a neuron"):
        implied_rate(trace, 1.0)


@pytest.mark.parametrize("distillation", [False, True])
def test_classifiers_behind_a_neuron_run_at_each_step_and_add(distillation: bool) -> None:
    sizes = {"widths": (4, 8, 16, 32, 40), "depths": (1, 0, 0, 0, 0)}
    model = spimm.create_model("metaspikeformer_cifar", num_steps=4, distillation=distillation, **sizes)
    trace = traced(model.eval(), torch.rand(2, 3, 16, 16))
    heads = ["head", "distilled_head"][: 1 + distillation]
    report = energy(trace, "metaspikeformer", count_integers=False)
    for name in heads:
        assert (trace.layer(name).steps, trace.layer(name).input_shape) == (4, (40,))
        assert _line(report, name)[:2] == ("classifier", "AC")
    assert {line.layer for line in report.lines if line.group == "classifier"} == set(heads)


def test_unknown_settings_are_refused(countable: Build, one_pixel: Tensor) -> None:
    trace = traced(countable(), one_pixel)
    with pytest.raises(ValueError, match="unknown energy formula 'excel'; known ones are qkformer, metaspikeformer"):
        energy(trace, "excel", count_integers=False)
    with pytest.raises(ValueError, match="first_layer_steps is 'twice'"):
        energy(trace, count_integers=False, first_layer_steps="twice")  # type: ignore[arg-type]


def test_the_report_says_in_json_and_as_a_table_what_it_counted(
    countable: Build, one_pixel: Tensor, tmp_path: Path
) -> None:
    report = energy(traced(countable(), one_pixel), count_integers=True)
    data = json.loads(report.save(tmp_path / "energy.json").read_text())
    assert data["totals"]["millijoules"] == report.millijoules
    assert data["totals"]["groups"] == report.groups()
    assert data["constants"]["source"] == HOROWITZ_45NM.source
    assert (data["count_integers"], data["num_steps"], data["samples"]) == (True, 4, 2)
    assert [line["layer"] for line in data["lines"]] == ["stem.conv", "body.conv", "head"]
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(report.table())
    text = console.export_text()
    said = ("4 steps", "2 samples", "classifier", "as an ANN", "integers as several spikes")
    assert all(words in text for words in said)
    console.print(energy(traced(countable(), one_pixel), "metaspikeformer", count_integers=True, rates=0.2).table())
    text = console.export_text()
    assert all(words in text for words in ("formula metaspikeformer", "a given rate of 0.2"))
