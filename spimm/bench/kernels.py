"""Cases of single ops: forward and backward of LIF alone and of batch norm + LIF.

Checked against the float64 reference on the same values, spikes and every gradient, and against the peer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from spimm.bench import peers
from spimm.bench.agreement import near, spike_parity
from spimm.bench.precision import PRECISIONS, compute_in
from spimm.bench.registry import Options, Plan, Ratio, register_case
from spimm.bench.timing import stopwatch
from spimm.kernels.lif import reference as lif_reference
from spimm.kernels.norm_lif import reference as norm_lif_reference
from spimm.layers.norm import norm_neuron
from spimm.neurons import LIF
from spimm.surrogate import spike

SHAPE = (4, 16, 96, 32, 32)  # [T, B, C, H, W]: the first stage of QKFormer 4-384 with 16 images of 32x32
QUICK_SHAPE = (2, 2, 5, 3, 4)
INPUT_SCALE = 1.5
EPS = 1e-5
LEAVES: tuple[str, ...] = ("x", "weight", "bias")


@dataclass(frozen=True)
class Tolerance:
    """Of potentials absolute, of gradients relative to their norm; `allowed` is a share of the neurons."""

    potential: float
    gradient: float
    allowed: float


# Our arithmetic is float32 whatever the storage; inputs that bfloat16 holds meet the threshold exactly more often.
OURS = {"fp32": Tolerance(1e-5, 1e-4, 1e-3), "bf16": Tolerance(1e-5, 1e-2, 1e-2)}
# The peer rounds the norm's output and the potentials to bfloat16: by up to 2^-5 below magnitude 16, of which half and,
# of earlier steps, a quarter, an eighth, ... reach the next potential.
PEER = {"fp32": OURS["fp32"], "bf16": Tolerance(2**-5, 0.1, 0.15)}


class Side:
    """Forward and backward of one op on inputs of its own. `spikes` and `gradients` are those of the last call."""

    def __init__(
        self, op: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor, parameters: list[Tensor], precision: str
    ):
        self.op, self.x, self.grad, self.precision = op, x.requires_grad_(), grad, precision
        self.leaves = dict(zip(LEAVES, (x, *parameters), strict=False))
        self.spikes: Tensor | None = None
        self.gradients: dict[str, Tensor] = {}

    def __call__(self) -> None:
        self.spikes, self.gradients = None, {}
        with compute_in(self.precision):
            spikes = self.op(self.x)
        found = torch.autograd.grad(spikes, list(self.leaves.values()), self.grad)  # as inside a network: no .grad of x
        self.spikes, self.gradients = spikes.detach(), dict(zip(self.leaves, found, strict=True))


@dataclass(frozen=True)
class Problem:
    """Input and upstream gradient, the same values for every side, and the norm's weight and bias if there is one."""

    x: Tensor
    grad: Tensor
    affine: tuple[Tensor, ...]

    @classmethod
    def make(cls, shape: tuple[int, ...], dtype: torch.dtype, *, norm: bool) -> "Problem":
        generator = torch.Generator().manual_seed(0)
        x, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
        affine = (torch.rand(shape[2], generator=generator) + 0.5, torch.rand(shape[2], generator=generator))
        return cls(x * INPUT_SCALE, grad, affine if norm else ())

    def side(self, module: nn.Module, op: Callable[[Tensor], Tensor], precision: str, *, channels_last: bool) -> Side:
        parameters: list[Tensor] = list(module.parameters())
        for parameter, value in zip(parameters, self.affine, strict=True):
            parameter.data.copy_(value)
        laid_out = _channels_last if channels_last else Tensor.clone
        return Side(op, laid_out(self.x), laid_out(self.grad), parameters, precision)

    def truth(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Spikes, potential minus threshold and gradients by the reference in float64."""
        leaves = [tensor.double().requires_grad_() for tensor in (self.x, *self.affine)]
        dynamics, num_steps, distances = LIF().dynamics(), len(self.x), []

        def fire(distance: Tensor) -> Tensor:
            distances.append(distance.detach())
            return spike(distance, dynamics.surrogate)

        if self.affine:
            x, weight, bias = leaves
            spikes, _, _ = norm_lif_reference.norm_lif(
                x, weight, bias, dynamics, None, None, None, num_steps=num_steps, eps=EPS, fire=fire
            )
        else:
            spikes, _ = lif_reference.lif(leaves[0], dynamics, num_steps=num_steps, fire=fire)
        gradients = torch.autograd.grad(spikes, leaves, self.grad.double())
        return spikes.detach(), torch.stack(distances), dict(zip(LEAVES, gradients, strict=False))


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(2, -1).contiguous().movedim(-1, 2)


def _check(problems: dict[str, Problem], sides: dict[str, Side]) -> dict[str, float]:
    found = {}
    for precision, problem in problems.items():
        spikes, distance, gradients = problem.truth()
        for library, tolerances in (("spimm", OURS), ("spikingjelly", PEER)):
            name = f"{library} {precision}"
            if name not in sides:
                continue
            side, tolerance = sides[name], tolerances[precision]
            side()
            assert side.spikes is not None
            share = spike_parity(
                side.spikes, spikes, distance, tolerance=tolerance.potential, allowed=tolerance.allowed, what=name
            )
            found[f"{name}: undecided share"] = share
            for leaf, expected in gradients.items():
                what = f"{name}: gradient of {leaf}"
                found[what] = near(side.gradients[leaf], expected, tolerance=tolerance.gradient, what=what)
    return found


def _plan(options: Options, *, norm: bool, goal: float | None) -> Plan:
    shape = QUICK_SHAPE if options.quick else SHAPE
    problems = {precision: Problem.make(shape, dtype, norm=norm) for precision, dtype in PRECISIONS.items()}
    sides: dict[str, Side] = {}
    for precision, problem in problems.items():
        layer = nn.BatchNorm2d(shape[2], eps=EPS) if norm else nn.Identity()
        ours = partial(norm_neuron, norm=layer, neuron=LIF()) if isinstance(layer, nn.BatchNorm2d) else LIF()
        sides[f"spimm {precision}"] = problem.side(layer, ours, precision, channels_last=True)
        if options.peers:
            peer = peers.PeerNormLIF(shape[2]) if norm else peers.PeerLIF()
            sides[f"spikingjelly {precision}"] = problem.side(peer, peer, precision, channels_last=False)
    ratios = []
    if options.peers:
        ratios = [
            Ratio("spikingjelly fp32", "spimm fp32", goal),
            Ratio("spikingjelly bf16", "spimm bf16"),
        ]
    return Plan(
        setting={"shape [T, B, C, H, W]": list(shape), "direction": "forward and backward"},
        check=lambda: _check(problems, sides),
        sides={name: stopwatch(side) for name, side in sides.items()},
        ratios=ratios,
        warmup=1 if options.quick else 3,
        repeats=2 if options.quick else 30,
    )


@register_case("norm_lif", "batch norm + LIF, forward and backward, gradients of x, weight and bias")
def norm_lif(options: Options) -> Plan:
    """Goal: at least 8 times as fast as SpikingJelly in fp32. Both sides update the running statistics."""
    return _plan(options, norm=True, goal=8.0)


@register_case("lif", "LIF alone, forward and backward")
def lif(options: Options) -> Plan:
    """The neuron behind a pool or an attention product, where no norm can be fused with it."""
    return _plan(options, norm=False, goal=None)
