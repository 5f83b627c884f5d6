"""Networks of spike times by the clock: within a step of the closed form, and the authors' thresholds as they are."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from spimm.deploy import Threshold, run_closed_form, run_stepwise
from spimm.deploy.stepwise import Clock
from spimm.kernels import psp_linear, rel_psp
from spimm.layers import PixelCode, PSPLinear, Readout, TTFSUnit
from spimm.neurons import RelPSP

from .ttfs_nets import CASES, direct, images, layer_and_spikes, small

SLACK = 1e-9  # of sums in another order
STEPS = [1, 4, 10, 50]


def in_steps(clock: Clock, spikes: torch.Tensor) -> torch.Tensor:
    return torch.stack([(spikes[0] / clock.dt).round(), spikes[1]])


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("num_steps", STEPS)
@pytest.mark.parametrize("window", [0.5, 1.0, 2.5])
def test_given_the_same_input_a_layer_fires_within_one_step_behind_the_closed_form(
    window: float, num_steps: int, kind: str
) -> None:
    product, spikes = layer_and_spikes(kind, window=window, num_steps=num_steps)
    clock = Clock(window, window / num_steps, "exact")
    drive = product(spikes)
    stepped = clock.integrate(product, in_steps(clock, spikes))
    torch.testing.assert_close(stepped, drive, atol=1e-12, rtol=1e-12)  # potentials are exact on the grid
    truth, found = rel_psp(drive, window=window), clock.decode(clock.fire(stepped, closed=True))
    at_end = drive[0] + window * drive[1]
    decided = (at_end.abs() > SLACK) | (drive.abs().sum(0) == 0)
    assert torch.equal(found[1][decided], truth[1][decided])
    late = (truth[0] - found[0])[decided]
    assert late.min() >= -SLACK
    assert late.max() <= clock.dt + SLACK
    z, weights = drive
    kinds = (z >= window, (z < window) & (at_end < 0), (1 + weights <= 0) & (z < window), (z < window) & (at_end > 0))
    assert all(some.sum() > 10 for some in kinds)
    assert found[1][0].all() and not found[0][0].any()  # without input all fire where the window ends


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("num_steps", STEPS[1:])
def test_the_shifted_threshold_is_early_by_a_step_over_the_slope_and_late_by_no_more_than_the_rest(
    num_steps: int, kind: str
) -> None:
    product, spikes = layer_and_spikes(kind, num_steps=num_steps)
    clock = Clock(1.0, 1 / num_steps, "shifted")
    z, weights = drive = product(spikes)
    truth, found = rel_psp(drive), clock.decode(clock.fire(drive, closed=True))
    both = (truth[1] > 0) & (found[1] > 0) & (z < 1 - clock.dt) & (1 + weights > SLACK)
    late = (truth[0] - found[0])[both]
    early_most = clock.dt / (1 + weights[both])
    assert (late >= -early_most - SLACK).all()
    assert (late <= clock.dt - early_most + SLACK).all()
    last = z + (1 - clock.dt) * weights  # the potential one step in front of the end decides
    rises = (weights > -1) & (last.abs() > SLACK)
    assert torch.equal(found[1][rises] > 0, (last > 0)[rises] | (z > 1 - clock.dt)[rises])
    assert not found[1][0].any()  # a potential of 0 is above no threshold


def test_on_the_whole_steps_make_spikes_late_and_the_shifted_threshold_makes_up_for_it() -> None:
    """At dt = 0.1 the mean error is +0.047 with the exact threshold and -0.016 with the shifted one."""
    fired = (torch.rand(300, 40) < 0.5).double()
    weight = 0.2 * torch.randn(30, 40, dtype=torch.float64)
    drive = psp_linear(torch.stack([fired * torch.randint(1, 11, (300, 40)) / 10, fired]), weight)
    truth, errors, mismatch = rel_psp(drive), {}, {}
    for threshold in ("exact", "shifted"):
        found = Clock(1.0, 0.1, threshold)
        stepped = found.decode(found.fire(drive, closed=True))
        both = (truth[1] > 0) & (stepped[1] > 0)
        errors[threshold] = (truth[0] - stepped[0])[both].mean().item()
        mismatch[threshold] = (truth[1] != stepped[1]).double().mean().item()
    assert -0.04 < errors["shifted"] < 0 < errors["exact"] < 0.1
    assert abs(errors["shifted"]) < errors["exact"]
    assert mismatch["exact"] == 0 < mismatch["shifted"] < 0.05


def test_an_open_window_does_not_count_a_potential_of_0_at_its_end() -> None:
    clock, drive = Clock(1.0, 0.25, "exact"), torch.tensor([[0.0, 0.5, 0.5], [0.0, -0.5, -0.25]])
    assert clock.fire(drive, closed=True)[1].tolist() == [1, 1, 1]
    assert clock.fire(drive, closed=False)[1].tolist() == [0, 0, 1]


@pytest.mark.parametrize("window", [1.0, 2.0])
def test_input_is_coded_by_the_threshold_that_the_neurons_have(window: float) -> None:
    activation = torch.tensor([0.0, 0.05, 0.25, 0.3, 0.99, 1.0]) * window
    spikes = torch.stack([activation, (activation > 0).float()])
    exact, shifted = (Clock(window, window / 4, threshold).encode(spikes)[0] for threshold in ("exact", "shifted"))
    assert exact.tolist() == [0, 0, 1, 1, 3, 4]
    assert shifted.tolist() == [0, 1, 1, 2, 4, 4]


@pytest.mark.parametrize("threshold", ["exact", "shifted"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_input_on_a_step_stays_on_it_whatever_the_rounding(dtype: torch.dtype, threshold: Threshold) -> None:
    steps = torch.arange(1, 101, dtype=dtype)
    left = torch.stack([steps / 100, torch.ones_like(steps)])
    assert torch.equal(Clock(1.0, 0.01, threshold).encode(left)[0], steps)


@pytest.mark.parametrize("threshold", ["exact", "shifted"])
@pytest.mark.parametrize("build", [small, direct])
def test_a_network_comes_as_near_to_the_closed_form_as_steps_are_short(build: Any, threshold: Threshold) -> None:
    model = build()
    x = images() if build is small else torch.randn(8, 3, 8, 8, dtype=torch.float64)
    truth = run_closed_form(model, x)
    errors = []
    for dt in (0.1, 0.01, 0.001):
        run = run_stepwise(model, x, dt, threshold=threshold)
        assert list(run.spikes) == list(truth.spikes)
        errors.append([(run.spikes[name] - truth.spikes[name])[0].abs().mean().item() for name in truth.spikes])
        errors[-1].append((run.logits - truth.logits).abs().mean().item())
    for coarse, fine in itertools.pairwise(errors):
        assert all(b < 0.4 * a for a, b in zip(coarse, fine, strict=True))
    assert torch.equal(run.logits[1:].argmax(1), truth.logits[1:].argmax(1))


@pytest.mark.parametrize("readout", ["start", "end", "time"])
def test_logits_are_those_of_the_models_readout(readout: str) -> None:
    model, x = small(readout=readout, window=2.0), images()
    truth = run_closed_form(model, x).logits
    found = run_stepwise(model, x, 0.001, threshold="exact").logits
    assert (found - truth).abs().max() < 0.03 * truth.abs().max()
    assert torch.equal(truth, model(x))
    if readout == "time":
        steps = run_stepwise(model, x, 0.25).logits / 0.25
        assert torch.equal(steps, steps.round())
        assert -8 <= steps.min() < steps.max() <= 0


def test_the_authors_output_neurons_fire_where_their_potential_is_above_20() -> None:
    head = PSPLinear(2, 4)
    model = nn.Sequential(PixelCode(planes=2), TTFSUnit(PSPLinear(2, 2), RelPSP()), head, Readout("start", RelPSP()))
    model[1].product.weight.data = 10 * torch.eye(2)  # white pixels come through at once
    head.weight.data = torch.tensor([[20.1, 0.0], [10.0, 0.0], [-5.0, 0.0], [3.0, 2.1]])
    x = torch.ones(1, 2, 1, 1)
    logits = run_stepwise(model, x, 0.5, output="constant").logits  # z = W: the potential is (1 + t) W
    assert logits.tolist() == [[0.0, -1.5, -4.0, -3.0]]


def test_cost_is_that_of_the_steps_with_spikes(monkeypatch: pytest.MonkeyPatch) -> None:
    product, calls = PSPLinear(3, 2), []
    monkeypatch.setattr(product, "forward", lambda x: calls.append(x) or PSPLinear.forward(product, x))
    left = torch.tensor([[10.0, 4.0, 4.0]])
    Clock(1.0, 0.1, "exact").integrate(product, torch.stack([left, torch.ones(1, 3)]))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dt": 0.0}, "dt is 0.0; wanted more than 0 and at most the window, 1.0"),
        ({"dt": -0.1}, "dt is -0.1; wanted more than 0"),
        ({"dt": 1.5}, "dt is 1.5; wanted more than 0 and at most the window"),
        ({"dt": float("nan")}, "dt is nan; wanted more than 0"),
        ({"dt": 0.15}, "dt is 0.15, which does not divide the window of 1.0; .* 0.166667 and 0.142857"),
        ({"dt": 0.1, "threshold": "late"}, "threshold is 'late'; wanted shifted or exact"),
        ({"dt": 0.1, "output": "spikes"}, "output is 'spikes'; wanted readout or constant"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_stepwise(small(), images(), **settings)


def test_models_without_spike_times_are_refused() -> None:
    with pytest.raises(ValueError, match=r"neurons of stages.0.1 are ReLU1\(\); wanted RelPSP"):
        run_stepwise(small(neuron="relu1"), images(), 0.1)
    with pytest.raises(ValueError, match="Linear has 0 input codes, 0 units, 0 last products and 0 read-outs"):
        run_stepwise(nn.Linear(3, 3), images(), 0.1)
