"""Energy from latency and spikes against print, and counts of traces against counts by hand."""

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import spimm
from spimm.analyze import (
    PUBLISHED_CODINGS,
    RATE_CODING,
    SPINNAKER,
    TRUENORTH,
    CodingCost,
    Layer,
    Platform,
    Trace,
    coding_table,
    record,
    sparsity,
    total_spikes,
)

LAST_DIGIT = 1e-4
LAST_DIGIT_OFF = {("phase", "TrueNorth"), ("burst", "SpiNNaker")}
"""Printed one less in the last digit than the printed steps and spikes give."""
CASES = [
    (row.cost, platform, printed)
    for row in PUBLISHED_CODINGS
    for platform, printed in ((TRUENORTH, row.truenorth), (SPINNAKER, row.spinnaker))
]


@pytest.mark.parametrize(("cost", "platform", "printed"), CASES, ids=lambda case: getattr(case, "name", None))
def test_the_published_energies_follow_from_steps_and_spikes_to_their_last_digit(
    cost: CodingCost, platform: Platform, printed: float
) -> None:
    found = cost.energy(platform)
    if (cost.name, platform.name) not in LAST_DIGIT_OFF:
        assert round(found, 4) == printed
        return
    assert round(found, 4) == pytest.approx(printed + LAST_DIGIT)
    rounding = 500  # of the printed spikes, three digits behind the point of millions
    least = replace(cost, spikes=cost.spikes - rounding)
    assert least.energy(platform, replace(RATE_CODING, spikes=RATE_CODING.spikes + rounding)) < printed


def test_the_reference_has_the_energy_1_and_shares_add_up() -> None:
    own = CodingCost("own", 30, 4e3)
    for platform in (TRUENORTH, SPINNAKER):
        assert RATE_CODING.energy(platform) == own.energy(platform, own) == platform.static + platform.dynamic == 1
        twice = CodingCost("twice", 60, 8e3)
        assert twice.energy(platform, own) == pytest.approx(2)
    assert CodingCost("x", 60, 4e3).energy(TRUENORTH, own) == pytest.approx(1.6)
    assert CodingCost("x", 30, 8e3).energy(SPINNAKER, own) == pytest.approx(1.64)


def neuron(name: str, shape: tuple[int, ...], *rates: float) -> Layer:
    return Layer(name, "neuron", shape, shape, len(rates), step_rates=rates)


BY_HAND = Trace(
    "net",
    1,
    5,
    (
        Layer("conv", "conv", (1, 4, 4), (2, 4, 4), 1),
        neuron("first", (2, 4, 4), 0.25),
        neuron("second", (8,), 0.5),
        neuron("out", (10,), 1.0),
    ),
)


def test_spikes_and_neurons_are_those_of_all_layers_of_neurons() -> None:
    assert total_spikes(BY_HAND) == 8 + 4 + 10
    assert sparsity(BY_HAND) == pytest.approx(22 / (32 + 8 + 10))


def test_spikes_of_several_steps_add_up() -> None:
    trace = Trace("net", 3, 1, (neuron("a", (4,), 1.0, 0.5, 0.0), neuron("b", (2,), 1.0, 1.0, 1.0)))
    assert total_spikes(trace) == 6 + 6
    assert sparsity(trace) == 2
    with pytest.raises(ValueError, match="the trace of net has 3 steps; wanted 1"):
        CodingCost.from_trace(trace, 10)


def test_each_layer_of_neurons_has_a_window() -> None:
    assert CodingCost.from_trace(BY_HAND, 10) == CodingCost("net", 30, 22)
    assert CodingCost.from_trace(BY_HAND, 16, windows=4) == CodingCost("net", 64, 22)
    with pytest.raises(ValueError, match="3 windows of 0 steps"):
        CodingCost.from_trace(BY_HAND, 0)
    with pytest.raises(ValueError, match="0 windows of 10 steps"):
        CodingCost.from_trace(BY_HAND, 10, windows=0)


def test_a_trace_without_neurons_has_no_sparsity() -> None:
    bare = replace(BY_HAND, layers=BY_HAND.layers[:1])
    assert total_spikes(bare) == 0
    with pytest.raises(ValueError, match="the trace of net has no neurons"):
        sparsity(bare)


@torch.no_grad()
def test_the_published_network_has_160_steps_and_its_sparsity_is_the_published_spikes() -> None:
    torch.manual_seed(0)
    model = spimm.create_model("ttfs_vgg16").eval()
    with record(model, model_name="ours") as recorder:
        model(torch.randn(1, 3, 32, 32))
    trace = recorder.trace()
    cost, published = CodingCost.from_trace(trace, 10), PUBLISHED_CODINGS[-1].cost
    assert cost.steps == published.steps
    neurons = cost.spikes / sparsity(trace)
    assert neurons == pytest.approx(284_682)
    assert 0 < sparsity(trace) < 1
    assert round(0.2561 * neurons / 1e6, 3) == published.spikes / 1e6


def test_the_table_has_a_row_for_every_code() -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(coding_table([*(row.cost for row in PUBLISHED_CODINGS), CodingCost("ours", 160, 5e4)]))
    text = console.export_text()
    assert "rate coding = 1" in text
    for row in (["DTA-TTFS", "160", "0.073", "0.1987", "0.1304"], ["ours", "160", "0.050", "0.1952", "0.1248"]):
        assert any(line.replace("│", " ").split() == row for line in text.splitlines())
