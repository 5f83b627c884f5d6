"""torch.func and gradients of gradients on whole networks of every family."""

import logging

import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm.kernels import use_backend

from .conftest import lively
from .test_gradients import FAMILIES, pictures

# torch's own, when its rules of forward mode are imported
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
every_family = pytest.mark.parametrize("family", FAMILIES)


def network(family: str) -> tuple[nn.Module, Tensor]:
    name, options = FAMILIES[family]
    steps = {} if family == "ttfs" else {"num_steps": 2}
    return lively(spimm.create_model(name, num_classes=5, **options, **steps).eval()), pictures(name, 2, 1).float()


def penalty(net: nn.Module, x: Tensor) -> Tensor:
    """How large the gradient of a loss is at the images."""
    loss = nn.functional.cross_entropy(net(x), torch.tensor([0, 4]))
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    return grad.square().sum()


@every_family
def test_a_gradient_penalty_is_the_references(family: str) -> None:
    net, x = network(family)
    found = []
    for backend in ("auto", "reference"):
        with use_backend(backend):
            grads = torch.autograd.grad(
                penalty(net, x.clone().requires_grad_()),
                list(net.parameters()),
                allow_unused=True,
                materialize_grads=True,
            )
        found.append(torch.cat([grad.flatten() for grad in grads]))
    assert found[1].norm() > 0
    assert (found[0] - found[1]).norm() < 0.02 * found[1].norm()


@every_family
def test_transforms_of_a_network_agree_with_calls(family: str) -> None:
    net, x = network(family)
    parameters = {name: value.detach() for name, value in net.named_parameters()}
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        logits = torch.func.functional_call(net, parameters, (x,))
        return (logits * torch.arange(1, 6)).sum()

    leaf = x.clone().requires_grad_()
    with use_backend("reference"):
        of_image, *expected = torch.autograd.grad(loss(dict(net.named_parameters()), leaf), [leaf, *net.parameters()])
    found = torch.func.grad(loss)(parameters, x)
    for name, truth in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[name], truth, rtol=1e-3, atol=1e-4 * float(truth.abs().max() + 1))
    slope = torch.func.jvp(lambda z: loss(parameters, z), (x,), (direction,))[1]
    torch.testing.assert_close(slope, (of_image * direction).sum(), rtol=1e-2, atol=1e-3)
    with torch.no_grad():
        logits = torch.func.vmap(lambda image: net(image[None])[0])(x)
        with use_backend("reference"):
            torch.testing.assert_close(logits, net(x), rtol=1e-3, atol=1e-4)


def test_pixels_are_checked_within_a_transform(caplog: pytest.LogCaptureFixture) -> None:
    net, x = network("ttfs")
    with torch.no_grad(), pytest.raises(ValueError, match="wanted values in"):
        torch.func.vmap(lambda image: net(image[None])[0])(x * 2)


def test_leaving_the_compiled_backend_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spimm.kernels import dispatch, second

    monkeypatch.setattr(dispatch, "_logged", set())
    monkeypatch.setattr(second, "_logged", set())
    net, x = network("resnet")
    with caplog.at_level(logging.INFO, "spimm.kernels"):
        penalty(net, x.clone().requires_grad_())
        torch.func.grad(lambda z: net(z).sum())(x)
    said = [record.getMessage() for record in caplog.records]
    assert said.count("second derivatives of norm_lif run on backend reference") == 1
    assert said.count("norm_lif runs on backend reference (for transforms of torch.func)") == 1
