"""Neurons with a constant threshold: the first crossing is exact, whatever the order of the inputs."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from spimm.deploy import causal, run_causal, run_closed_form
from spimm.deploy.causal import fire_times, first_crossings
from spimm.layers import PSPConv2d, PSPLinear
from spimm.neurons import spike_times

from .ttfs_nets import direct, images, small


def potential(times: Tensor, weight: Tensor, when: Tensor) -> Tensor:
    """V at times of the neurons' own. times: [R, I], weight: [J, I], when: [R, J] -> [R, J]."""
    since = (when.unsqueeze(2) - times.unsqueeze(1)).clamp(min=0)
    return (weight * since.nan_to_num(neginf=0)).sum(2)


def inputs(rows: int = 6, width: int = 12) -> tuple[Tensor, Tensor]:
    """Times, the first row silent, the second of one spike, the third with ties; and the weights of 40 neurons."""
    times = 3 * torch.rand(rows, width, dtype=torch.float64)
    times[torch.rand_like(times) < 0.4] = math.inf
    times[0] = math.inf
    times[1], times[1, 5] = math.inf, 0.5
    times[2] = (times[2] * 2).round() / 2
    return times, torch.randn(40, width, dtype=torch.float64)


@pytest.mark.parametrize("threshold", [0.3, 1.0, 4.0])
def test_the_crossing_found_is_the_first_that_a_simulation_in_fine_steps_sees(threshold: float) -> None:
    times, weight = inputs()
    found = first_crossings(times, weight, threshold)
    fires = found.isfinite()
    at = potential(times, weight, found.where(fires, 0))
    torch.testing.assert_close(at[fires], torch.full_like(at[fires], threshold), atol=1e-9, rtol=0)
    dt = 0.002
    for step in range(round(3 / dt) + 1):  # behind 3 all potentials are straight lines
        when = torch.full_like(found, step * dt)
        above = potential(times, weight, when) > threshold + 1e-9
        assert (found[above] <= step * dt).all()  # none crosses before
    arrived = times.isfinite().double()
    slope = arrived @ weight.T
    assert torch.equal(fires | (slope <= 0), torch.ones_like(fires))  # whatever grows in the end fires
    assert 40 < fires.sum() < fires.numel() - 40
    assert (fires & (slope < 0)).any()  # fired, and would not have if the threshold had come later


def test_silent_neurons_have_potentials_that_stay_below() -> None:
    times, weight = inputs()
    silent = first_crossings(times, weight, 1.0).isinf()
    corners = times.where(times.isfinite(), 0)  # a potential of straight pieces is highest at a corner
    for i in range(times.shape[1]):
        when = corners[:, i : i + 1].expand(-1, 40)
        assert (potential(times, weight, when)[silent] < 1 + 1e-9).all()


def test_known_crossings() -> None:
    times = torch.tensor([[0.0, 1.0, math.inf]], dtype=torch.float64)
    weight = torch.tensor(
        [[1.0, 9.0, 9.0], [0.5, 0.5, 0.0], [0.5, -0.5, 9.0], [-1.0, 1.0, 9.0], [2.0, -9.0, 0.0], [-1.0, 3.0, 0.0]],
        dtype=torch.float64,
    )
    assert first_crossings(times, weight, 1.0).tolist() == [[1.0, 1.5, math.inf, math.inf, 0.5, 2.0]]


def test_a_single_input_fires_after_the_threshold_over_its_weight() -> None:
    times, weight = inputs()
    found = first_crossings(times, weight, 1.5)
    expected = torch.where(weight[:, 5] > 0, 0.5 + 1.5 / weight[:, 5], math.inf)
    torch.testing.assert_close(found[1], expected)
    assert found[0].isinf().all()


def test_time_has_no_origin_and_a_unit_only_with_the_threshold() -> None:
    times, weight = inputs()
    found = first_crossings(times, weight, 1.0)
    torch.testing.assert_close(first_crossings(times + 7, weight, 1.0), found + 7)
    torch.testing.assert_close(first_crossings(times * 3, weight, 3.0), found * 3)
    torch.testing.assert_close(first_crossings(times, weight * 3, 3.0), found)


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_a_convolution_is_a_product_with_the_inputs_of_each_place(padding: int) -> None:
    times = 2 * torch.rand(3, 4, 5, 6, dtype=torch.float64)
    times[torch.rand_like(times) < 0.5] = math.inf
    conv = PSPConv2d(4, 7, 3, padding=padding).double()
    found = fire_times(conv, times, 0.5)
    assert found.shape == conv2d(torch.zeros_like(times), conv.weight, padding=padding).shape
    around = pad(times, (padding,) * 4, value=math.inf)
    for row, column in ((0, 0), (1, 2), (found.shape[2] - 1, found.shape[3] - 1)):
        patch = around[:, :, row : row + 3, column : column + 3].flatten(1)
        torch.testing.assert_close(found[:, :, row, column], first_crossings(patch, conv.weight.flatten(1), 0.5))
    linear = PSPLinear(120, 9).double()
    assert torch.equal(fire_times(linear, times, 0.5), first_crossings(times.flatten(1), linear.weight, 0.5))


@pytest.mark.parametrize("at_once", [1, 100, 2**16])
def test_how_many_are_followed_at_a_time_changes_nothing(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    times, weight = inputs(rows=9)
    expected = torch.cat([first_crossings(row.unsqueeze(0), weight, 1.0) for row in times])
    monkeypatch.setattr(causal, "AT_ONCE", at_once)
    assert torch.equal(first_crossings(times, weight, 1.0), expected)


@pytest.mark.parametrize("window", [1.0, 2.0])
def test_a_network_runs_on_without_windows(window: float) -> None:
    model, x = small(window=window), images()
    run, dynamic = run_causal(model, x), run_closed_form(model, x)
    assert list(run.times) == list(dynamic.spikes)
    code, first, *_ = run.times.values()
    assert torch.equal(code, spike_times(dynamic.spikes["stages.0.0"], window))
    assert torch.equal(first, fire_times(model.stages[0][1].product, code, 1.0))
    pooled = first.unflatten(3, (-1, 2)).amin(4).unflatten(2, (-1, 2)).amin(3)
    assert torch.equal(run.times["stages.1.0"], fire_times(model.stages[1][0].product, pooled, 1.0))
    assert torch.equal(run.logits, -fire_times(model.head, run.times["hidden.1"], 1.0))
    assert (run.logits[0] == -math.inf).all()  # a black image
    assert first[first.isfinite()].max() > 2 * window  # later than its window would end


def test_a_higher_threshold_is_met_later() -> None:
    model, x = direct(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    low, high = (run_causal(model, x, threshold=threshold).times["stages.1.0"] for threshold in (0.5, 1.0))
    assert (high >= low).all()
    assert low.isfinite().sum() >= high.isfinite().sum() > 0


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match=r"threshold is 0.0; wanted more than 0"):
        run_causal(small(), images(), threshold=0.0)
    with pytest.raises(ValueError, match="wanted RelPSP"):
        run_causal(small(neuron="relu1"), images())
    with pytest.raises(ValueError, match=r"product is Linear.*; wanted PSPConv2d or PSPLinear"):
        fire_times(torch.nn.Linear(2, 3), torch.zeros(1, 2), 1.0)
