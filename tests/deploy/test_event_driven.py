"""Networks of spike times spike by spike: equal to the closed form, and every synaptic operation is counted."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spimm.deploy import event_driven, run_closed_form, run_event_driven, run_stepwise
from spimm.deploy.event_driven import Events, Membranes, events_of

from .ttfs_nets import CASES, direct, images, layer_and_spikes, small

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def receive(product: nn.Module, spikes: Tensor, *, window: float = 1.0, until: float | None = None) -> Membranes:
    """The membranes behind a product, all spikes received, or those before a time."""
    membranes, events = Membranes(product, spikes.shape[1:], window), events_of(spikes)
    if until is not None:
        events = Events(*(part[window - events.left < until] for part in events))
    membranes.receive(events)
    return membranes


@pytest.mark.parametrize("at_once", [1, 50, 2**18])
@pytest.mark.parametrize("window", [1.0, 2.5])
@pytest.mark.parametrize("kind", CASES)
def test_spikes_one_after_the_other_give_the_drive_of_all_together(
    kind: str, window: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_driven, "AT_ONCE", at_once)
    product, spikes = layer_and_spikes(kind, window=window)
    torch.testing.assert_close(receive(product, spikes, window=window).drive(), product(spikes), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("time", [0.0, 0.3, 1.9, 2.5])
@pytest.mark.parametrize("kind", CASES)
def test_potentials_are_known_at_any_time(kind: str, time: float) -> None:
    product, spikes = layer_and_spikes(kind, window=2.5)
    arrived = ((2.5 - spikes[0]) < time) * spikes[1]
    expected = product(torch.stack([arrived * (time - 2.5 + spikes[0]), arrived]))[0]  # sum of w (t - t_i)
    found = receive(product, spikes, window=2.5, until=time).potential(time)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_events_are_the_spikes_in_the_order_of_their_times() -> None:
    _, spikes = layer_and_spikes("conv", num_steps=4)
    events = events_of(spikes)
    assert len(events.left) == spikes[1].sum()
    assert (events.left.diff() <= 0).all()
    again = torch.zeros(2, 6, 90, dtype=torch.float64)
    again[0, events.image, events.neuron] = events.left
    again[1, events.image, events.neuron] = 1
    assert torch.equal(again.view_as(spikes), spikes)
    assert (events.left == 0).any()  # those where the window ends as well


@pytest.mark.parametrize("kind", CASES)
def test_operations_are_the_synapses_of_each_spike(kind: str) -> None:
    product, spikes = layer_and_spikes(kind)
    ones = copy.deepcopy(product).requires_grad_(False)
    ones.weight.fill_(1)
    reached = ones(spikes)[1].flatten(1).sum(1)  # what every synapse of weight 1 adds
    counted = receive(product, spikes).operations
    assert counted.tolist() == reached.long().tolist()
    assert counted[0] == 0 < counted[1] < counted[2]


def test_a_spike_at_the_border_has_fewer_synapses() -> None:
    product = CASES["conv"].double()  # 3 x 3, padding 1, 7 channels
    counts = []
    for row, column in ((0, 0), (0, 2), (2, 2)):
        spikes = torch.zeros(2, 1, 3, 5, 6, dtype=torch.float64)
        spikes[1, 0, 1, row, column] = 1
        counts.append(receive(product, spikes).operations.item())
    assert counts == [4 * 7, 6 * 7, 9 * 7]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("build", "options"),
    [
        (small, {}),
        (small, {"window": 2.0, "readout": "end", "closed": False}),
        (small, {"convs": "6,M,8", "readout": "time", "hidden": ""}),
        (direct, {}),
        (direct, {"window": 0.5, "padding": 0, "image_size": 22}),
    ],
)
def test_a_network_gives_the_closed_form_to_rounding(build: Any, options: dict[str, Any], dtype: torch.dtype) -> None:
    model = build(**options).to(dtype)
    size = options.get("image_size", 8)
    x = (images() if build is small else torch.randn(8, 3, size, size)).to(dtype)
    truth, found = run_closed_form(model, x), run_event_driven(model, x)
    assert torch.equal(truth.logits, model(x))
    assert list(found.spikes) == list(truth.spikes)
    limits = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    for name, spikes in truth.spikes.items():
        assert (found.spikes[name][1] == spikes[1]).double().mean() > (1 - 1e-9 if dtype == torch.float64 else 0.999)
        torch.testing.assert_close(found.spikes[name][0], spikes[0], **limits)
    torch.testing.assert_close(found.logits, truth.logits, **limits)
    assert all(0.02 < spikes[1].mean() < 0.98 for spikes in truth.spikes.values())


def test_all_three_ways_of_running_a_network_recognise_the_same() -> None:
    model, x = small(), images(64)
    truth = run_closed_form(model, x).logits.argmax(1)
    assert torch.equal(run_event_driven(model, x).logits.argmax(1), truth)
    stepped = run_stepwise(model, x, 0.01, threshold="exact").logits.argmax(1)
    assert (stepped == truth)[1:].double().mean() > 0.9


def test_an_image_does_not_change_the_operations_of_another() -> None:
    model, x = small(), images()
    together = run_event_driven(model, x).operations
    alone = [run_event_driven(model, image.unsqueeze(0)).operations for image in x]
    assert list(together) == ["stages.0.1", "stages.1.0", "hidden.0", "hidden.1", "head"]
    for name, counts in together.items():
        assert counts.tolist() == [run[name].item() for run in alone]
    assert together["stages.0.1"][0] == 0 < together["stages.0.1"][1]


def test_models_without_spike_times_are_refused() -> None:
    with pytest.raises(ValueError, match=r"neurons of stages.0.1 are ReLU1\(\); wanted RelPSP"):
        run_event_driven(small(neuron="relu1"), images())
    with pytest.raises(ValueError, match=r"product is Linear.*; wanted PSPConv2d or PSPLinear"):
        Membranes(nn.Linear(3, 4), torch.Size((2, 3)), 1.0)
