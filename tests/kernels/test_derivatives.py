"""Derivatives beyond a backward pass, of every op with a compiled backend: those of the reference, or an error."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from spimm import kernels
from spimm.kernels import Dynamics, use_backend

from .conftest import values

# torch's own, when its rules of forward mode are imported
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")

Leaves = dict[str, Tensor]
SHAPE = (3, 2, 4, 4, 6)  # T, B, C, H, W
MEMBERS = torch.arange(24).view(4, 6)


def learnt(y: Leaves) -> Dynamics:
    return Dynamics(y["decay"], 0.5, y.get("threshold", 0.4), -0.25, False)


def leaves(**shapes: tuple[int, ...]) -> Leaves:
    """A positive number under these names, random values elsewhere."""
    fixed = {"decay": 0.6, "threshold": 0.4, "weight1": 1.3}
    return {
        name: torch.full(shape, fixed[name]) if name in fixed else values(*shape, scale=1.5, seed=seed).float()
        for seed, (name, shape) in enumerate(shapes.items())
    }


def norm(y: Leaves, *, given: bool = False, **more: Any) -> dict[str, Any]:
    statistics = {"mean": torch.full((4,), 0.1), "variance": torch.full((4,), 0.7)} if given else {}
    return {"x": y["x"], "weight": y["weight"], "bias": y["bias"], "dynamics": learnt(y), **statistics, **more}


SCALARS: dict[str, tuple[int, ...]] = {"decay": (), "threshold": ()}
NORM: dict[str, tuple[int, ...]] = {"x": SHAPE, "weight": (4,), "bias": (4,), **SCALARS}
DOUBLE = (3, 2, 8, 4, 6)
CASES: dict[str, tuple[Leaves, Callable[[Leaves], Any]]] = {
    "lif": (leaves(x=SHAPE, v=SHAPE[1:], **SCALARS), lambda y: kernels.lif(y["x"], learnt(y), y["v"])),
    "lif, shared input": (
        leaves(x=(1, *SHAPE[1:]), **SCALARS),
        lambda y: kernels.lif(y["x"], learnt(y), num_steps=3, keep_v=False)[0],
    ),
    "multi_lif": (leaves(x=SHAPE, decay=()), lambda y: kernels.multi_lif(y["x"], Dynamics(y["decay"]), (0.2, 0.9))),
    "multi_lif, concat": (
        leaves(x=SHAPE),
        lambda y: kernels.multi_lif(y["x"], Dynamics(), (0.2, 0.9), combine="concat"),
    ),
    "norm_lif": (
        leaves(**NORM, residual=SHAPE, added=SHAPE),
        lambda y: kernels.norm_lif(**norm(y, residual=y["residual"], added=y["added"]))[0],
    ),
    "norm_lif, given statistics": (leaves(**NORM), lambda y: kernels.norm_lif(**norm(y, given=True))[0]),
    "norm_lif, thresholds": (
        leaves(x=SHAPE, weight=(4,), bias=(4,), decay=()),
        lambda y: kernels.norm_lif(**norm(y, thresholds=(0.2, 0.9)))[0],
    ),
    "norm_lif_membrane": (
        leaves(**NORM, residual=SHAPE),
        lambda y: kernels.norm_lif_membrane(**norm(y, residual=y["residual"]))[:2],
    ),
    "norm_pool_lif": (leaves(**NORM), lambda y: kernels.norm_pool_lif(**norm(y))[0]),
    "token_mask": (leaves(x=DOUBLE, **SCALARS), lambda y: kernels.token_mask(y["x"], learnt(y), 2)[0]),
    "channel_mask": (leaves(x=DOUBLE, **SCALARS), lambda y: kernels.channel_mask(y["x"], learnt(y))[0]),
    "spike_attention": (leaves(x=(3, 2, 12, 4, 6)), lambda y: kernels.spike_attention(y["x"], 2, 0.3)),
    "group_attention": (
        leaves(x=(3, 2, 12, 4, 6), bias=(2, 6, 6)),
        lambda y: kernels.group_attention(y["x"], y["bias"], MEMBERS),
    ),
    "spike_conv2d": (
        leaves(x=(2, 3, 5, 6), w=(4, 3, 3, 3), bias=(4,)),
        lambda y: kernels.spike_conv2d(y["x"], y["w"], y["bias"], padding=1),
    ),
    "depthwise_conv2d": (
        leaves(x=(2, 6, 5, 6), w=(6, 1, 3, 3), bias=(3,)),
        lambda y: kernels.depthwise_conv2d(y["x"], y["w"], y["bias"], branches=2),
    ),
    "psp_conv2d": (leaves(x=(2, 2, 3, 5, 6), w=(4, 3, 3, 3)), lambda y: kernels.psp_conv2d(y["x"], y["w"], padding=1)),
    "psp_linear": (leaves(x=(2, 3, 5), w=(4, 5)), lambda y: kernels.psp_linear(y["x"], y["w"])),
    "rel_psp": (leaves(x=(2, 3, 4, 6, 6)), lambda y: kernels.rel_psp(y["x"], pool=2)),
    "rel_psp, clipped": (leaves(x=(2, 40)), lambda y: kernels.rel_psp(y["x"], clip=1.5)),
}
every_op = pytest.mark.parametrize("case", CASES)


def loss(call: Callable[[Leaves], Any], y: Leaves, *, square: bool = False) -> Tensor:
    """A fixed weighted sum of all results, or of their squares."""
    results = call(y)
    results = (results,) if isinstance(results, Tensor) else results
    weighted = [(r * r if square else r) * torch.arange(1, r.numel() + 1).sin().view(r.shape) for r in results]
    return torch.stack([w.sum() for w in weighted]).sum()


def with_grad(y: Leaves) -> Leaves:
    return {name: tensor.clone().requires_grad_() for name, tensor in y.items()}


def second_order(call: Callable[[Leaves], Any], y: Leaves, backend: str) -> list[Tensor]:
    """The gradients of a loss, and those of a penalty on them."""
    y = with_grad(y)
    with use_backend(backend):
        first = torch.autograd.grad(loss(call, y, square=True), list(y.values()), create_graph=True)
        penalty = sum((grad * grad).sum() for grad in first)
        assert isinstance(penalty, Tensor)
        second = torch.autograd.grad(penalty, list(y.values()), allow_unused=True, materialize_grads=True)
    return [*(grad.detach() for grad in first), *second]


@every_op
def test_gradients_of_gradients_are_the_references(case: str) -> None:
    y, call = CASES[case]
    expected = second_order(call, y, "reference")
    assert any(grad.any() for grad in expected[len(y) :])
    scale = max(float(grad.abs().max()) for grad in expected)  # what the sums of either sign are made of
    for found, truth in zip(second_order(call, y, "auto"), expected, strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-3, atol=1e-4 * scale)


@every_op
def test_forward_mode_agrees_with_the_backward_pass(case: str) -> None:
    y, call = CASES[case]
    tangents = {name: values(*tensor.shape, seed=20 + i).float() for i, (name, tensor) in enumerate(y.items())}
    grads = torch.autograd.grad(loss(call, z := with_grad(y)), list(z.values()))
    expected = torch.stack([(grad * tangents[name]).sum() for name, grad in zip(y, grads, strict=True)]).sum()
    found = torch.func.jvp(lambda z: loss(call, z), (y,), (tangents,))[1]
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(tensor, tangents[name]) for name, tensor in y.items()}
        dual = forward_ad.unpack_dual(loss(call, duals)).tangent
    assert expected != 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(dual, expected, rtol=1e-3, atol=1e-3)


@every_op
def test_transforms_of_functions_give_what_calls_give(case: str) -> None:
    y, call = CASES[case]
    expected = torch.autograd.grad(loss(call, z := with_grad(y)), list(z.values()))
    found = torch.func.grad(lambda z: loss(call, z))(y)
    for truth, name in zip(expected, y, strict=True):
        torch.testing.assert_close(found[name], truth, rtol=1e-3, atol=1e-4 * float(truth.abs().max() + 1))
    several = {name: torch.stack([tensor, tensor.flip(0) if tensor.dim() else tensor]) for name, tensor in y.items()}
    stacked = torch.func.vmap(lambda z: loss(call, z))(several)
    single = torch.stack([loss(call, {name: tensor[i] for name, tensor in several.items()}) for i in (0, 1)])
    torch.testing.assert_close(stacked, single, rtol=1e-3, atol=1e-3)


@every_op
def test_a_named_compiled_backend_refuses_transforms_and_names_the_way_out(case: str) -> None:
    y, call = CASES[case]
    with use_backend("cpu"), pytest.raises(RuntimeError, match=r"use_backend\('reference'\)"):
        torch.func.jvp(lambda z: loss(call, z), (y,), (y,))


def test_the_fused_inference_op_serves_forward_mode() -> None:
    weight, bias = values(4, 3, 3, 3, seed=1).float(), values(4, seed=2).float()
    x = values(3, 2, 3, 5, 6).float()

    def fused(x: Tensor) -> Tensor:
        return kernels.spike_conv2d_lif(x, weight, bias, Dynamics(), padding=1)

    def parts(x: Tensor) -> Tensor:
        z = torch.conv2d(x.flatten(0, 1), weight, bias, padding=1).unflatten(0, x.shape[:2])
        return kernels.lif(z, Dynamics())[0]

    found, expected = (torch.func.jvp(f, (x,), (x,))[1] for f in (fused, parts))
    assert expected.any()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_packed_inputs_have_no_second_derivatives_and_the_error_names_the_way_out(backend: str) -> None:
    x, weight = values(2, 3, 5, 6).gt(1).float().requires_grad_(), values(4, 3, 3, 3).float().requires_grad_()
    y = kernels.spike_conv2d(x, weight, padding=1, memory="packed", backend=backend)
    with pytest.raises(RuntimeError, match="set_memory"):
        torch.autograd.grad(y.square().sum(), (x, weight), create_graph=True)


def test_packed_inputs_without_a_gradient_of_their_own_have_second_derivatives() -> None:
    x, found = values(2, 3, 5, 6).gt(1).float(), []
    for memory in ("full", "packed"):
        weight = values(4, 3, 3, 3).float().requires_grad_()
        y = kernels.spike_conv2d(x, weight, padding=1, memory=memory)  # type: ignore[arg-type]
        (grad,) = torch.autograd.grad(y.pow(3).sum(), weight, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), weight)[0])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("dims", [(0,), (1,), (-2, -1), (0, 1, 2)], ids=str)
@every_op
def test_every_element_of_an_expanded_input_has_its_own_gradient(case: str, dims: tuple[int, ...]) -> None:
    y, call = CASES[case]

    def expanded(backend: str) -> tuple[Tensor, ...]:
        wide = {}
        for name, tensor in y.items():
            for dim in (d for d in dims if -tensor.dim() <= d < tensor.dim()):
                tensor = tensor.narrow(dim, 0, 1)
            wide[name] = tensor.expand(y[name].shape).requires_grad_()
        with use_backend(backend):
            return torch.autograd.grad(loss(call, wide), list(wide.values()))

    for found, truth in zip(expanded("auto"), expanded("reference"), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-3, atol=1e-4 * float(truth.abs().max() + 1))
