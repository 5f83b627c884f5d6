"""Both products of a layer of spike times at once, and their gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from spimm.kernels import list_backends, psp_conv2d, psp_linear
from spimm.kernels.psp import reference

from .conftest import DTYPES, assert_near, covering, laid_out, values

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
MAPS = {"C1": (3, 1, 5, 6), "C3": (2, 3, 7, 5), "C17": (1, 17, 6, 6), "one pixel": (4, 5, 1, 1)}
FACTORS = {
    "dtype": list(DTYPES),
    "planes": [1, 2],
    "map": list(MAPS),
    "out_chans": [1, 4, 35],
    "kernel": [1, 3, 5],
    "padding": [0, 1, 2],
    "layout": ["channels-last", "nchw", "sliced"],
    "threads": [1, 2],
}


def spikes_of(planes: int, *shape: int) -> Tensor:
    """Activations in [0, 1] that bfloat16 holds, and whether they are above 0."""
    activation = values(*shape).clamp(0, 1)
    return torch.stack([activation, (activation > 0).double()][:planes])


def check_gradients(found: Tensor, truth: Tensor, inputs: list[Tensor], true_inputs: list[Tensor]) -> None:
    dtype, weight = found.dtype, values(*truth.shape, seed=3)
    expected = torch.autograd.grad((truth * weight).sum(), true_inputs)
    gradients = torch.autograd.grad((found * weight.to(dtype)).sum(), inputs)
    for name, actual, true in zip(("spikes", "weight"), gradients, expected, strict=True):
        assert actual.dtype == dtype
        assert_near(actual, true, ROUNDING[dtype], f"gradient of {name}")
    assert not gradients[0][1:].any()  # whether a neuron fires has none


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in covering(FACTORS)
        if min(MAPS[case.values[0]["map"]][2:]) + 2 * case.values[0]["padding"] >= case.values[0]["kernel"]
    ],
)
def test_the_cpu_convolution_agrees_with_the_reference(case: dict[str, Any], with_threads: Any) -> None:
    dtype, shape, padding = DTYPES[case["dtype"]], MAPS[case["map"]], case["padding"]
    with_threads(case["threads"])
    true_spikes = spikes_of(case["planes"], *shape).requires_grad_()
    true_weight = values(case["out_chans"], shape[1], case["kernel"], case["kernel"], seed=1).requires_grad_()
    truth = reference.psp_conv2d(true_spikes, true_weight, padding)
    spikes = laid_out(true_spikes.detach(), case["layout"]).to(dtype).requires_grad_()
    weight = true_weight.detach().to(dtype).requires_grad_()
    found = psp_conv2d(spikes, weight, padding=padding, backend="cpu")
    assert found.dtype == dtype
    assert found.movedim(2, -1).is_contiguous()
    assert_near(found, truth, ROUNDING[dtype], "drive")
    check_gradients(found, truth, [spikes, weight], [true_spikes, true_weight])


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize(("samples", "width", "out"), [(1, 1, 1), (3, 17, 35), (5, 300, 10)])
def test_the_cpu_product_agrees_with_the_reference(
    samples: int, width: int, out: int, planes: int, dtype: torch.dtype
) -> None:
    true_spikes, true_weight = spikes_of(planes, samples, width).requires_grad_(), values(out, width, seed=1)
    truth = reference.psp_linear(true_spikes, true_weight.requires_grad_())
    strided = true_spikes.detach().to(dtype).transpose(1, 2).contiguous().transpose(1, 2)
    spikes, weight = strided.requires_grad_(), true_weight.detach().to(dtype).requires_grad_()
    found = psp_linear(spikes, weight, backend="cpu")
    assert found.dtype == dtype
    assert_near(found, truth, ROUNDING[dtype], "drive")
    check_gradients(found, truth, [spikes, weight], [true_spikes, true_weight])


@pytest.mark.parametrize("backend", list_backends("psp_conv2d"))
def test_the_drive_is_the_potential_where_the_window_starts_and_its_slope(backend: str) -> None:
    times, weight = torch.tensor([0.25, 0.5, 1.0]), torch.tensor([[2.0, -1.0, 4.0]])
    fired = torch.tensor([1.0, 1.0, 0.0])
    spikes = torch.stack([(1 - times) * fired, fired])
    expected = [2 * 0.75 - 1 * 0.5, 2 - 1]
    assert psp_linear(spikes.unsqueeze(1), weight, backend=backend).flatten().tolist() == expected
    maps = spikes.view(2, 1, 3, 1, 1)
    assert psp_conv2d(maps, weight.view(1, 3, 1, 1), backend=backend).flatten().tolist() == expected


@pytest.mark.parametrize("backend", list_backends("psp_conv2d"))
def test_a_single_plane_is_an_ordinary_product(backend: str) -> None:
    x, weight = values(2, 3, 6, 5).float(), values(4, 3, 3, 3, seed=1).float()
    found = psp_conv2d(x.unsqueeze(0), weight, padding=1, backend=backend)
    torch.testing.assert_close(found[0], conv2d(x, weight, padding=1), atol=1e-5, rtol=1e-5)
    rows, matrix = values(2, 30).float(), values(7, 30, seed=1).float()
    found = psp_linear(rows.unsqueeze(0), matrix, backend=backend)
    torch.testing.assert_close(found[0], rows @ matrix.T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", list_backends("psp_conv2d"))
def test_gradients_are_those_of_finite_differences(backend: str) -> None:
    if backend == "cpu":
        pytest.skip("it stores no float64")
    spikes, weight = spikes_of(2, 2, 2, 4, 3), values(3, 2, 3, 3, seed=1).requires_grad_()
    activation = spikes[0].requires_grad_()

    def drive(activation: Tensor, weight: Tensor) -> Tensor:
        return psp_conv2d(torch.stack([activation, spikes[1]]), weight, padding=1, backend=backend)

    assert torch.autograd.gradcheck(drive, (activation, weight))


@pytest.mark.parametrize("needed", ["spikes", "weight"])
def test_a_gradient_that_nobody_asks_for_is_not_needed_for_the_other(needed: str) -> None:
    tensors = {"spikes": spikes_of(2, 2, 3, 5, 5).float(), "weight": values(4, 3, 3, 3, seed=1).float()}
    both = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    one = tensors | {needed: tensors[needed].clone().requires_grad_()}
    for inputs in (both, one):
        psp_conv2d(**inputs, padding=1, backend="cpu").square().sum().backward()
    assert torch.equal(both[needed].grad, one[needed].grad)


def test_autocast_decides_the_dtype() -> None:
    spikes, weight = spikes_of(2, 2, 3, 5, 5).float(), values(4, 3, 3, 3, seed=1).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        drive = psp_conv2d(spikes, weight)
        rows = psp_linear(spikes.flatten(2), weight.flatten(1).repeat(1, 3)[:, :75])
    assert drive.dtype == rows.dtype == torch.bfloat16
    (gradient,) = torch.autograd.grad(drive.float().sum(), weight)
    assert gradient.dtype == torch.float32


@pytest.mark.parametrize(
    ("spikes", "weight"),
    [
        ((2, 1, 3, 5, 5), (4, 2, 3, 3)),
        ((3, 1, 2, 5, 5), (4, 2, 3, 3)),
        ((2, 2, 5, 5), (4, 2, 3, 3)),
        ((2, 1, 2, 5, 5), (4, 2)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(spikes: tuple[int, ...], weight: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"spikes have shape .* and weight .*; wanted \[2, N, C, H, W\]"):
        psp_conv2d(torch.zeros(spikes), torch.zeros(weight))
    with pytest.raises(ValueError, match=r"spikes have shape .* and weight .*; wanted \[2, N, F\]"):
        psp_linear(torch.zeros(spikes), torch.zeros(weight))
