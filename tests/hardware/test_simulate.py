"""From a recorded network to the report and its picture."""

import io
import json

import pytest
import torch
from rich.console import Console
from torch import nn

import spimm
from spimm.analyze import Trace, record
from spimm.hardware import EnergyCosts, Mesh, plot_mesh, simulate


@pytest.fixture(autouse=True)
def every_test_runs_on(one_thread: None) -> None:
    """One thread."""


def recorded(name: str, **options: object) -> Trace:
    """The trace of an untrained network whose norms are strong enough to make it fire."""
    torch.manual_seed(0)
    model = spimm.create_model(name, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 3.0)
    card = spimm.model_card(name)
    with record(model.train(), model_name=name) as recorder, torch.no_grad():
        model(torch.rand(2, *card.input_size))
    return recorder.trace()


@pytest.mark.parametrize("name", ["qkformer_3_64_digits", "metaspikeformer_mnist", "spikeatconv_cifar"])
def test_networks_of_other_families_run_through(name):
    trace = recorded(name)
    result = simulate(trace, placement="snake")
    spiking = [layer for layer in trace.layers if layer.step_rates]
    spikes = sum(sum(layer.step_rates) * torch.Size(layer.output_shape).numel() for layer in spiking)
    assert result.spikes == pytest.approx(spikes) and spikes > 100
    assert [layer.layer for layer in result.layers()] == [layer.name for layer in spiking] + [trace.layers[-1].name]
    assert sum(layer.hops for layer in result.layers()) == pytest.approx(result.traffic.hops)
    assert result.layers()[-1].hops == 0
    assert result.hops_per_spike >= 1


@pytest.fixture(scope="module")
def digits() -> Trace:
    return recorded("qkformer_3_64_digits", num_steps=2)


def test_the_report_holds_everything_and_survives_json(digits, tmp_path):
    costs = EnergyCosts(sop_pj=1, hop_pj=2, static_uj=3)
    result = simulate(digits, Mesh(7, 6), delivery="unicast", seed=5, count_input=True, energy_costs=costs)
    data = json.loads(result.save(tmp_path / "simulation.json").read_text())
    assert data["mesh"] == {"columns": 7, "rows": 6} and data["seed"] == 5 and data["delivery"] == "unicast"
    assert data["energy_uj"]["total"] == pytest.approx((data["spikes"] + 2 * data["hops"]) / 1e6 + 3)
    assert sum(link["packets"] for link in data["links"]) == pytest.approx(data["hops"])
    assert sum(length * count for length, count in enumerate(data["spikes_by_hops"])) == pytest.approx(data["hops"])
    assert data["hops_per_spike"] == pytest.approx(data["hops"] / data["spikes"])
    assert data["layers"][0]["layer"] == "input"
    assert sum(layer["spikes"] for layer in data["layers"]) == pytest.approx(data["spikes"])
    assert len(data["cores"]) == len({tuple(core["tile"]) for core in data["cores"]}) == len(result.tiles)
    assert data["layers"][1]["hops"] == pytest.approx(
        sum(stage.hops for stage in result.traffic.stages if stage.stage == 0)
    )


def test_the_tables_have_every_layer_and_the_totals(digits):
    result = simulate(digits)
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(result.table(), result.totals())
    text = console.export_text()
    assert all(layer.name in text for layer in digits.layers if layer.step_rates)
    assert f"{result.energy.total:.4g} uJ" in text and f"{result.latency.total:.4g} us" in text


def test_the_picture_has_a_square_for_every_tile_and_a_line_for_every_link(digits):
    result = simulate(digits, Mesh(8, 6))
    figure = plot_mesh(result)
    mesh, bar = figure.axes
    assert len(mesh.patches) == 48
    (links,) = mesh.collections
    assert len(links.get_paths()) == result.mesh.num_links
    assert links.get_array().max() == pytest.approx(result.traffic.loads().flat().max())
    assert bar.get_ylabel() == "packets over a link per frame"
    (legend,) = figure.legends
    assert len(legend.get_texts()) == len(result.chip.layers)
    numbers = [text.get_text() for text in mesh.texts]
    assert len(numbers) == len(result.tiles) and len(set(numbers)) == len(result.chip.layers)


def test_each_spike_to_one_core_costs_its_mean_distance(digits):
    result = simulate(digits, delivery="multicast")
    stages = result.traffic.stages
    crossed = sum(float(stage.spikes @ stage.mean_distances) for stage in stages)
    assert result.energy_to_one.hops == pytest.approx(100 * crossed / 1e6)
    assert result.energy_to_one.spikes == result.energy.spikes
    assert result.energy_to_one.total < result.energy.total
