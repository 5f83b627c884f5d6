"""Pictures of networks of spike times show what they are given."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import spimm
from spimm.analyze import (
    Trace,
    plot_inactive,
    plot_potentials,
    plot_raster,
    plot_spike_times,
    record,
    save_plot,
)
from spimm.analyze.ttfs_plots import MOST_SPIKES


class Spikes(NamedTuple):
    layer: str
    times: Tensor
    neurons: Tensor


def rasters(*times: list[float]) -> list[Spikes]:
    return [Spikes(str(i), torch.tensor(some), torch.linspace(0, 1, len(some))) for i, some in enumerate(times)]


def test_a_raster_shows_every_spike_in_its_layers_colour_and_says_what_comes_later() -> None:
    figure = plot_raster({"with": rasters([0.0, 0.5], [1.0, 2.0]), "without": rasters([0.1], [1.5, 7.0, 9.0])})
    left, right = figure.axes
    assert [points.get_offsets().tolist() for points in left.collections] == [
        [[0.0, 0.0], [0.5, 1.0]],
        [[1.0, 0.0], [2.0, 1.0]],
    ]
    colours = [[tuple(points.get_facecolor()[0]) for points in axes.collections] for axes in (left, right)]
    assert colours[0] == colours[1] and len(set(colours[0])) == 2
    assert left.get_xlim() == right.get_xlim() and 2 < left.get_xlim()[1] < 7
    assert left.get_title(loc="left") == "with: 4 spikes"
    assert right.get_title(loc="left") == "without: 4 spikes, 50% of them later"


def test_of_many_spikes_some_are_drawn_and_all_are_counted() -> None:
    count = 10 * MOST_SPIKES
    (axes,) = plot_raster({"net": [Spikes("0", torch.rand(count), torch.rand(count))]}).axes
    assert 0.5 * MOST_SPIKES < len(axes.collections[0].get_offsets()) <= MOST_SPIKES
    assert axes.get_title(loc="left") == f"net: {count:,} spikes"


def test_layers_without_a_spike_are_drawn_empty() -> None:
    figure = plot_raster({"net": rasters([0.5], [])})
    assert [len(points.get_offsets()) for points in figure.axes[0].collections] == [1, 0]


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ({}, "there is no layer"),
        ({"net": []}, "there is no layer"),
        ({"a": rasters([1.0]), "b": rasters([1.0], [2.0])}, r"'b' has the layers \['0', '1'\]; wanted .* \['0'\]"),
        ({"a": rasters([], [])}, "'a' has no spike behind time 0"),
    ],
    ids=str,
)
def test_rasters_without_a_common_axis_are_refused(panels: dict[str, list[Spikes]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_raster(panels)


def test_bars_are_shares_of_silent_neurons_in_percent() -> None:
    shares = {"one": {"a": 0.25, "b": 0.5}, "two": {"a": 1.0, "b": 0.0}}
    (axes,) = plot_inactive(shares).axes
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    assert heights == [[25, 50], [100, 0]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    assert axes.get_legend_handles_labels()[1] == ["one", "two"]
    with pytest.raises(ValueError, match=r"'two' has the layers \['a'\]"):
        plot_inactive({"one": {"a": 0.1, "b": 0.2}, "two": {"a": 0.1}})
    with pytest.raises(ValueError, match="there are 5 networks; wanted at most 4"):
        plot_inactive({str(i): {"a": 0.1} for i in range(5)})


@torch.no_grad()
def traced(name: str = "ttfs_vgg11") -> Trace:
    torch.manual_seed(0)
    model = spimm.create_model(name, image_size=8, convs="4,5,M,6", hidden="7,8")
    with record(model) as recorder:
        model(torch.randn(4, 3, 8, 8))
    return recorder.trace()


def test_bars_of_spike_times_add_up_to_the_share_that_fires() -> None:
    trace = traced()
    timed = [layer for layer in trace.layers if layer.times]
    axes = [axes for axes in plot_spike_times(trace).axes if axes.get_visible()]
    assert [each.get_title(loc="left") for each in axes] == [layer.name.removesuffix(".neuron") for layer in timed]
    assert len(timed) == 5
    for each, layer in zip(axes, timed, strict=True):
        at_start, later = each.containers
        assert at_start[0].get_height() == pytest.approx(100 * layer.rate * layer.times.at_start)
        assert sum(bar.get_height() for bars in (at_start, later) for bar in bars) == pytest.approx(100 * layer.rate)
        assert each.texts[0].get_text() == f"{1 - layer.rate:.0%} silent"


def test_a_trace_without_spike_times_has_no_such_picture() -> None:
    with pytest.raises(ValueError, match="has no spike times"):
        plot_spike_times(traced("ttfs_vgg11_ann"))


@pytest.mark.parametrize("window", [1.0, 2.0])
def test_potentials_meet_the_threshold_where_neurons_fire(window: float) -> None:
    times = window * torch.tensor([0.25, 0.5, math.inf])
    weights = torch.tensor([[1.0, 1.0, 9.0], [0.4, 0.2, 9.0], [-1.0, 0.5, 9.0], [0.2, 0.2, -9.0]])
    figure = plot_potentials(times, weights, window=window)
    dots = [[line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"] for axes in figure.axes]
    assert [len(some) for some in dots] == [1, 2, 0]
    assert dots[0][0] == pytest.approx((0, 1.25 * window), abs=1e-6)
    for time, potential in dots[1]:
        assert 0 < time < window
        assert potential == pytest.approx(window - time, abs=1e-5)
    silent = figure.axes[2].lines[0].get_xydata()
    assert np.interp(window, *silent.T) == pytest.approx(-1.75 * window + 0.5 * 1.5 * window, abs=1e-5)


@pytest.mark.parametrize(
    ("times", "weights", "message"),
    [
        (torch.zeros(2), torch.zeros(3, 4), r"times are \(2,\) and weights \(3, 4\); wanted \[I\] and \[J, I\]"),
        (torch.tensor([0.5, 1.5]), torch.zeros(3, 2), "wanted 0 to 1.0, the window, or infinity"),
    ],
)
def test_input_outside_its_window_is_refused(times: Tensor, weights: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_potentials(times, weights)


def test_pictures_are_written_as_the_others_are(tmp_path: Path) -> None:
    path = save_plot(plot_spike_times(traced()), tmp_path / "times.png")
    assert path.read_bytes().startswith(b"\x89PNG")
