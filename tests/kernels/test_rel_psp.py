"""Spike times in closed form: against the reference, against finite differences, and against what a threshold means."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from spimm.kernels import list_backends, psp_linear, rel_psp
from spimm.kernels.rel_psp import reference

from .conftest import DTYPES, SHAPES, TOLERANCES, UNDECIDED, assert_near, covering, laid_out, values

FACTORS = {
    "dtype": list(DTYPES),
    "shape": list(SHAPES),
    "layout": ["channels-last", "nchw", "sliced"],
    "window": [0.5, 1.0, 2.5],
    "pool": [1, 2, 3],
    "closed": [True, False],
    "clip": [math.inf, 11.0, 1.25],
    "threads": [1, 3],
}
TIE = 1e-5  # of a square's two earliest spikes, in windows: which of them takes the gradient is a matter of rounding


def drives(*shape: int, window: float = 1.0, seed: int = 0) -> Tensor:
    """[2, *shape], one in eight at each threshold exactly; the potential at either end is exact in float32."""
    z, weights = values(*shape, seed=seed) * window, values(*shape, scale=1.5, seed=seed + 1)
    which = torch.randint(8, shape, generator=torch.Generator().manual_seed(seed))
    z[which == 0] = window
    weights = (weights * 8).round() / 8
    z[which == 1] = -window * weights[which == 1]  # 0 where the window ends
    return torch.stack([z.bfloat16().double(), weights])


def decided(drive: Tensor, case: dict[str, Any]) -> Tensor:
    """Squares whose earliest spike is alone, or has no gradient."""
    pool, window = case["pool"], case["window"]
    activation, _, inside = reference.fire(drive.detach(), window, case["closed"])
    if pool == 1:
        return torch.ones_like(inside)
    height, width = (size // pool * pool for size in drive.shape[-2:])
    squares = activation[..., :height, :width].unflatten(-1, (-1, pool)).unflatten(-3, (-1, pool)).transpose(-3, -2)
    first, second = squares.flatten(-2).topk(2).values.unbind(-1)
    return (first - second > TIE * window) | (first == window) | (first == 0)


@pytest.mark.parametrize("case", covering(FACTORS))
def test_the_cpu_backend_agrees_with_the_reference(case: dict[str, Any], with_threads: Any) -> None:
    dtype = DTYPES[case["dtype"]]
    settings = {name: case[name] for name in ("window", "pool", "closed", "clip")}
    with_threads(case["threads"])
    true_drive = drives(*SHAPES[case["shape"]], window=case["window"]).requires_grad_()
    drive = laid_out(true_drive.detach(), case["layout"]).to(dtype).requires_grad_()
    truth = reference.rel_psp(true_drive, **settings)
    spikes = rel_psp(drive, **settings, backend="cpu")
    assert spikes.dtype == dtype
    assert torch.equal(spikes[1].double(), truth[1])  # a fused multiply-add never has the wrong sign
    assert_near(spikes[0], truth[0], TOLERANCES[dtype].stored, "activation")

    settled = decided(true_drive, case)
    assert (~settled).sum() <= 2 + UNDECIDED * settled.numel()
    weight = values(*settled.shape, seed=2) * settled
    (expected,) = torch.autograd.grad((truth[0] * weight).sum(), true_drive)
    (found,) = torch.autograd.grad((spikes[0] * weight.to(dtype)).sum(), drive)
    assert found.dtype == dtype
    assert_near(found[0], expected[0], TOLERANCES[dtype].gradient, "gradient of the potential")
    assert_near(found[1], expected[1], TOLERANCES[dtype].gradient, "gradient of its slope")


@pytest.mark.parametrize("shape", [(7,), (3, 0), (1, 4099), (2, 3, 5), (9, 33, 31, 29)])
def test_drives_of_any_shape_are_served(shape: tuple[int, ...]) -> None:
    drive = drives(*shape).float()
    truth = reference.rel_psp(drive.double(), 1.0, 1, True, math.inf)
    torch.testing.assert_close(rel_psp(drive, backend="cpu"), truth.float(), atol=1e-6, rtol=1e-6)


def test_spikes_and_gradients_do_not_depend_on_the_number_of_threads(with_threads: Any) -> None:
    drive, results = drives(5, 19, 23, 21).float().requires_grad_(), []
    for threads in (1, 2, 5):
        with_threads(threads)
        spikes = rel_psp(drive, pool=2, backend="cpu")
        results.append((spikes, *torch.autograd.grad(spikes[0].square().sum(), drive)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def fires_inside(*shape: int, window: float = 1.0) -> Tensor:
    """Drives [2, *shape] of neurons that fire between a tenth and nine tenths of the window."""
    generator = torch.Generator().manual_seed(0)
    times = (0.1 + 0.8 * torch.rand(shape, generator=generator, dtype=torch.float64)) * window
    weights = -0.6 + 3 * torch.rand(shape, generator=generator, dtype=torch.float64)
    return torch.stack([window - times * (1 + weights), weights])


@pytest.mark.parametrize("window", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("pool", [1, 2])
def test_gradients_are_those_of_finite_differences(pool: int, window: float) -> None:
    drive = fires_inside(1, 2, 4, 4, window=window).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rel_psp(x, window=window, pool=pool, backend="reference")[0], drive)


@pytest.mark.parametrize("window", [0.5, 1.0, 2.5])
def test_gradients_are_those_of_the_plain_formula(window: float) -> None:
    drive = fires_inside(3, 40, window=window).requires_grad_()
    z, weights = drive
    plain = window - (window - z) / (1 + weights)
    (expected,) = torch.autograd.grad((plain**2).sum(), drive)
    (found,) = torch.autograd.grad((rel_psp(drive, window=window, backend="reference")[0] ** 2).sum(), drive)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("window", [1.0, 2.5])
def test_gradients_by_weights_and_by_spike_times_are_equations_9_and_10(window: float) -> None:
    generator = torch.Generator().manual_seed(3)
    times = window * torch.rand(8, generator=generator, dtype=torch.float64)  # absolute, in [0, window]
    weight = torch.randn(40, 8, generator=generator, dtype=torch.float64) / 2

    def fire(times: Tensor, weight: Tensor) -> Tensor:
        spikes = torch.stack([window - times, torch.ones_like(times)]).unsqueeze(1)
        return 2 * window - rel_psp(psp_linear(spikes, weight), window=window)[0, 0]

    by_time, by_weight = torch.autograd.functional.jacobian(fire, (times, weight))
    out = fire(times, weight)
    inside = (out > window) & (out < 2 * window)
    assert 5 < inside.sum() < 35
    slope = torch.where(inside, 1 + weight.sum(1), 1)
    expected_by_time = inside[:, None] * weight / slope[:, None]
    expected_by_weight = inside[:, None] * (times - out[:, None]) / slope[:, None]
    torch.testing.assert_close(by_time, expected_by_time, atol=1e-12, rtol=1e-12)
    own = by_weight[torch.arange(40), torch.arange(40)]
    torch.testing.assert_close(own, expected_by_weight, atol=1e-12, rtol=1e-12)
    assert by_weight.count_nonzero() == own.count_nonzero()  # a weight moves its own neuron's spike only


@pytest.mark.parametrize("backend", list_backends("rel_psp"))
def test_clipping_bounds_the_derivatives_by_weighted_times_and_by_weights(backend: str) -> None:
    drive = torch.tensor([[0.99609375], [-0.9921875]], requires_grad=True)  # 1 + W is 1/128, t = 1/2
    for clip, by_potential, by_slope in ((math.inf, 128.0, 64.0), (150.0, 128.0, 22.0), (11.0, 11.0, 0.0)):
        (gradient,) = torch.autograd.grad(rel_psp(drive, clip=clip, backend=backend)[0].sum(), drive)
        assert gradient.flatten().tolist() == [by_potential, by_slope]


@pytest.mark.parametrize("backend", list_backends("rel_psp"))
@pytest.mark.parametrize("window", [0.5, 1.0, 2.5])
def test_a_spike_is_where_the_potential_first_meets_the_threshold(window: float, backend: str) -> None:
    drive = drives(4000, window=window, seed=5).float()
    activation, fired = rel_psp(drive, window=window, backend=backend)
    z, weights = drive.double()
    time = window - activation.double()
    at_start, at_end = z >= window, z + window * weights >= 0
    assert torch.equal(fired.bool(), at_start | at_end)  # the gap is linear: open at both ends, it never closes
    assert (activation[at_start] == window).all()
    assert (activation[fired == 0] == 0).all()
    gap = (window - time - z - weights * time)[fired.bool() & ~at_start]
    assert gap.abs().max() <= 1e-6 * weights.abs().max()
    assert ((time >= 0) & (time <= window)).all()
    assert min(at_start.sum(), (fired == 0).sum(), gap.numel()) > 200


@pytest.mark.parametrize("backend", list_backends("rel_psp"))
def test_a_window_is_a_unit_of_time_and_potential(backend: str) -> None:
    drive = drives(500).float()
    longer = rel_psp(drive * torch.tensor([4.0, 1.0])[:, None], window=4.0, backend=backend)
    assert torch.equal(longer, rel_psp(drive, backend=backend) * torch.tensor([4.0, 1.0])[:, None])


@pytest.mark.parametrize("backend", list_backends("rel_psp"))
@pytest.mark.parametrize("closed", [True, False])
def test_neurons_without_input_fire_where_the_window_ends_if_that_belongs_to_it(closed: bool, backend: str) -> None:
    drive = torch.zeros(2, 3, requires_grad=True)
    spikes = rel_psp(drive, closed=closed, backend=backend)
    assert spikes.tolist() == [[0.0] * 3, [float(closed)] * 3]
    assert not torch.autograd.grad(spikes[0].sum(), drive)[0].any()


# z, W -> T_w - t, fired, and whether there is a gradient
KNOWN = {
    "above the threshold, falling fast": (1.5, -9.0, 1.0, 1.0, False),
    "at the threshold": (1.0, 0.0, 1.0, 1.0, False),
    "at the threshold, falling with it": (1.0, -1.0, 1.0, 1.0, False),
    "rising": (-0.5, 1.0, 0.25, 1.0, True),
    "falling slower than the threshold": (0.75, -0.5, 0.5, 1.0, True),
    "at the end": (0.5, -0.5, 0.0, 1.0, False),
    "below 0 at the end": (0.5, -0.75, 0.0, 0.0, False),
    "falling with the threshold": (0.5, -1.0, 0.0, 0.0, False),
    "falling faster than the threshold": (0.5, -3.0, 0.0, 0.0, False),
    "a single early spike": (1.0, 1.0, 1.0, 1.0, False),
    "a single late spike": (0.25, 1.0, 0.625, 1.0, True),
    "a single spike through a negative weight": (-0.25, -0.5, 0.0, 0.0, False),
}


@pytest.mark.parametrize("backend", list_backends("rel_psp"))
@pytest.mark.parametrize(("z", "weights", "activation", "fired", "moves"), KNOWN.values(), ids=KNOWN)
def test_known_potentials(z: float, weights: float, activation: float, fired: float, moves: bool, backend: str) -> None:
    drive = torch.tensor([[z], [weights]], requires_grad=True)
    spikes = rel_psp(drive, backend=backend)
    assert spikes.flatten().tolist() == [activation, fired]
    (gradient,) = torch.autograd.grad(spikes[0].sum(), drive)
    rate = 1 / (1 + weights) if moves else 0.0
    assert gradient.flatten().tolist() == pytest.approx([rate, (1 - activation) * rate])


@pytest.mark.parametrize("backend", list_backends("rel_psp"))
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("plane", [0, 1])
def test_a_drive_that_is_not_a_number_gives_no_number_either(plane: int, pool: int, backend: str) -> None:
    drive = torch.zeros(2, 1, 3, 2, 2)
    drive[plane, 0, 1, 1, 0] = math.nan
    activation = rel_psp(drive, pool=pool, backend=backend)[0]
    assert activation[0, 1].isnan().sum() == 1
    assert not activation[0, ::2].isnan().any()


@pytest.mark.parametrize("backend", list_backends("rel_psp"))
def test_the_earliest_spike_of_a_square_counts_and_takes_the_gradient(backend: str) -> None:
    z = torch.tensor([[-2.0, 0.0, 9.0], [-1.0, -3.0, 9.0], [9.0, 9.0, 9.0]]).view(1, 1, 3, 3)
    drive = torch.stack([z, torch.ones_like(z)]).requires_grad_()
    spikes = rel_psp(drive, pool=2, backend=backend)
    assert spikes.flatten().tolist() == [0.5, 1.0]  # the rest at the border is left out
    (gradient,) = torch.autograd.grad(spikes[0].sum(), drive)
    expected = torch.zeros(2, 1, 1, 3, 3)
    expected[:, ..., 0, 1] = torch.tensor([0.5, 0.25]).view(2, 1, 1)
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("backend", list_backends("rel_psp"))
def test_a_square_is_silent_only_where_all_its_neurons_are(backend: str) -> None:
    z = torch.full((1, 1, 2, 4), -5.0)
    z[..., 1, 3] = 0  # with a slope of 0 it fires where the window ends
    spikes = rel_psp(torch.stack([z, torch.zeros_like(z)]), pool=2, backend=backend)
    assert spikes.flatten().tolist() == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((), {}, r"drive has shape \(\); wanted \[2, ...\]"),
        ((3, 4), {}, r"drive has shape \(3, 4\); wanted \[2, ...\]"),
        ((2, 4), {"pool": 2}, r"drive has shape \(2, 4\); wanted \[2, B, C, H, W\]"),
        ((2, 4), {"window": 0.0}, "window is 0.0; wanted more than 0"),
        ((2, 4), {"window": math.nan}, "window is nan; wanted more than 0"),
        ((2, 4), {"clip": -1.0}, "clip is -1.0; wanted more than 0"),
        ((2, 1, 1, 4, 4), {"pool": 0}, "pool is 0; wanted more than 0"),
    ],
)
def test_input_that_does_not_fit_is_refused(shape: tuple[int, ...], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rel_psp(torch.zeros(shape), **settings)
