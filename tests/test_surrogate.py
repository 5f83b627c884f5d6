import math

import pytest
import torch

from spimm.surrogate import (
    SURROGATES,
    ATan,
    FastSigmoid,
    Gaussian,
    PiecewiseQuadratic,
    Rectangular,
    Sigmoid,
    Surrogate,
    Triangular,
    create_surrogate,
    spike,
)

# Two settings of each; the defaults are the first.
SETTINGS = [
    *(Sigmoid(), Sigmoid(1.7), ATan(), ATan(0.6), Rectangular(), Rectangular(0.4), Triangular(), Triangular(1.3)),
    *(PiecewiseQuadratic(), PiecewiseQuadratic(2.2), FastSigmoid(), FastSigmoid(1.1), Gaussian(), Gaussian(0.9)),
]
every_surrogate = pytest.mark.parametrize("surrogate", SETTINGS, ids=str)


@every_surrogate
def test_the_derivative_is_that_of_the_primitive(surrogate: Surrogate) -> None:
    u = torch.linspace(-3.01, 3, 4001, dtype=torch.float64, requires_grad=True)  # misses the kinks at round numbers
    (slope,) = torch.autograd.grad(surrogate.primitive(u).sum(), u)
    torch.testing.assert_close(surrogate.derivative(u.detach()), slope, atol=1e-13, rtol=1e-12)


@every_surrogate
def test_the_primitive_rises_and_is_odd_about_its_middle(surrogate: Surrogate) -> None:
    u = torch.linspace(-4, 4, 2001, dtype=torch.float64)
    primitive = surrogate.primitive(u)
    assert (primitive.diff() >= -1e-15).all()
    middle = surrogate.primitive(torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(primitive + primitive.flip(0), torch.full_like(u, 2 * middle.item()))
    torch.testing.assert_close(surrogate.derivative(u), surrogate.derivative(-u))


@pytest.mark.parametrize(
    ("surrogate", "height", "area"),
    [
        (Sigmoid(4.0), 1.0, 1.0),
        (ATan(2.0), 1.0, 1.0),
        (Rectangular(0.5), 2.0, 1.0),
        (Triangular(0.3), 0.3, 0.3),
        (PiecewiseQuadratic(2.0), 2.0, 1.0),
        (FastSigmoid(10.0), 1.0, 0.2),
        (Gaussian(0.4), 1 / (0.4 * math.sqrt(2 * math.pi)), 1.0),
    ],
    ids=str,
)
def test_height_and_area_are_those_published(surrogate: Surrogate, height: float, area: float) -> None:
    zero, far = torch.zeros((), dtype=torch.float64), torch.tensor(1e7, dtype=torch.float64)
    assert surrogate.derivative(zero).item() == pytest.approx(height)
    assert (surrogate.primitive(far) - surrogate.primitive(-far)).item() == pytest.approx(area, abs=1e-6)


@every_surrogate
def test_a_spike_is_a_step_forward_and_the_surrogate_backward(surrogate: Surrogate) -> None:
    u = torch.tensor([-1.0, -1e-30, 0.0, 0.3, 2.0], requires_grad=True)
    spikes = spike(u, surrogate)
    assert spikes.tolist() == [0, 0, 1, 1, 1]
    upstream = torch.tensor([1.0, -2.0, 3.0, 0.5, 1.0])
    (slope,) = torch.autograd.grad(spikes, u, upstream)
    torch.testing.assert_close(slope, upstream * surrogate.derivative(u.detach()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_spikes_and_derivatives_keep_the_dtype(dtype: torch.dtype) -> None:
    u = torch.linspace(-1, 1, 5, dtype=dtype)
    for surrogate in SETTINGS:
        assert spike(u, surrogate).dtype == surrogate.derivative(u).dtype == surrogate.primitive(u).dtype == dtype


def test_every_surrogate_has_a_name() -> None:
    assert {type(surrogate) for surrogate in SETTINGS} == set(SURROGATES.values())
    for name, kind in SURROGATES.items():
        assert create_surrogate(name) == kind()
    assert create_surrogate("sigmoid", alpha=2.5) == Sigmoid(2.5)


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown surrogate 'gausian'; did you mean gaussian\?"):
        create_surrogate("gausian")
    with pytest.raises(ValueError, match=r"did you mean atan, fast_sigmoid, .*triangular"):
        create_surrogate("zzz")


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("name", SURROGATES)
def test_a_parameter_that_is_not_positive_is_refused(name: str, value: float) -> None:
    (parameter,) = SURROGATES[name]().__dict__
    with pytest.raises(ValueError, match=rf"{SURROGATES[name].__name__}\.{parameter} is {value}; a positive number"):
        create_surrogate(name, **{parameter: value})
