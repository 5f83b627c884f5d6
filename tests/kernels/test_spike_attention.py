"""Linear spiking self-attention: equal to q (k^T v) for every input, spikes or not, whatever its layout."""

from typing import Any

import pytest
import torch
from torch import Tensor

from spimm.kernels import list_backends, spike_attention
from spimm.kernels.spike_attention.reference import spike_attention as truth

from .conftest import assert_near, covering, laid_out, values
from .test_compile import CHECKS, opcheck_warnings

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
# steps, samples, channels, height, width; heads
SIZES = {
    "one channel": ((1, 1, 1, 2, 3), 1),
    "one token": ((3, 2, 12, 1, 1), 3),
    "odd": ((2, 3, 21, 5, 3), 3),
    "48 a head": ((2, 2, 96, 4, 4), 2),
    "100 a head": ((1, 2, 200, 3, 5), 2),
    "many tokens": ((2, 1, 34, 23, 23), 2),
    "no sample": ((2, 0, 6, 3, 3), 2),
}
INPUTS = {"spikes": 1, "integers": 3, "real": 0}
FACTORS = {
    "dtype": list(ROUNDING),
    "size": list(SIZES),
    "density": [0.0, 0.1, 0.4, 1.0],
    "input": list(INPUTS),
    "layout": ["channels-last", "nchw", "sliced", "batch-first"],
    "grad_density": [0.2, 1.0],
    "scale": [1.0, 0.125],
    "threads": [1, 2],
}


def sparse(shape: tuple[int, ...], largest: int, density: float, seed: int) -> Tensor:
    """Integers from 1 to `largest`, or normal values if that is 0, of which a share is kept; the others are 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(1, largest + 1, shape, generator=generator).double() if largest else values(*shape, seed=seed)
    return x * (torch.rand(shape, generator=generator) < density)


@pytest.mark.parametrize("case", covering(FACTORS))
@pytest.mark.parametrize("backend", list_backends("spike_attention"))
def test_output_and_gradient_agrees_with_the_reference(case: dict[str, Any], backend: str, with_threads: Any) -> None:
    dtype = case["dtype"]
    (steps, samples, channels, *space), num_heads = SIZES[case["size"]]
    with_threads(case["threads"])
    exact = sparse((steps, samples, 3 * channels, *space), INPUTS[case["input"]], case["density"], seed=0)
    grad = sparse((steps, samples, channels, *space), 0, case["grad_density"], seed=1)
    exact.requires_grad_()
    expected = truth(exact, num_heads, case["scale"])
    (expected_grad,) = torch.autograd.grad(expected, exact, grad)

    qkv = laid_out(exact.detach().to(dtype), case["layout"]).requires_grad_()
    found = spike_attention(qkv, num_heads, case["scale"], backend=backend)
    (found_grad,) = torch.autograd.grad(found, qkv, laid_out(grad.to(dtype), case["layout"]))
    assert found.dtype == dtype
    if backend == "cpu":
        assert found.movedim(2, -1).is_contiguous()
    if samples:
        assert_near(found, expected, ROUNDING[dtype], "output")
        assert_near(found_grad, expected_grad, ROUNDING[dtype], "gradient")


@pytest.mark.parametrize("backend", list_backends("spike_attention"))
def test_products_of_spikes_are_exact(backend: str) -> None:
    qkv = sparse((2, 2, 3 * 48, 7, 7), 1, 0.3, seed=0)
    assert torch.equal(spike_attention(qkv.float(), 3, 0.125, backend=backend).double(), truth(qkv, 3, 0.125))


def test_the_reference_is_the_quadratic_attention_without_softmax() -> None:
    qkv = values(1, 1, 6, 2, 2).requires_grad_()
    q, k, v = (x.flatten(-2)[0, 0].T for x in qkv.chunk(3, dim=2))  # [N, C]
    expected = (q @ k.T) @ v * 0.5
    torch.testing.assert_close(truth(qkv, 1, 0.5).flatten(-2)[0, 0].T, expected)
    assert torch.autograd.gradcheck(lambda x: truth(x, 2, 0.5), qkv)


@pytest.mark.parametrize("part", range(3), ids=["q", "k", "v"])
def test_heads_steps_and_samples_do_not_mix(part: int) -> None:
    qkv = sparse((2, 2, 3 * 8, 3, 3), 1, 0.5, seed=0).float()
    changed = qkv.clone()
    changed[1, 0, 8 * part + 4 : 8 * part + 8] = 1  # the second of two heads
    before, after = spike_attention(qkv, 2), spike_attention(changed, 2)
    assert not torch.equal(after[1, 0, 4:], before[1, 0, 4:])
    after[1, 0, 4:] = before[1, 0, 4:]
    assert torch.equal(after, before)


@opcheck_warnings
@pytest.mark.parametrize("dtype", list(ROUNDING))
def test_it_is_a_sound_op(dtype: torch.dtype) -> None:
    qkv, grad = (laid_out(values(2, 2, n, 3, 3, seed=n).to(dtype), "channels-last") for n in (12, 4))
    torch.library.opcheck(torch.ops.spimm.spike_attention.default, (qkv.requires_grad_(), 2, 0.5), test_utils=CHECKS)
    arguments = (grad, qkv.detach(), 2, 0.5)
    torch.library.opcheck(torch.ops.spimm.spike_attention_backward.default, arguments, test_utils=CHECKS)


def test_it_compiles_whole() -> None:
    def loss(qkv: Tensor) -> Tensor:
        return spike_attention(qkv, 2, 0.125).square().mean()

    qkv = laid_out(sparse((2, 2, 24, 4, 4), 1, 0.3, seed=0).float(), "channels-last").requires_grad_()
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (actual,), (expected,) = torch.autograd.grad(compiled(qkv), qkv), torch.autograd.grad(loss(qkv), qkv)
    assert_near(actual, expected.double(), 1e-5, "gradient")


@pytest.mark.parametrize(
    ("shape", "num_heads", "message"),
    [
        ((2, 6, 4, 4), 1, r"qkv has shape \(2, 6, 4, 4\); wanted \[T, B, 3C, H, W\]"),
        ((2, 1, 8, 4, 4), 1, r"qkv has shape \(2, 1, 8, 4, 4\); wanted \[T, B, 3C, H, W\]"),
        ((2, 1, 0, 4, 4), 1, r"wanted \[T, B, 3C, H, W\]"),
        ((2, 1, 12, 4, 4), 3, "4 channels do not divide into 3 heads"),
        ((2, 1, 12, 4, 4), 0, "4 channels do not divide into 0 heads"),
    ],
)
def test_what_does_not_fit_is_named(shape: tuple[int, ...], num_heads: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spike_attention(torch.zeros(shape), num_heads)


def test_float64_runs_on_the_reference() -> None:
    qkv = torch.zeros(1, 1, 6, 2, 2, dtype=torch.float64)
    assert spike_attention(qkv, 2).dtype == torch.float64
    with pytest.raises(RuntimeError, match="it stores float32 or bfloat16, x is float64"):
        spike_attention(qkv, 2, backend="cpu")
