"""Softmax attention within groups: torch's values, and gradients of qkv and bias."""

from typing import Any

import pytest
import torch
from torch import Tensor

from spimm.kernels import group_attention, list_backends
from spimm.kernels.group_attention.reference import group_attention as truth

from .conftest import assert_near, covering, values
from .test_compile import CHECKS, opcheck_warnings

ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 2**-6}
# T, B, height, width, groups of so many positions, width of a head
SIZES = {
    "one token": (1, 1, 1, 1, 1, 4),
    "grid": (2, 2, 4, 6, 12, 32),
    "filled up": (1, 3, 5, 3, 4, 16),
    "odd": (3, 1, 7, 7, 49, 5),
    "wide": (1, 2, 3, 13, 39, 72),
    "many tokens": (1, 1, 10, 13, 130, 8),
}
FACTORS = {
    "dtype": list(ROUNDING),
    "size": list(SIZES),
    "heads": [1, 3],
    "shared": [True, False],
    "spikes": [True, False],
    "layout": ["channels-last", "nchw"],
    "threads": [1, 2],
}


def dealt(tokens: int, positions: int) -> Tensor:
    """Tokens in any order in groups of so many, -1 in the last places of some."""
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(4))
    groups = -(-tokens // positions)
    members = torch.full((groups * positions,), -1)
    members[torch.arange(tokens) * len(members) // tokens] = order
    return members.view(groups, positions)


@pytest.mark.parametrize("case", covering(FACTORS))
@pytest.mark.parametrize("backend", list_backends("group_attention"))
def test_output_and_gradients_agree_with_the_reference(case: dict[str, Any], backend: str, with_threads: Any) -> None:
    dtype, heads, shared = case["dtype"], case["heads"], case["shared"]
    num_steps, samples, height, width, positions, head_width = SIZES[case["size"]]
    with_threads(case["threads"])
    inputs = 1 if shared else 3
    members = dealt(height * width, positions)
    qkv = values(num_steps, samples, inputs * heads * head_width, height, width, seed=0)
    qkv = (qkv > 0.4).double() if case["spikes"] else qkv.to(dtype).double()
    bias = values(heads, positions, positions, seed=1).float().double()
    exact = [qkv.requires_grad_(), bias.requires_grad_()]
    expected = truth(*exact, members, shared=shared)
    grad = values(*expected.shape, seed=2).to(dtype)
    expected_grads = torch.autograd.grad(expected, exact, grad.double())

    x = qkv.detach().to(dtype)
    if case["layout"] == "channels-last":
        x = x.movedim(2, -1).contiguous().movedim(-1, 2)
    given = [x.requires_grad_(), bias.detach().float().requires_grad_()]
    found = group_attention(*given, members, shared=shared, backend=backend)
    assert found.dtype == dtype
    assert_near(found, expected, ROUNDING[dtype], "output")
    for name, actual, wanted in zip(
        ("qkv", "bias"), torch.autograd.grad(found, given, grad), expected_grads, strict=True
    ):
        assert actual.dtype == (dtype if name == "qkv" else torch.float32)
        assert_near(actual, wanted, ROUNDING[dtype], f"gradient of {name}")


def test_a_group_attends_to_itself_alone() -> None:
    qkv, members = values(1, 1, 3 * 4, 2, 4).float(), torch.tensor([[0, 2, 4, 6], [1, 3, 5, 7]])
    bias = torch.zeros(1, 4, 4)
    before = group_attention(qkv, bias, members)
    qkv.view(12, 8)[:, 1] += 3
    changed = (group_attention(qkv, bias, members) - before).abs().amax(2).flatten() > 1e-6
    assert changed.tolist() == [False, True] * 4


def test_larger_groups_are_served_by_the_reference() -> None:
    qkv, members, bias = values(1, 1, 3, 1, 257).float(), torch.arange(257)[None], torch.zeros(1, 257, 257)
    torch.testing.assert_close(group_attention(qkv, bias, members), truth(qkv, bias, members, shared=False))
    with pytest.raises(RuntimeError, match="groups of up to 256 tokens"):
        group_attention(qkv, bias, members, backend="cpu")


@pytest.mark.parametrize(
    ("qkv", "bias", "members"),
    [((1, 1, 4, 2, 2), (1, 4, 4), (1, 4)), ((1, 6, 2, 2), (1, 4, 4), (1, 4)), ((1, 1, 6, 2, 2), (4, 4), (1, 4)),
     ((1, 1, 6, 2, 2), (1, 3, 4), (1, 4)), ((1, 1, 6, 2, 2), (3, 4, 4), (1, 4))],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_named(
    qkv: tuple[int, ...], bias: tuple[int, ...], members: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"has shape \("):
        group_attention(torch.zeros(qkv), torch.zeros(bias), torch.zeros(members, dtype=torch.int32))


@opcheck_warnings
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dtype", list(ROUNDING))
def test_it_is_a_sound_op(dtype: torch.dtype, shared: bool) -> None:
    qkv = values(2, 1, 2, 3, 4 if shared else 12).to(dtype).movedim(-1, 2)
    bias, members = values(2, 3, 3).float(), dealt(6, 3)
    inputs = (qkv.requires_grad_(), bias.requires_grad_(), members, shared)
    torch.library.opcheck(torch.ops.spimm.group_attention.default, inputs, test_utils=CHECKS)
    grad = group_attention(qkv, bias, members, shared=shared).detach()
    arguments = (grad, qkv.detach(), bias.detach(), members, shared)
    torch.library.opcheck(torch.ops.spimm.group_attention_backward.default, arguments, test_utils=CHECKS)
