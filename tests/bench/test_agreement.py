"""The rules by which a case refuses to be timed."""

import pytest
import torch
from torch import Tensor

from spimm.bench import Mismatch
from spimm.bench.agreement import near, spike_parity


def parity(spikes: Tensor, expected: Tensor, distance: Tensor, allowed: float = 0.5) -> float:
    return spike_parity(spikes, expected, distance, tolerance=0.1, allowed=allowed, what="x")


def test_a_spike_that_differs_far_from_the_threshold_is_a_mismatch() -> None:
    distance = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    expected = (distance >= 0).float()
    assert parity(expected, expected, distance) == 0
    wrong = expected.clone()
    wrong[0, 1] = 1
    with pytest.raises(Mismatch, match="1 of 4 spikes differ"):
        parity(wrong, expected, distance)


def test_a_neuron_is_excused_from_the_step_on_at_which_it_comes_near_the_threshold() -> None:
    distance = torch.tensor([[1.0, 1.0], [-0.05, 1.0], [1.0, 1.0]])
    expected = (distance >= 0).float()
    other = expected.clone()
    other[1:, 0] = 1 - other[1:, 0]
    assert parity(other, expected, distance) == 0.5
    other[0, 0] = 0
    with pytest.raises(Mismatch, match="1 of 6"):
        parity(other, expected, distance)


def test_too_many_excuses_are_a_mismatch() -> None:
    distance = torch.tensor([[0.01, 1.0, 1.0]])
    spikes = torch.ones(1, 3)
    with pytest.raises(Mismatch, match=r"33\.33% of the neurons"):
        parity(spikes, spikes, distance, allowed=0.3)


@pytest.mark.parametrize("value", [0.5, 2.0, torch.nan])
def test_an_output_that_is_neither_0_nor_1_is_a_mismatch(value: float) -> None:
    spikes = torch.tensor([[1.0, value]])
    with pytest.raises(Mismatch, match="neither 0 nor 1"):
        parity(spikes, spikes, torch.ones(1, 2))


def test_nearness_is_relative_to_the_norm_of_what_is_expected() -> None:
    expected = torch.tensor([300.0, 400.0])
    assert near(expected + torch.tensor([0.0, 5.0]), expected, tolerance=0.02, what="x") == pytest.approx(0.01)
    with pytest.raises(Mismatch, match=r"x: relative difference 1\.00e-02"):
        near(expected + torch.tensor([0.0, 5.0]), expected, tolerance=0.005, what="x")


def test_what_is_smaller_than_the_floor_is_measured_by_the_floor() -> None:
    small = torch.tensor([1e-6])
    assert near(2 * small, small, tolerance=1e-5, what="x", floor=1.0) == pytest.approx(1e-6)
    with pytest.raises(Mismatch):
        near(2 * small, small, tolerance=1e-5, what="x")


def test_nan_another_shape_and_a_difference_from_zero_are_mismatches() -> None:
    zero = torch.zeros(2)
    assert near(zero, zero, tolerance=1e-6, what="x") == 0
    for actual in (torch.ones(2), torch.tensor([0.0, torch.nan]), torch.zeros(3)):
        with pytest.raises(Mismatch, match="x: "):
            near(actual, zero, tolerance=1e-6, what="x")
