"""Cases, tolerances and the spike-parity rule that all tests of kernels share.

The truth is `reference.py` in float64 on the same (exactly representable) values. A spike is a jump, so spikes must be
equal only where the true potential is away from the threshold; the rest is counted and the count is bounded.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from spimm.kernels import Dynamics
from spimm.surrogate import (
    ATan,
    FastSigmoid,
    Gaussian,
    PiecewiseQuadratic,
    Rectangular,
    Sigmoid,
    Surrogate,
    Triangular,
    spike,
)


class Tolerance(NamedTuple):
    """`potential` is absolute; the others are relative to the largest magnitude of the tensor compared.

    `statistics` is for means and variances; `summed` for gradients that are sums of many terms of either sign (weight,
    bias, decay, gain, threshold).
    """

    potential: float
    stored: float
    statistics: float
    gradient: float
    summed: float


# Arithmetic is float32 whatever the storage: inputs are exact in both, so the potentials are equally good.
TOLERANCES = {
    torch.float32: Tolerance(1e-5, 1e-6, 1e-5, 1e-5, 5e-4),
    torch.bfloat16: Tolerance(1e-5, 2**-7, 1e-5, 2**-7, 5e-4),
}
UNDECIDED = 2e-3  # share of neurons that may come nearer to a jump than the tolerance; two more are always allowed

# Parameters that are no surrogate's default, so that none can be mistaken for another.
SURROGATES: dict[str, Surrogate] = {
    "sigmoid": Sigmoid(3.0),
    "atan": ATan(2.5),
    "rectangular": Rectangular(0.75),
    "triangular": Triangular(0.4),
    "piecewise_quadratic": PiecewiseQuadratic(1.5),
    "fast_sigmoid": FastSigmoid(5.0),
    "gaussian": Gaussian(0.6),
}
COEFFICIENTS = (0.6, 0.47, 0.87)  # decay, gain, threshold: no value of the inputs' grids meets the threshold exactly
RESETS = {"hard": 0.0, "hard-to-rest": -0.25, "soft": None}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHAPES = {"C1": (3, 1, 5, 3), "C3": (2, 3, 7, 5), "C17": (1, 17, 3, 3), "C96": (2, 96, 5, 7)}
FACTORS: dict[str, Sequence[Any]] = {
    "surrogate": list(SURROGATES),
    "num_steps": [1, 2, 4, 8, 16],
    "shape": list(SHAPES),
    "layout": ["channels-last", "nchw", "sliced", "batch-first"],
    "reset": list(RESETS),
    "dtype": list(DTYPES),
    "detach": [True, False],
    "shared": [False, True],
    "learnt": [True, False],
}


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan() -> Iterator[None]:
    """A kernel that reads what it or nobody has written gives NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before)


def covering(factors: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Parameter sets in which every pair of values of any two factors occurs: far fewer than the full product."""
    rng = random.Random(0)
    names = list(factors)
    pairs = set()
    for a, b in itertools.combinations(names, 2):
        pairs |= {((a, x), (b, y)) for x in factors[a] for y in factors[b]}

    def candidate() -> tuple[set[Any], dict[str, Any]]:
        chosen = {name: rng.choice(factors[name]) for name in names} | dict(rng.choice(sorted(pairs, key=str)))
        return set(itertools.combinations(chosen.items(), 2)) & pairs, chosen

    cases = []
    while pairs:
        covered, case = max((candidate() for _ in range(30)), key=lambda pair: len(pair[0]))
        pairs -= covered
        cases.append(pytest.param(case, id=" ".join(f"{name}={value}" for name, value in case.items())))
    return cases


def laid_out(values: Tensor, layout: str) -> Tensor:
    """The same [T, B, C, H, W] values in another order of memory; `sliced` leaves NaN between the channels' rows."""
    if layout == "nchw":
        return values.contiguous()
    if layout == "batch-first":
        return values.transpose(0, 1).contiguous().transpose(0, 1)
    last = values.movedim(2, -1)
    if layout == "sliced":
        wide = last.new_full((*last.shape[:-1], last.shape[-1] + 2), torch.nan)
        wide[..., 1:-1] = last
        return wide[..., 1:-1].movedim(-1, 2)
    return last.contiguous().movedim(-1, 2)


def values(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    """Normal float64 values that bfloat16 holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * scale).bfloat16().double()


def make_dynamics(case: Mapping[str, Any], learnt: Sequence[Tensor]) -> Dynamics:
    """The case's neuron; decay, gain and threshold are the `learnt` scalars if there are any."""
    decay, gain, threshold = learnt if learnt else COEFFICIENTS
    return Dynamics(decay, gain, threshold, RESETS[case["reset"]], case["detach"], SURROGATES[case["surrogate"]])


def make_learnt(case: Mapping[str, Any]) -> list[Tensor]:
    if not case["learnt"]:
        return []
    return [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in COEFFICIENTS]


class Potentials:
    """A `fire` for the references that keeps every u = h - threshold."""

    def __init__(self, surrogate: Surrogate):
        self.surrogate = surrogate
        self.kept: list[Tensor] = []

    def __call__(self, u: Tensor) -> Tensor:
        self.kept.append(u.detach())
        return spike(u, self.surrogate)

    def decided(self, tolerance: float) -> Tensor:
        """[T, ...]: True until the potential first comes within the tolerance of a jump, of spike or gradient."""
        u = torch.stack(self.kept)
        far = u.abs() > tolerance
        if isinstance(self.surrogate, Rectangular):
            far &= (u.abs() - self.surrogate.width / 2).abs() > tolerance
        return far.cumprod(0).bool()


def assert_spike_parity(spikes: Tensor, truth: Tensor, decided: Tensor) -> None:
    """Exactly 0 or 1, equal wherever decided, and few undecided."""
    assert ((spikes == 0) | (spikes == 1)).all()
    assert torch.equal(spikes.double()[decided], truth[decided])
    undecided = int((~decided[-1]).sum())
    assert undecided <= 2 + UNDECIDED * decided[-1].numel(), f"{undecided} of {decided[-1].numel()} are undecided"


def assert_near(actual: Tensor, truth: Tensor, tolerance: float, what: str) -> None:
    """Difference of all elements within the tolerance of the largest true magnitude (NaN never is)."""
    assert actual.shape == truth.shape, what
    error, bound = (actual.double() - truth).abs().max(), tolerance * truth.abs().max() + 1e-12
    assert error <= bound, f"{what}: error {error:.2e} exceeds {bound:.2e}"


def gradients(loss: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(tensors, torch.autograd.grad(loss, list(tensors.values())), strict=True))


@pytest.fixture
def with_threads() -> Iterator[Callable[[int], None]]:
    """torch.set_num_threads for the length of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
