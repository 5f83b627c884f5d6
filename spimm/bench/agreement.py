"""Do two sides compute the same thing? The rules by which a case refuses to be timed."""

import torch
from torch import Tensor


class Mismatch(RuntimeError):
    """Two sides that should agree do not; no timing of them means anything."""


def spike_parity(
    spikes: Tensor,
    expected: Tensor,
    distance: Tensor,
    *,
    tolerance: float,
    allowed: float,
    what: str,
    levels: int = 1,
) -> float:
    """Share of neurons that came so near to the threshold that rounding may have decided.

    A threshold is a jump: spikes must be exactly 0 or 1 (with `levels`, a whole number up to it) and equal up to the
    step at which `distance`, the true potential minus the threshold, first falls within the tolerance. Such neurons are
    counted. spikes, expected, distance: [T, ...]. Raises Mismatch for other values, unequal spikes, or a share over
    `allowed`.
    """
    if not ((spikes == spikes.round()) & (spikes >= 0) & (spikes <= levels)).all():
        wanted = "neither 0 nor 1" if levels == 1 else f"no whole numbers from 0 to {levels}"
        raise Mismatch(f"{what}: some outputs are {wanted}")
    decided = (distance.abs() > tolerance).cummin(0).values
    wrong = int(((spikes.double() != expected.double()) & decided).sum())
    if wrong:
        raise Mismatch(f"{what}: {wrong} of {spikes.numel()} spikes differ where the potential decides them")
    undecided = float((~decided[-1]).double().mean())
    if undecided > allowed:
        raise Mismatch(f"{what}: {undecided:.2%} of the neurons are within {tolerance:g} of firing; {allowed:.2%} may")
    return undecided


def near(actual: Tensor, expected: Tensor, *, tolerance: float, what: str, floor: float = 0.0) -> float:
    """The Euclidean norm of the difference over that of `expected`, or `floor` if that is more, or 1 if both are 0.

    Raises Mismatch if it exceeds the tolerance or is nan, and for another shape.
    """
    if actual.shape != expected.shape:
        raise Mismatch(f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    actual, expected = actual.double(), expected.double()
    norm = max(float(torch.linalg.vector_norm(expected)), floor) or 1.0
    error = float(torch.linalg.vector_norm(actual - expected)) / norm
    if not error <= tolerance:
        raise Mismatch(f"{what}: relative difference {error:.2e}; {tolerance:.0e} is allowed")
    return error
