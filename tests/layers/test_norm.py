import pytest
import torch
from torch import Tensor, nn

from spimm.layers.norm import batch_norm, norm_neuron
from spimm.neurons import LIF

from .conftest import is_channels_last, steps


def make_norm(**settings: object) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(6, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, 6))
        norm.bias.copy_(torch.linspace(-0.5, 0.5, 6))
    return norm


def running(norm: nn.BatchNorm2d) -> list[Tensor]:
    return [norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()]


def assert_all_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("settings", [{}, {"momentum": 0.3}, {"momentum": None}, {"track_running_stats": False}])
def test_norm_over_time_equals_torch_batch_norm_on_the_folded_steps(
    settings: dict[str, object], training: bool, dtype: torch.dtype
) -> None:
    ours, theirs = (make_norm(**settings).to(dtype).train(training) for _ in range(2))
    for seed in range(2):
        x = steps(4, 3, 6, 5, 7, seed=seed).to(dtype)
        mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, expected = batch_norm(mine, ours), theirs(other.flatten(0, 1)).unflatten(0, (4, 3))
        weights = steps(4, 3, 6, 5, 7, seed=9).to(dtype)
        gradients = torch.autograd.grad((y * weights).sum(), [mine, *ours.parameters()])
        true_gradients = torch.autograd.grad((expected * weights).sum(), [other, *theirs.parameters()])
        assert_all_close([y, *gradients], [expected, *true_gradients])
        assert is_channels_last(y)
    if ours.running_mean is not None:
        assert_all_close(running(ours), running(theirs))


@pytest.mark.parametrize("training", [True, False])
def test_the_fused_op_equals_norm_and_then_neuron(training: bool) -> None:
    fused, apart = make_norm().train(training), make_norm().train(training)
    x = steps(4, 3, 6, 5, 7)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    spikes, expected = norm_neuron(mine, fused, LIF()), LIF()(batch_norm(other, apart))
    assert torch.equal(spikes, expected)
    assert is_channels_last(spikes)
    weights = steps(4, 3, 6, 5, 7, seed=9)
    actual = torch.autograd.grad((spikes * weights).sum(), [mine, *fused.parameters()])
    assert_all_close(list(actual), list(torch.autograd.grad((expected * weights).sum(), [other, *apart.parameters()])))
    assert_all_close(running(fused), running(apart))


@pytest.mark.parametrize("fused", [True, False])
def test_running_statistics_of_a_shared_input_are_those_of_the_repeated_one(fused: bool) -> None:
    shared, repeated = make_norm(), make_norm()
    x = steps(1, 2, 6, 2, 3)  # few values: the unbiased variance of 12 and of 96 values differ by 8 %
    if fused:
        norm_neuron(x, shared, LIF(), 8)
        norm_neuron(x.repeat(8, 1, 1, 1, 1), repeated, LIF())
    else:
        batch_norm(x, shared, 8)
        batch_norm(x.repeat(8, 1, 1, 1, 1), repeated)
    assert_all_close(running(shared), running(repeated))
    plain = make_norm()
    plain(x.repeat(8, 1, 1, 1, 1).flatten(0, 1))
    assert_all_close(running(shared), running(plain))


@pytest.mark.parametrize("fused", [True, False])
def test_evaluation_leaves_the_statistics_alone(fused: bool) -> None:
    norm = make_norm().eval()
    before = running(norm)
    if fused:
        norm_neuron(steps(2, 2, 6, 4, 4), norm, LIF())
    else:
        batch_norm(steps(2, 2, 6, 4, 4), norm)
    assert all(torch.equal(a, b) for a, b in zip(running(norm), before, strict=True))


@pytest.mark.parametrize("fused", [True, False])
def test_one_value_a_channel_cannot_be_normalised(fused: bool) -> None:
    x, norm = steps(1, 1, 6, 1, 1), make_norm()
    with pytest.raises(ValueError, match=r"needs two values a channel; an input \(1, 1, 6, 1, 1\) has 1"):
        norm_neuron(x, norm, LIF()) if fused else batch_norm(x, norm)
    assert norm.num_batches_tracked == 0
    norm.eval()
    assert (norm_neuron(x, norm, LIF()) if fused else batch_norm(x, norm)).isfinite().all()
    two = steps(1, 2, 6, 1, 1)
    assert (norm_neuron(two, norm.train(), LIF()) if fused else batch_norm(two, norm.train())).isfinite().all()
