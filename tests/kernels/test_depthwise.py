"""Depth-wise convolution: torch's values, and gradients of every tensor."""

from typing import Any

import pytest
import torch

from spimm.kernels import depthwise_conv2d, list_backends
from spimm.kernels.depthwise.reference import depthwise_conv2d as truth

from .conftest import assert_near, covering, values
from .test_compile import CHECKS, opcheck_warnings

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
SUMMED = {torch.float32: 1e-4, torch.bfloat16: 2**-7}
SIZES = {
    "one value": (1, 1, 1, 1),
    "odd": (3, 21, 5, 9),
    "a vector": (2, 16, 8, 8),
    "many": (5, 70, 13, 11),
    "a line": (2, 33, 1, 20),
    "several bands of rows": (1, 17, 113, 60),
}
FACTORS = {
    "dtype": list(ROUNDING),
    "size": list(SIZES),
    "kernel": [3, 5, 7],
    "bias": [False, True],
    "contiguous": [True, False],
    "threads": [1, 2],
    "stride": [1, 2],
    "branches": [1, 4],
    "multiplier": [1, 2],
}


@pytest.mark.parametrize("case", covering(FACTORS))
@pytest.mark.parametrize("backend", list_backends("depthwise_conv2d"))
def test_output_and_every_gradient_agree_with_the_reference(
    case: dict[str, Any], backend: str, with_threads: Any
) -> None:
    dtype, (images, channels, *area), kernel = case["dtype"], SIZES[case["size"]], case["kernel"]
    branches, out_chans = case["branches"], case["multiplier"] * channels
    form = {"stride": case["stride"], "branches": branches}
    with_threads(case["threads"])
    exact = [
        values(images, branches * channels, *area, seed=0),
        values(branches * out_chans, 1, kernel, kernel, seed=1),
        values(out_chans, seed=2),
    ]
    exact = [tensor.to(dtype).double().requires_grad_() for tensor in exact[: 3 if case["bias"] else 2]]
    bias = exact[2] if case["bias"] else None
    expected = truth(exact[0], exact[1], bias, **form)
    assert expected.shape == (images, out_chans, *(-(-side // case["stride"]) for side in area))
    grad = values(*expected.shape, seed=3).to(dtype)
    expected_grads = torch.autograd.grad(expected, exact, grad.double())

    inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in exact]
    x = inputs[0] if case["contiguous"] else inputs[0].contiguous(memory_format=torch.channels_last)
    found = depthwise_conv2d(x, inputs[1], inputs[2] if case["bias"] else None, **form, backend=backend)
    grads = torch.autograd.grad(found, inputs, grad)
    assert found.dtype == dtype
    assert_near(found, expected, ROUNDING[dtype], "output")
    # Without instructions for bfloat16, torch's convolution, which is the reference, rounds partial sums to it.
    in_parts = backend == "reference" and dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    coarse = 3 if in_parts else 1
    for name, tolerance, actual, wanted in zip(
        ("x", "weight", "bias"), (ROUNDING[dtype], SUMMED[dtype], SUMMED[dtype]), grads, expected_grads, strict=False
    ):
        assert actual.dtype == dtype
        assert_near(actual, wanted, coarse * tolerance, f"gradient of {name}")


def test_under_autocast_it_computes_in_bfloat16() -> None:
    x, weight = values(2, 4, 5, 5).float(), values(4, 1, 3, 3).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_conv2d(x, weight)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32


def test_other_kernels_are_served_by_the_reference() -> None:
    x, weight = values(2, 4, 5, 5).float(), values(4, 1, 9, 9).float()
    assert torch.equal(depthwise_conv2d(x, weight), truth(x, weight, None, stride=1, branches=1))
    with pytest.raises(RuntimeError, match=r"it knows kernels of \(3, 5, 7\) .*; weight is \(4, 1, 9, 9\)"):
        depthwise_conv2d(x, weight, backend="cpu")


@pytest.mark.parametrize("settings", [{"branches": 3}, {"branches": 0}, {"stride": 0}])
def test_settings_that_do_not_fit_are_named(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        depthwise_conv2d(torch.zeros(2, 4, 5, 5), torch.zeros(4, 1, 3, 3), **settings)


@pytest.mark.parametrize("shape", [(4, 4, 3, 3), (4, 1, 2, 2), (4, 1, 3, 5), (3, 1, 3, 3)])
def test_kernels_that_do_not_fit_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x has shape \(2, 4, 5, 5\) and weight .*; wanted \[N, C, H, W\]"):
        depthwise_conv2d(torch.zeros(2, 4, 5, 5), torch.zeros(shape))


@opcheck_warnings
@pytest.mark.parametrize("form", [(1, 1), (2, 2)])
@pytest.mark.parametrize("dtype", list(ROUNDING))
def test_it_is_a_sound_op(dtype: torch.dtype, form: tuple[int, int]) -> None:
    shapes = (2, 4, 5, 5), (4, 1, 3, 3), (4 // form[1],)
    x, weight, bias = (values(*shape, seed=len(shape)).to(dtype) for shape in shapes)
    x = x.contiguous(memory_format=torch.channels_last)
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    torch.library.opcheck(torch.ops.spimm.depthwise_conv2d.default, (*inputs, *form), test_utils=CHECKS)
    grad = depthwise_conv2d(x, weight, stride=form[0], branches=form[1]).detach()
    arguments = (grad, x.detach(), weight.detach(), *form, True, True)
    torch.library.opcheck(torch.ops.spimm.depthwise_conv2d_backward.default, arguments, test_utils=CHECKS)
