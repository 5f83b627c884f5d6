"""Event-driven convolution: equal to the dense one for every input, whatever is kept for the backward pass."""

import os
import subprocess
import sys
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from spimm.kernels import Dynamics, spike_conv2d, spike_conv2d_lif
from spimm.kernels.spike_conv import cpu, dense, reference

from .conftest import COEFFICIENTS, RESETS, Potentials, assert_near, covering, laid_out, values

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-7}


class Size(NamedTuple):
    images: int
    in_chans: int
    out_chans: int
    height: int
    width: int


SIZES = {
    "one channel": Size(2, 1, 1, 4, 3),
    "odd": Size(3, 17, 35, 7, 5),
    "one pixel": Size(5, 20, 50, 1, 1),
    "a line": Size(2, 16, 48, 1, 40),
    "several blocks": Size(2, 40, 300, 6, 6),
    "several groups": Size(9, 5, 33, 20, 20),
}
INPUTS = {"spikes": 1, "integers": 3, "real": 0}
FACTORS = {
    "dtype": list(ROUNDING),
    "size": list(SIZES),
    "kernel": [1, 3, 5, 7],
    "density": [0.0, 0.1, 0.9],
    "input": list(INPUTS),
    "layout": ["channels-last", "nchw"],
    "bias": [False, True],
    "memory": ["full", "packed"],
    "threads": [1, 2],
}


def problem(case: dict[str, Any]) -> tuple[list[Tensor], Tensor]:
    """x, weight and bias if there is one, and the gradient of the output: values that the dtype holds, in float64."""
    size, kernel, largest = SIZES[case["size"]], case["kernel"], INPUTS[case["input"]]
    generator = torch.Generator().manual_seed(0)
    shape = (size.images, size.in_chans, size.height, size.width)
    x = torch.randint(1, largest + 1, shape, generator=generator).double() if largest else values(*shape)
    x = x * (torch.rand(shape, generator=generator) < case["density"])
    weight = values(size.out_chans, size.in_chans, kernel, kernel, seed=1)
    bias = [values(size.out_chans, seed=2)] if case["bias"] else []
    return [x, weight, *bias], values(size.images, size.out_chans, size.height, size.width, seed=3)


@pytest.mark.parametrize("case", covering(FACTORS))
@pytest.mark.parametrize("limit", [1.0, -1.0], ids=["cpu event-driven", "cpu dense"])
def test_it_agrees_with_the_reference(
    case: dict[str, Any], limit: float, monkeypatch: pytest.MonkeyPatch, with_threads: Any
) -> None:
    dtype = case["dtype"]
    monkeypatch.setattr(cpu, "limit_of", lambda dtype: limit)
    with_threads(case["threads"])
    truth_inputs, grad = problem(case)
    truth_inputs = [tensor.requires_grad_() for tensor in truth_inputs]
    expected = conv2d(*truth_inputs, padding=case["kernel"] // 2)
    expected_gradients = torch.autograd.grad(expected, truth_inputs, grad)

    inputs = [tensor.detach().to(dtype) for tensor in truth_inputs]
    inputs[0] = laid_out(inputs[0].unsqueeze(0), case["layout"]).squeeze(0)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    found = spike_conv2d(*inputs, padding=case["kernel"] // 2, memory=case["memory"], backend="cpu")
    assert found.permute(0, 2, 3, 1).is_contiguous()
    assert_near(found, expected, ROUNDING[dtype], "output")
    gradients = torch.autograd.grad(found, inputs, grad.to(dtype))
    for name, actual, true in zip(("x", "weight", "bias"), gradients, expected_gradients, strict=False):
        assert_near(actual, true, ROUNDING[dtype], f"gradient of {name}")


LIF_FACTORS = {
    "dtype": list(ROUNDING),
    "size": list(SIZES),
    "kernel": [1, 3, 5, 7],
    "density": [0.0, 0.1, 0.9],
    "input": list(INPUTS),
    "num_steps": [1, 2, 5],
    "shared": [False, True],
    "bias": [False, True],
    "added": [False, True],
    "reset": list(RESETS),
    "threads": [1, 2],
}


@pytest.mark.parametrize("case", covering(LIF_FACTORS))
@pytest.mark.parametrize("limit", [1.0, -1.0], ids=["cpu event-driven", "cpu dense"])
def test_convolution_and_neuron_in_one_agrees_with_the_reference(
    case: dict[str, Any], limit: float, monkeypatch: pytest.MonkeyPatch, with_threads: Any
) -> None:
    dtype, size, num_steps = case["dtype"], SIZES[case["size"]], case["num_steps"]
    monkeypatch.setattr(cpu, "limit_of", lambda dtype: limit)
    with_threads(case["threads"])
    (x, weight, *bias), _ = problem(case)
    x = x.unsqueeze(0) if case["shared"] else torch.stack([x.roll(t, -1) for t in range(num_steps)])
    weight = weight / weight[0].numel() ** 0.5
    weight = weight.to(dtype).double()
    dynamics = Dynamics(*COEFFICIENTS, RESETS[case["reset"]])
    shape = (num_steps, size.images, size.out_chans, size.height, size.width)
    added = torch.randint(3, shape, generator=torch.Generator().manual_seed(4)).double() if case["added"] else None
    bias = bias[0] if bias else None
    fire = Potentials(dynamics.surrogate)
    truth = reference.spike_conv2d_lif(x, weight, bias, dynamics, num_steps, case["kernel"] // 2, added, fire=fire)

    inputs = [tensor if tensor is None else tensor.to(dtype) for tensor in (x, weight, bias, added)]
    inputs[0] = laid_out(inputs[0], "channels-last")
    settings: dict[str, Any] = {"num_steps": num_steps, "padding": case["kernel"] // 2, "added": inputs[3]}
    found = spike_conv2d_lif(*inputs[:3], dynamics, **settings, backend="cpu")
    assert found.movedim(2, -1).is_contiguous()
    # torch's convolution stores its sums in the dtype: potentials are rounded to it
    rounded = cpu.has_units(dtype) and limit < 0
    distance = torch.stack(fire.kept).abs()
    decided = (distance > (2**-6 if rounded else 2e-5)).cumprod(0).bool()
    plain = found.double() - (0 if added is None else added)
    assert ((plain == 0) | (plain == 1)).all()
    assert torch.equal(found.double()[decided], truth[decided])
    assert (~decided[-1]).sum() <= 2 + (0.2 if rounded else 0.005) * decided[-1].numel()


BITS_FACTORS = {
    "dtype": list(ROUNDING),
    "size": list(SIZES),
    "kernel": [1, 3, 5, 7],
    "density": [0.1, 0.9],
    "input": list(INPUTS),
    "shared": [False, True],
    "neuron": [False, True],
    "threads": [1, 2],
}


def call(x: Tensor, weight: Tensor, bias: Tensor | None, *, neuron: bool) -> Tensor:
    """The convolution of x, [T, B, C, H, W], or the spikes of it, [T, B, C', H, W], by the compiled extension."""
    padding = weight.shape[-1] // 2
    if neuron:
        steps = {"num_steps": 3 if len(x) == 1 else None}
        return spike_conv2d_lif(x, weight, bias, Dynamics(0.6, 0.47, 0.3), padding=padding, **steps, backend="cpu")
    y = spike_conv2d(x.flatten(0, 1), weight, bias, padding=padding, backend="cpu")
    return y.unflatten(0, x.shape[:2])


@pytest.mark.parametrize("case", covering(BITS_FACTORS))
@pytest.mark.parametrize("units", [False, True])
def test_an_image_has_the_same_bits_beside_sparse_dense_and_broken_ones_and_alone(
    case: dict[str, Any], units: bool, monkeypatch: pytest.MonkeyPatch, with_threads: Any
) -> None:
    monkeypatch.setattr(cpu, "has_units", lambda dtype: units)
    with_threads(case["threads"])
    (image, weight, bias), _ = problem(case | {"bias": True})
    weight = weight / weight[0].numel() ** 0.5
    image, weight, bias = (tensor.to(case["dtype"]) for tensor in (image, weight, bias))
    image = image[:1] if case["shared"] else torch.stack([image[0], image[0].roll(1, -1), image[0] * 0])
    x = torch.stack([image] * 3, dim=1)  # [T, B, C, H, W]

    def of_first(x: Tensor) -> Tensor:
        return call(x, weight, bias, neuron=case["neuron"])[:, 0]

    expected = of_first(x)
    for value in (0.0, 1.0, torch.nan, torch.inf):
        x[:, 1:] = value
        assert torch.equal(of_first(x), expected)
    if not units:  # torch's sums may differ with the number of images
        assert torch.equal(of_first(x[:, :1]), expected)
        for limit in (1.0, -1.0):
            monkeypatch.setattr(cpu, "limit_of", lambda dtype, limit=limit: limit)
            assert torch.equal(of_first(x), expected)


@pytest.mark.parametrize("limit", [1.0, -1.0], ids=["cpu event-driven", "cpu dense"])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("what", ["x", "weight"])
def test_what_is_not_finite_goes_where_torch_takes_it(
    what: str, broken: float, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "limit_of", lambda dtype: limit)
    tensors = {"x": (values(2, 5, 6, 6) > 1).float(), "weight": values(9, 5, 3, 3, seed=1).float()}
    tensors[what][1, 2, 1, 1] = broken
    expected = conv2d(**{"input": tensors["x"], "weight": tensors["weight"]}, padding=1)
    found = spike_conv2d(**tensors, padding=1, backend="cpu")
    inside = (..., slice(1, -1), slice(1, -1))  # torch may or may not multiply the zeros around the image
    torch.testing.assert_close(found[inside], expected[inside], equal_nan=True, atol=1e-5, rtol=1e-5)


def test_convolution_and_neuron_in_one_has_no_gradient() -> None:
    x, weight = torch.zeros(2, 1, 3, 4, 4), torch.zeros(2, 3, 3, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="spike_conv2d_lif has no gradient"):
        spike_conv2d_lif(x, weight, None, Dynamics(), padding=1)
    dynamics = Dynamics()

    def call(x: Tensor) -> Tensor:
        return spike_conv2d_lif(x, weight, None, dynamics, padding=1)

    with torch.no_grad():
        assert torch.equal(torch.compile(call, fullgraph=True)(x), call(x))
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 4, 4\) and weight \(2, 3, 3, 3\)"):
        spike_conv2d_lif(x[:, 0], weight, None, Dynamics())


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_forms_that_it_does_not_speed_up_are_torchs(stride: int) -> None:
    x, weight = (values(2, 3, 9, 9) > 1).float().requires_grad_(), values(4, 3, 3, 3, seed=1).float().requires_grad_()
    expected = conv2d(x, weight, None, stride)
    found = spike_conv2d(x, weight, stride=stride, memory="packed")
    assert torch.equal(found, expected)
    for actual, true in zip(
        torch.autograd.grad(found.sum(), (x, weight)), torch.autograd.grad(expected.sum(), (x, weight)), strict=True
    ):
        assert_near(actual, true.double(), 1e-5, "gradient")


def test_zeros_are_worth_skipping_only_where_there_are_many() -> None:
    x, weight = torch.zeros(2, 6, 6, 8).movedim(-1, 1), torch.zeros(8, 8, 3, 3)
    assert cpu.sparse_enough(x, weight, 1, 1)
    assert not cpu.sparse_enough(x + 1, weight, 1, 1)
    assert not cpu.sparse_enough(x, weight, 2, 1)
    assert not cpu.sparse_enough(x, weight, 1, 0)
    assert not cpu.sparse_enough(x, torch.zeros(8, 8, 2, 2), 1, 1)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("largest", "bits"), [(1, 1), (2, 2), (3, 2), (4, 4), (15, 4), (16, 8), (255, 8), (256, 32), (0.5, 32), (-1, 32)]
)
def test_what_is_kept_has_as_few_bits_as_the_values_need(largest: float, bits: int, backend: str) -> None:
    x = torch.zeros(3, 8, 5, 5)
    x[1, 2, 3, 4] = largest
    weight = values(4, 8, 3, 3).float().requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = spike_conv2d(x, weight, padding=1, memory="packed", backend=backend)
    (size,) = (tensor.nbytes for tensor in kept if tensor.shape != weight.shape)
    assert size - (cpu.HEADER if backend == "cpu" else 0) == x.numel() * bits // 8
    expected = torch.autograd.grad(conv2d(x, weight, padding=1).sum(), weight)[0]
    assert_near(torch.autograd.grad(y.sum(), weight)[0], expected.double(), 1e-5, "gradient of weight")


def test_nothing_is_packed_where_nothing_is_trained() -> None:
    x, weight = torch.zeros(1, 4, 4, 4), torch.zeros(4, 4, 3, 3, requires_grad=True)
    spikes_only = spike_conv2d(x.requires_grad_(), weight.detach(), padding=1, memory="packed")
    with torch.no_grad():
        assert not spike_conv2d(x, weight, padding=1, memory="packed").requires_grad
    assert torch.autograd.grad(spikes_only.sum(), x)[0].shape == x.shape


def test_autocast_computes_in_its_dtype() -> None:
    x, weight, bias = (values(2, 4, 5, 5) > 1).float(), values(6, 4, 3, 3, seed=1).float(), values(6, seed=2).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = spike_conv2d(x, weight.requires_grad_(), bias, padding=1)
    assert y.dtype == torch.bfloat16
    assert_near(y, conv2d(x.double(), weight.double(), bias.double(), padding=1), 2**-7, "output")
    assert torch.autograd.grad(y.float().sum(), weight)[0].dtype == torch.float32


@pytest.mark.parametrize("memory", ["full", "packed"])
def test_it_compiles_whole(memory: Any) -> None:
    weight, bias = values(6, 16, 3, 3, seed=1).float().requires_grad_(), values(6, seed=2).float().requires_grad_()

    def loss(x: Tensor) -> Tensor:
        return spike_conv2d(x, weight, bias, padding=1, memory=memory).square().mean()

    x = (values(2, 16, 8, 8) > 1.5).float().requires_grad_()
    leaves = (x, weight, bias)
    compiled = torch.autograd.grad(torch.compile(loss, fullgraph=True)(x), leaves)
    for actual, expected in zip(compiled, torch.autograd.grad(loss(x), leaves), strict=True):
        assert_near(actual, expected.double(), 1e-5, "gradient")


@pytest.mark.parametrize(
    ("x", "weight", "settings", "message"),
    [
        ((3, 4, 4), (2, 3, 3, 3), {}, r"x has shape \(3, 4, 4\)"),
        ((1, 3, 4, 4), (2, 4, 3, 3), {}, r"weight \(2, 4, 3, 3\); wanted \[N, C, H, W\] and \[C', C, k, k\]"),
        ((1, 3, 4, 4), (2, 3, 3, 3), {"memory": "half"}, "memory is 'half'; wanted 'full' or 'packed'"),
    ],
)
def test_what_does_not_fit_is_named(x: tuple, weight: tuple, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spike_conv2d(torch.zeros(x), torch.zeros(weight), **settings)


@pytest.mark.parametrize("largest", [1, 3, 200, 0.5])
def test_float64_runs_on_the_reference(largest: float) -> None:
    x, weight = largest * (values(3, 5, 7, 7) > 1).double(), values(4, 5, 3, 3, seed=1)
    bias = values(4, seed=2).requires_grad_()
    leaves = [x.requires_grad_(), weight.requires_grad_(), bias]
    found = spike_conv2d(*leaves, stride=2, padding=1, memory="packed")
    expected = conv2d(*leaves, stride=2, padding=1)
    assert torch.equal(found, expected)
    for actual, true in zip(
        torch.autograd.grad(found.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(actual, true)
    with pytest.raises(RuntimeError, match="it stores float32 or bfloat16, x is float64"):
        spike_conv2d(x, weight, backend="cpu")


@pytest.mark.parametrize("wanted", [0, 1])
def test_gradients_in_bfloat16_are_those_of_float32_rounded_where_torch_would_round_partial_sums(
    wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "_converts", lambda dtype: dtype == torch.bfloat16)
    x, weight, grad = (values(*shape).bfloat16() for shape in ((2, 16, 6, 6), (32, 16, 3, 3), (2, 32, 6, 6)))
    found = dense.dense_gradient(x, grad, weight, 1, 1, wanted=wanted)
    whole = dense.dense_gradient(x.float(), grad.float(), weight.float(), 1, 1, wanted=wanted)
    assert torch.equal(found, whole.bfloat16())


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_strided_1x1_convolution_of_few_channels_leaves_the_heap_whole(backend: str) -> None:
    """Where torch's own backward pass writes outside its tensors (docs/upstream.md) the child would abort."""
    code = f"""
import torch
from spimm.kernels import spike_conv2d
for _ in range(60):
    x = torch.rand(2, 4, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.rand(8, 4, 1, 1).contiguous(memory_format=torch.channels_last).requires_grad_()
    spike_conv2d(x, weight, stride=2, backend={backend!r}).square().sum().backward()
expected = torch.conv2d(x.detach(), weight.detach(), stride=2)
torch.testing.assert_close(spike_conv2d(x, weight, stride=2, backend={backend!r}).detach(), expected)
"""
    environment = {**os.environ, "MALLOC_CHECK_": "3"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
