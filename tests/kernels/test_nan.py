"""What is not a number stays so: no comparison, no skipped zero and no variance of a batch turns it into a number."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from spimm import kernels
from spimm.kernels import Dynamics, use_backend

from .conftest import SURROGATES, values


def maps(*shape: int, nan_at: tuple[int, ...] | None = None, sparse: bool = False) -> Tensor:
    """Channels-last values, one of them not a number."""
    x = values(*shape).float()
    x = x.where(x > 1, 0) if sparse else x
    x = x.movedim(-3, -1).contiguous().movedim(-1, -3)
    if nan_at is not None:
        x[nan_at] = torch.nan
    return x


AT = (1, 0, 2, 1, 1)
NUMBERS = values(6).float(), values(6, seed=1).float()
CALLS: dict[str, Callable[[Tensor, Dynamics], Any]] = {
    "norm_lif": lambda x, neuron: kernels.norm_lif(x, *NUMBERS, neuron),
    "norm_lif of three thresholds": lambda x, neuron: kernels.norm_lif(
        x, *NUMBERS, neuron, thresholds=[0.3, 0.87, 1.2]
    ),
    "norm_lif_membrane": lambda x, neuron: kernels.norm_lif_membrane(x, *NUMBERS, neuron),
    "norm_pool_lif": lambda x, neuron: kernels.norm_pool_lif(x, *NUMBERS, neuron),
    "lif": kernels.lif,
    "multi_lif": lambda x, neuron: kernels.multi_lif(x, neuron, [0.3, 0.87, 1.2]),
    "token_mask": lambda x, neuron: kernels.token_mask(x, neuron, 3),
    "channel_mask": kernels.channel_mask,
    "spike_attention": lambda x, _: kernels.spike_attention(x, 2),
    "group_attention": lambda x, _: kernels.group_attention(x, torch.zeros(2, 4, 4), torch.arange(12).view(3, 4)),
    "rel_psp": lambda x, _: kernels.rel_psp(x),
    "rel_psp with a pool": lambda x, _: kernels.rel_psp(x, pool=2),
    "spike_conv2d": lambda x, _: kernels.spike_conv2d(x[0], values(5, 6, 3, 3).float(), padding=1),
    "psp_conv2d": lambda x, _: kernels.psp_conv2d(x, values(5, 6, 3, 3).float(), padding=1),
    "depthwise_conv2d": lambda x, _: kernels.depthwise_conv2d(x[0], values(12, 1, 3, 3).float()),
}


def outputs_and_gradient(call: Callable[[Tensor, Dynamics], Any], x: Tensor, neuron: Dynamics) -> list[Tensor]:
    x = x.detach().requires_grad_()
    found = call(x, neuron)
    outputs = [found] if isinstance(found, Tensor) else [y for y in found if y.numel()]
    loss = torch.stack([y.sum() for y in outputs if y.requires_grad]).sum()
    return [*outputs, *torch.autograd.grad(loss, x)]


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("op", list(CALLS))
def test_nan_is_where_the_reference_has_it(op: str, sparse: bool) -> None:
    x = maps(2, 2, 6, 4, 3, nan_at=AT if "spike_conv" not in op else (0, *AT[1:]), sparse=sparse)
    found = outputs_and_gradient(CALLS[op], x, Dynamics(0.6, 0.47, 0.87))
    with use_backend("reference"):
        expected = outputs_and_gradient(CALLS[op], x, Dynamics(0.6, 0.47, 0.87))
    for actual, truth in zip(found, expected, strict=True):
        assert torch.equal(actual.isnan(), truth.isnan())


def test_statistics_of_a_batch_with_nan_are_nan() -> None:
    spikes, mean, variance = kernels.norm_lif(maps(2, 2, 6, 4, 3, nan_at=AT), *NUMBERS, Dynamics())
    expected = torch.arange(6) == AT[2]
    assert torch.equal(mean.isnan(), expected) and torch.equal(variance.isnan(), expected)
    assert not spikes.isnan().any()


@pytest.mark.parametrize("surrogate", list(SURROGATES))
def test_the_gradient_through_a_neuron_is_nan_where_its_surrogate_s_is(surrogate: str) -> None:
    neuron = Dynamics(0.6, 0.47, 0.87, surrogate=SURROGATES[surrogate])
    x = maps(3, 2, 6, 4, 3, nan_at=AT)
    found = outputs_and_gradient(kernels.lif, x, neuron)[-1]
    with use_backend("reference"):
        expected = outputs_and_gradient(kernels.lif, x, neuron)[-1]
    assert torch.equal(found.isnan(), expected.isnan())


@pytest.mark.parametrize("density", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_that_is_not_finite_reaches_the_weights_whatever_spikes(dtype: torch.dtype, density: float) -> None:
    kept = torch.rand(3, 6, 5, 5, generator=torch.Generator().manual_seed(0)) < density
    x = kept.to(dtype).contiguous(memory_format=torch.channels_last)
    weight = values(5, 6, 3, 3).to(dtype)
    grad = torch.ones(3, 5, 5, 5, dtype=dtype)
    grad[1, 2, 2, 2] = torch.nan

    def of_weight(**backend: str) -> Tensor:
        learnt = weight.clone().requires_grad_()
        y = kernels.spike_conv2d(x, learnt, padding=1, **backend)
        return torch.autograd.grad(y, learnt, grad)[0]

    found, expected = of_weight(), of_weight(backend="reference")
    assert expected[2].isnan().all() and torch.equal(found.isnan(), expected.isnan())
