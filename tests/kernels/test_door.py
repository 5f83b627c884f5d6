"""No tensor reaches the compiled kernels unchecked: what is valid equals the reference, the rest is refused by name."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import spimm.kernels
from spimm import kernels
from spimm.kernels import Dynamics, use_backend
from spimm.kernels.door import Layout

from .conftest import values

KERNELS = Path(spimm.kernels.__file__).parent


def test_addresses_are_taken_at_the_door_alone() -> None:
    takers = [path.name for path in KERNELS.parent.rglob("*.py") if re.search(r"data_ptr|__dlpack__", path.read_text())]
    assert takers == ["door.py"]


def channels_last(x: Tensor, dim: int) -> Tensor:
    return x.movedim(dim, -1).contiguous().movedim(-1, dim)


LAYOUT = Layout.of(torch.float32, (2, 3, 4), last=1)


def test_a_layout_takes_the_address_of_what_lies_so_in_memory() -> None:
    x = channels_last(torch.zeros(2, 3, 4), 1)
    assert LAYOUT.address("x", x) == x.data_ptr()
    assert LAYOUT.address("x", None) == 0
    odd = torch.zeros(3 * 4).as_strided((1, 3, 4), (99, 1, 3))  # the stride of a dimension of one element means nothing
    assert Layout.of(torch.float32, (1, 3, 4), last=1).address("x", odd) == odd.data_ptr()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 4), r"x of shape \(2, 3, 4\) has strides \(12, 4, 1\); expected \(12, 1, 3\)"),
        (torch.zeros(2, 3, 1).expand(2, 3, 4), "strides"),
        (channels_last(torch.zeros(2, 3, 5), 1), r"x is \(2, 3, 5\), float32, on cpu; expected \(2, 3, 4\), float32"),
        (channels_last(torch.zeros(2, 3, 4), 1).bfloat16(), "x is .* bfloat16, on cpu; expected"),
        (channels_last(torch.zeros(2, 3, 4, device="meta"), 1), "x is .* on meta; expected"),
    ],
    ids=["order", "expanded", "shape", "dtype", "device"],
)
def test_a_layout_refuses_anything_else(x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LAYOUT.address("x", x)


def test_kernels_are_given_no_empty_tensor() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 0\) is empty"):
        Layout.of(torch.float32, (2, 0))


def maps(*shape: int, seed: int = 0) -> Tensor:
    """Sparse maps, channels-last."""
    x = values(*shape, seed=seed).float()
    return channels_last(x.where(x > 1, 0), -3)


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return values(*shape, seed=seed).float()


LIF = Dynamics(0.5, 0.5, 0.871)
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "lif": (kernels.lif, {"x": numbers(2, 2, 5, 4, 3), "dynamics": LIF, "v": numbers(2, 5, 4, 3)}),
    "multi_lif": (
        kernels.multi_lif,
        {"x": maps(2, 2, 5, 4, 3), "dynamics": LIF, "thresholds": torch.tensor([0.31, 1.23])},
    ),
    "norm_lif": (
        kernels.norm_lif,
        {"x": maps(2, 2, 5, 4, 3), "weight": numbers(5), "bias": numbers(5, seed=2), "dynamics": LIF,
         "mean": numbers(5, seed=3), "variance": numbers(5).abs() + 0.1, "residual": maps(2, 2, 5, 4, 3, seed=4),
         "added": maps(2, 2, 5, 4, 3, seed=5)},
    ),
    "norm_lif_membrane": (
        kernels.norm_lif_membrane,
        {"x": maps(2, 2, 5, 4, 3), "weight": numbers(5), "bias": numbers(5, seed=2), "dynamics": LIF,
         "residual": maps(2, 2, 5, 4, 3, seed=4)},
    ),
    "norm_pool_lif": (
        kernels.norm_pool_lif,
        {"x": maps(2, 2, 5, 4, 3), "weight": numbers(5), "bias": numbers(5, seed=2), "dynamics": LIF},
    ),
    "spike_conv2d": (
        kernels.spike_conv2d,
        {"x": maps(2, 8, 6, 6), "weight": numbers(16, 8, 3, 3), "bias": numbers(16), "padding": 1},
    ),
    "spike_conv2d_lif": (
        kernels.spike_conv2d_lif,
        {"x": maps(2, 2, 8, 6, 6), "weight": numbers(16, 8, 3, 3), "bias": numbers(16), "dynamics": LIF, "padding": 1,
         "added": maps(2, 2, 16, 6, 6, seed=6)},
    ),
    "psp_conv2d": (kernels.psp_conv2d, {"spikes": maps(2, 2, 8, 6, 6), "weight": numbers(4, 8, 3, 3), "padding": 1}),
    "psp_linear": (kernels.psp_linear, {"spikes": numbers(2, 3, 7), "weight": numbers(4, 7)}),
    "rel_psp": (kernels.rel_psp, {"drive": numbers(2, 2, 5, 6, 4), "pool": 2}),
    "token_mask": (kernels.token_mask, {"qk": maps(2, 2, 12, 4, 3), "dynamics": LIF, "num_heads": 3}),
    "channel_mask": (kernels.channel_mask, {"qk": maps(2, 2, 12, 4, 3), "dynamics": LIF}),
    "spike_attention": (kernels.spike_attention, {"qkv": maps(2, 2, 12, 4, 3), "num_heads": 2}),
    "group_attention": (
        kernels.group_attention,
        {"qkv": numbers(1, 2, 30, 4, 3), "bias": numbers(2, 4, 4), "members": torch.arange(12).view(3, 4)},
    ),
    "depthwise_conv2d": (
        kernels.depthwise_conv2d,
        {"x": maps(2, 6, 6, 5), "weight": numbers(12, 1, 3, 3), "bias": numbers(4), "branches": 3},
    ),
}  # fmt: skip
TENSORS = [(op, name) for op, (_, call) in CALLS.items() for name, value in call.items() if isinstance(value, Tensor)]


def run(op: str, **changed: Any) -> list[Tensor]:
    """Outputs, and the gradients of all that have one."""
    function, arguments = CALLS[op]
    arguments = arguments | changed
    with_gradient = op != "spike_conv2d_lif"
    leaves = {
        name: value.detach().requires_grad_()
        for name, value in arguments.items()
        if with_gradient
        and isinstance(value, Tensor)
        and value.is_floating_point()
        and name not in ("mean", "variance")
    }
    found = function(**(arguments | leaves))
    outputs = [found] if isinstance(found, Tensor) else list(found)
    sums = [(y * torch.linspace(0.5, 1, y.numel()).view(y.shape)).sum() for y in outputs if y.requires_grad]
    grads = torch.autograd.grad(torch.stack(sums).sum(), list(leaves.values()), allow_unused=True) if sums else []
    return [*outputs, *(torch.zeros(()) if grad is None else grad for grad in grads)]


GROUPS = ("group_attention", "members")  # integers that must not repeat; test_lif has the layouts of LIF's input
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "strided": lambda x: torch.stack([x, torch.full_like(x, 7)], -1)[..., 0],
    "expanded": lambda x: x[:1].expand_as(x),
    "reversed memory": lambda x: x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim()))),
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize(("op", "name"), [pair for pair in TENSORS if pair not in (("lif", "x"), GROUPS)])
def test_a_valid_tensor_gives_the_reference_s_result_in_any_layout(op: str, name: str, layout: str) -> None:
    tensor = LAYOUTS[layout](CALLS[op][1][name])
    found = run(op, **{name: tensor})
    with use_backend("reference"):
        expected = run(op, **{name: tensor})
    for actual, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, truth, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(("op", "name"), TENSORS)
def test_a_tensor_of_another_device_is_refused(op: str, name: str) -> None:
    elsewhere = CALLS[op][1][name].to("meta")
    if len([other for other, _ in TENSORS if other == op]) == 1:  # shapes are then worked out, without values
        assert all(y.is_meta for y in run_forward(op, **{name: elsewhere}))
        return
    with pytest.raises(ValueError, match=r" is on (meta|cpu); expected (cpu|meta)"):
        run_forward(op, **{name: elsewhere})


def run_forward(op: str, **changed: Any) -> list[Tensor]:
    function, arguments = CALLS[op]
    found = function(**(arguments | changed))
    return [found] if isinstance(found, Tensor) else list(found)


@pytest.mark.parametrize(("op", "name"), [pair for pair in TENSORS if pair not in (("lif", "x"), ("multi_lif", "x"))])
def test_a_tensor_of_another_shape_is_refused(op: str, name: str) -> None:
    tensor = CALLS[op][1][name]
    with pytest.raises(ValueError, match=r"shape|divide|thresholds"):
        run_forward(op, **{name: tensor[..., None]})
    if tensor.dim() == 1:
        with pytest.raises(ValueError, match=r"shape|thresholds"):
            run_forward(op, **{name: tensor[:-2]})


SAME_DTYPE = {
    "spike_conv2d": ["weight", "bias"],
    "spike_conv2d_lif": ["weight", "bias", "added"],
    "psp_conv2d": ["weight"],
    "psp_linear": ["weight"],
    "depthwise_conv2d": ["weight", "bias"],
}


@pytest.mark.parametrize(("op", "name"), [(op, name) for op, names in SAME_DTYPE.items() for name in names])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_tensor_of_another_dtype_is_refused_where_torch_refuses_it(op: str, name: str, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=rf"{name} has dtype {str(dtype)[6:]}; expected float32"):
        run_forward(op, **{name: CALLS[op][1][name].to(dtype)})


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([[0, 1], [2, 10**8]], "members holds .*100000000"),
        ([[0, 1], [2, 2**32 + 3]], "members holds"),
        ([[0, 1], [2, 2]], "members holds"),
        ([[0, 1], [2, -1]], "members holds 3 tokens"),
    ],
    ids=["outside", "outside in 32 bits", "twice", "left out"],
)
def test_members_are_each_of_the_tokens_once(members: list[list[int]], message: str, backend: str) -> None:
    with pytest.raises(ValueError, match=message + ".*; expected each of the tokens 0 to 3 once, or -1 for none"):
        kernels.group_attention(numbers(1, 2, 12, 2, 2), torch.zeros(1, 2, 2), torch.tensor(members), backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_convolution_of_nothing_is_nothing_or_torch_s_error(backend: str) -> None:
    weight = numbers(16, 8, 3, 3)
    assert kernels.spike_conv2d(torch.zeros(0, 8, 6, 6), weight, padding=1, backend=backend).shape == (0, 16, 6, 6)
    with pytest.raises(RuntimeError, match="greater than actual input size"):
        kernels.spike_conv2d(torch.zeros(2, 8, 0, 6), weight, padding=1, backend=backend)


def test_coefficients_of_a_neuron_are_one_number_each_where_the_input_is() -> None:
    with pytest.raises(ValueError, match=r"threshold has shape \(2,\); expected one element"):
        kernels.lif(numbers(2, 3), Dynamics(threshold=torch.ones(2)))
    with pytest.raises(ValueError, match="decay is on meta; expected cpu"):
        kernels.lif(numbers(2, 3), Dynamics(decay=torch.ones((), device="meta")))
