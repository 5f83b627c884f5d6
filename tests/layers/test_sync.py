"""Batch norm over the images of two ranks against one process that has them all."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from spimm.layers import SyncBatchNorm2d, sync_norms
from spimm.layers.norm import batch_norm, norm_neuron, norm_pool_neuron
from spimm.neurons import LIF, MultiLIF

from ..train.ranks import on_ranks

STEPS, IMAGES = 4, 6
Op = Callable[[Tensor, nn.BatchNorm2d, int | None, Tensor], Tensor]
OPS: dict[str, Op] = {
    "norm": lambda x, norm, steps, added: batch_norm(x, norm, steps).expand(STEPS, *x.shape[1:]),
    "neuron": lambda x, norm, steps, added: norm_neuron(x, norm, LIF(), steps, added),
    "adds_first": lambda x, norm, steps, added: norm_neuron(x, norm, LIF(), steps, added, adds_first=True),
    "several": lambda x, norm, steps, added: norm_neuron(x, norm, MultiLIF(LIF(), (0.5, 1.0)), steps, added),
    "pool": lambda x, norm, steps, added: norm_pool_neuron(x, norm, LIF(), steps),
}


def outcome(op: Op, norm: nn.BatchNorm2d, x: Tensor, added: Tensor, weights: Tensor) -> list[Tensor]:
    """Result, gradients of x, weight and bias, running statistics."""
    x = x.clone().requires_grad_()
    y = op(x, norm, STEPS, added)
    height, width = y.shape[-2:]
    loss = (y * weights[..., :height, :width]).sum()
    assert norm.running_mean is not None and norm.running_var is not None
    return [y.detach(), *torch.autograd.grad(loss, [x, *norm.parameters()]), norm.running_mean, norm.running_var]


def hooked(model: nn.Module) -> nn.Module:
    """Ours, each norm with a hook."""
    sync_norms(model)
    for module in model:
        module.register_forward_hook(lambda *_: None)
    return model


CONVERTERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "ours": sync_norms,
    "torch's": nn.SyncBatchNorm.convert_sync_batchnorm,
    "torch's, then ours": lambda model: sync_norms(nn.SyncBatchNorm.convert_sync_batchnorm(model)),
    "hooked": hooked,
}


@pytest.mark.parametrize("converter", CONVERTERS)
def test_every_op_over_two_ranks_equals_the_op_on_all_images(converter: str, one_thread: None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    cases, dtypes = [], {torch.float64: 1e-12, torch.float32: 2e-5}
    for name in OPS:
        for dtype, tolerance in list(dtypes.items())[: 2 if converter == "ours" else 1]:
            for steps in (STEPS, 1):
                norm = nn.BatchNorm2d(6).to(dtype)
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                x = 2 * torch.randn(steps, IMAGES, 6, 6, 5, dtype=dtype) + 1
                added, weights = torch.randn(2, STEPS, IMAGES, 6, 6, 5, dtype=dtype)
                cases.append((name, tolerance, norm, x, added, weights))

    def share(rank: int) -> list[list[list[float]]]:
        mine = slice(0, 4) if rank == 0 else slice(4, IMAGES)  # shares of different size
        results = []
        for name, _, norm, x, added, weights in cases:
            synced = CONVERTERS[converter](nn.Sequential(deepcopy(norm)))[0]
            assert isinstance(synced, SyncBatchNorm2d | nn.SyncBatchNorm)
            results.append([t.tolist() for t in outcome(OPS[name], synced, *(t[:, mine] for t in (x, added, weights)))])
        return results

    first, second = on_ranks(2, tmp_path, share)
    for (name, tolerance, norm, *tensors), one, other in zip(cases, first, second, strict=True):
        whole = outcome(OPS[name], norm, *tensors)
        ours, theirs = ([torch.tensor(t, dtype=norm.weight.dtype) for t in part] for part in (one, other))
        joined = [torch.cat(pair, 1) for pair in zip(ours[:2], theirs[:2], strict=True)]
        summed = [a + b for a, b in zip(ours[2:4], theirs[2:4], strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(ours[4:], theirs[4:], strict=True))
        for a, b in zip([*joined, *summed, *ours[4:]], whole, strict=True):
            assert (a - b).abs().max() <= tolerance * b.abs().max(), name


@pytest.mark.parametrize("training", [True, False])
def test_on_one_process_it_is_batch_norm(training: bool) -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(6).train(training)
    synced = sync_norms(nn.Sequential(deepcopy(plain)))[0]
    x = torch.randn(4, 6, 5, 5)
    assert torch.equal(synced(x), plain(x.contiguous(memory_format=torch.channels_last)))
    assert torch.equal(synced.running_var, plain.running_var)


def test_the_model_keeps_its_parameters_and_its_state() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Sequential(nn.BatchNorm2d(6, momentum=0.3)))
    parameters, state = list(model.parameters()), model.state_dict()
    synced = sync_norms(model.eval())
    assert all(a is b for a, b in zip(synced.parameters(), parameters, strict=True))
    assert synced.state_dict().keys() == state.keys()
    assert (synced[1][0].momentum, synced[1][0].training) == (0.3, False)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.BatchNorm2d(4, affine=False)])
def test_norms_that_it_does_not_serve_are_named(norm: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"0 is BatchNorm.*is for BatchNorm2d with weight and bias"):
        sync_norms(nn.Sequential(norm))


def test_second_derivatives_over_ranks_are_refused(one_thread: None, tmp_path: Path) -> None:
    x = torch.randn(4, 6, 5, 5, dtype=torch.float64)

    def share(rank: int) -> str:
        norm = sync_norms(nn.Sequential(nn.BatchNorm2d(6).double()))
        own = x[2 * rank : 2 * rank + 2].clone().requires_grad_()
        try:
            torch.autograd.grad((norm(own) ** 3).sum(), own, create_graph=True)
        except RuntimeError as error:
            return str(error)
        return ""

    assert all("has no second derivatives" in said for said in on_ranks(2, tmp_path, share))
