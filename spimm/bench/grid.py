"""Cases of the ops without neurons in a SpikeAtConv block, forward and backward: ours against the same in torch.

The sizes are those of the first stage of Tiny at 224x224, from spikes. Checked against the reference in float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from spimm.bench.agreement import near
from spimm.bench.precision import PRECISIONS
from spimm.bench.registry import Options, Plan, Ratio, register_case
from spimm.bench.timing import stopwatch
from spimm.kernels import depthwise_conv2d, group_attention
from spimm.layers import THRESHOLDS, GroupAttention

RATE = 0.25
TOLERANCES = {"fp32": 1e-5, "bf16": 2e-2}
SIZE, BATCH = (56, 56), 4
QUICK_SIZE = (14, 14)


@dataclass
class Op:
    """One op on inputs of its own. `call` takes them and a backend."""

    call: Callable[..., Tensor]
    leaves: Sequence[Tensor]
    grad: Tensor
    found: tuple[Tensor, ...] = field(default=(), init=False)

    def __call__(self, backend: str) -> None:
        self.found = ()
        leaves = [leaf.requires_grad_() for leaf in self.leaves]
        output = self.call(*leaves, backend=backend)
        self.found = (output.detach(), *torch.autograd.grad(output, leaves, self.grad))

    def double(self) -> "Op":
        """The same values in float64."""
        return Op(self.call, [leaf.detach().double() for leaf in self.leaves], self.grad.double())


def _spikes(*shape: int, dtype: torch.dtype) -> Tensor:
    """Channels-last, of the shape [..., C, H, W] from [..., H, W, C]."""
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < RATE).to(dtype).movedim(-1, -3)


def _normal(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def _depthwise(
    size: tuple[int, int], dtype: torch.dtype, *, channels: int, out_chans: int, stride: int
) -> tuple[Op, dict[str, Any]]:
    branches = len(THRESHOLDS["mbpl"])
    x = _spikes(BATCH, *size, branches * channels, dtype=dtype)
    weight = _normal(branches * out_chans, 1, 7, 7, dtype=dtype)
    grad = _normal(BATCH, size[0] // stride, size[1] // stride, out_chans, dtype=dtype).movedim(-1, 1)
    call = partial(depthwise_conv2d, stride=stride, branches=branches)
    return Op(call, [x, weight], grad), {"x": list(x.shape), "weight": list(weight.shape), "stride": stride}


def _group_attention(size: tuple[int, int], dtype: torch.dtype) -> tuple[Op, dict[str, Any]]:
    core = GroupAttention(2, 7, torch.nn.Identity())
    qkv, positions = _spikes(1, BATCH, *size, 3 * 64, dtype=dtype), core.size**2
    members, bias = core.members(*size), _normal(core.num_heads, positions, positions, dtype=torch.float32)
    grad = _normal(1, BATCH, *size, 64, dtype=dtype).movedim(-1, 2)

    def call(qkv: Tensor, bias: Tensor, backend: str) -> Tensor:
        return group_attention(qkv, bias, members, backend=backend)

    return Op(call, [qkv, bias], grad), {"qkv": list(qkv.shape), "members": list(members.shape)}


def _plan(make: Callable[..., tuple[Op, dict[str, Any]]], options: Options) -> Plan:
    made = {precision: make(QUICK_SIZE if options.quick else SIZE, dtype) for precision, dtype in PRECISIONS.items()}
    sides = {
        f"{name} {precision}": stopwatch(partial(op, backend))
        for precision, (op, _) in made.items()
        for name, backend in (("spimm", "cpu"), ("torch", "reference"))
    }
    return Plan(
        setting={**made["fp32"][1], "rate": RATE, "direction": "forward and backward"},
        check=lambda: {key: value for name, (op, _) in made.items() for key, value in _differences(name, op).items()},
        sides=sides,
        ratios=[Ratio(f"torch {precision}", f"spimm {precision}") for precision in made],
        warmup=1 if options.quick else 3,
        repeats=2 if options.quick else 15,
    )


def _differences(precision: str, op: Op) -> dict[str, float]:
    exact, found = op.double(), {}
    exact("reference")
    for name, backend in (("spimm", "cpu"), ("torch", "reference")):
        op(backend)
        for part, actual, expected in zip(("output", "x", "parameter"), op.found, exact.found, strict=True):
            what = f"{name} {precision}: {part if part == 'output' else 'gradient of ' + part}"
            found[what] = near(actual, expected, tolerance=TOLERANCES[precision], what=what)
    return found


_CASES = {
    "depthwise_branches": ("four branches, 7x7", partial(_depthwise, channels=64, out_chans=64, stride=1)),
    "depthwise_opening": (
        "the same with stride 2, 64 to 128",
        partial(_depthwise, channels=64, out_chans=128, stride=2),
    ),
}

for _name, (_about, _make) in _CASES.items():
    register_case(_name, f"depth-wise convolution of MBPL's branches and their sum: {_about}; forward and backward")(
        partial(_plan, _make)
    )

register_case("group_attention", "softmax attention in a grid of 7x7 tokens, 2 heads of 32; forward and backward")(
    partial(_plan, _group_attention)
)
