import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spimm.neurons import IF, LIF, NEURONS, PLIF, Neuron, create_neuron
from spimm.surrogate import ATan, Sigmoid


def drive(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 0.3


EVERY_NEURON = [
    IF(),
    IF(v_reset=None, threshold=0.7),
    LIF(),
    LIF(3.0, decay_input=False, v_reset=-0.25),
    LIF(1.0),
    PLIF(),
    PLIF(4.0, decay_input=False, v_reset=None, learn_threshold=True, detach_reset=False, surrogate=ATan()),
]
every_neuron = pytest.mark.parametrize("neuron", EVERY_NEURON, ids=str)


@every_neuron
def test_step_by_step_equals_multi_step(neuron: Neuron) -> None:
    x, state, spikes = drive(6, 3, 4, 5, 5), None, []
    for step in x:
        s, state = neuron.step(step, state)
        assert s.shape == state.shape == step.shape
        spikes.append(s)
    together = neuron(x)
    assert torch.equal(torch.stack(spikes), together)
    assert 0 < together.mean() < 1


@every_neuron
def test_a_forward_keeps_nothing(neuron: Neuron) -> None:
    x, before = drive(4, 10), set(neuron.state_dict())
    first = neuron(x)
    neuron(drive(4, 10, seed=1))
    assert torch.equal(neuron(x), first)
    assert set(neuron.state_dict()) == before


@every_neuron
def test_the_initial_state_is_rest(neuron: Neuron) -> None:
    x = drive(7)
    rest = neuron.initial_state(x)
    assert torch.equal(rest, torch.full((7,), neuron.v_reset or 0.0))
    for explicit, implied in zip(neuron.step(x, rest), neuron.step(x), strict=True):
        assert torch.equal(explicit, implied)


@every_neuron
def test_a_shared_input_equals_the_repeated_one(neuron: Neuron) -> None:
    x = drive(1, 3, 8)
    assert torch.equal(neuron(x, 5), neuron(x.expand(5, -1, -1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@every_neuron
def test_spikes_are_zero_or_one_in_the_dtype_of_the_input(neuron: Neuron, dtype: torch.dtype) -> None:
    spikes = neuron(drive(4, 30).to(dtype))
    assert spikes.dtype == dtype
    assert set(spikes.unique().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("neuron", "potentials"),
    [
        (IF(threshold=10), [1, 2, 3]),
        (LIF(2.0, threshold=10), [0.5, 0.75, 0.875]),
        (LIF(2.0, threshold=10, decay_input=False), [1, 1.5, 1.75]),
        (LIF(4.0, threshold=10), [0.25, 0.4375, 0.578125]),
        (LIF(2.0, threshold=10, v_reset=-1.0), [-1 + 0.5, -1 + 0.75, -1 + 0.875]),
        (PLIF(4.0, threshold=10), [0.25, 0.4375, 0.578125]),
    ],
    ids=str,
)
def test_a_constant_input_charges_as_the_equation_says(neuron: Neuron, potentials: list[float]) -> None:
    state, seen = None, []
    for _ in potentials:
        _, state = neuron.step(torch.ones(1), state)
        seen.append(state.item())
    assert seen == pytest.approx(potentials)


def test_the_leaky_neuron_with_time_constant_two_gives_the_published_spikes() -> None:
    assert LIF()(torch.full((3, 1), 1.5)).flatten().tolist() == [0, 1, 0]
    assert LIF()(torch.full((1, 1), 2.0)).item() == 1
    assert LIF()(torch.full((1, 1), 1.9999)).item() == 0


def test_soft_reset_subtracts_the_threshold() -> None:
    spikes, state = IF(v_reset=None).step(torch.tensor([2.5]))
    assert (spikes.item(), state.item()) == (1, 1.5)


def test_time_constants_are_learnt() -> None:
    neuron = PLIF(2.5)
    assert torch.sigmoid(neuron.w).item() == pytest.approx(1 / 2.5)
    assert [name for name, _ in neuron.named_parameters()] == ["w"]
    x = drive(5, 40)
    (gradient,) = torch.autograd.grad(neuron(x).sum(), neuron.w)
    w = neuron.w.detach().double().requires_grad_()
    reference = PLIF(2.5).double()
    reference.w = nn.Parameter(w.detach())
    (truth,) = torch.autograd.grad(reference(x.double()).sum(), reference.w)
    assert gradient.item() == pytest.approx(truth.item(), rel=1e-4)
    assert abs(gradient.item()) > 1e-3


def test_training_moves_the_time_constant_towards_the_spike_count_asked_for() -> None:
    neuron, x = PLIF(2.0), torch.full((8, 100), 1.4)
    before = neuron(x).sum()
    optimiser = torch.optim.SGD(neuron.parameters(), 0.5)
    for _ in range(20):
        optimiser.zero_grad()
        (-neuron(x).mean()).backward()
        optimiser.step()
    assert neuron(x).sum() > before


def test_thresholds_are_learnt() -> None:
    neuron = LIF(threshold=0.8, learn_threshold=True)
    assert [name for name, _ in neuron.named_parameters()] == ["threshold"]
    x = drive(1, 60)
    (gradient,) = torch.autograd.grad(neuron(x).sum(), neuron.threshold)
    expected = -Sigmoid().derivative(x / 2 - 0.8).sum()  # one step: s = [x / 2 - threshold >= 0]
    assert gradient.item() == pytest.approx(expected.item(), rel=1e-5)
    assert "threshold" in neuron.state_dict()
    assert "threshold" not in LIF(threshold=0.8).state_dict()


def test_neurons_are_made_by_name() -> None:
    assert {type(create_neuron(name)) for name in NEURONS} == {IF, LIF, PLIF}
    neuron = create_neuron("lif", tau=3.0, threshold=0.5)
    assert (neuron.tau, neuron.threshold) == (3.0, 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: create_neuron("liff"), r"unknown neuron 'liff'; did you mean (lif|plif|if)"),
        (lambda: LIF(0.5), r"tau is 0.5; wanted at least 1"),
        (lambda: LIF(math.nan), r"tau is nan"),
        (lambda: PLIF(1.0), r"tau is 1.0; wanted more than 1"),
        (lambda: LIF(threshold=0.0), r"threshold is 0.0; it must lie above the potential at rest, which is 0.0"),
        (lambda: LIF(threshold=-0.5, v_reset=-0.5), r"threshold is -0.5"),
        (lambda: IF(threshold=0.0, v_reset=None), r"threshold is 0.0"),
    ],
)
def test_settings_without_meaning_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_time_constant_for_the_neuron_without_leak_is_an_error() -> None:
    with pytest.raises(TypeError, match="tau"):
        create_neuron("if", tau=2.0)
