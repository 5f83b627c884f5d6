"""Cases of the two ops that every network is made of: LIF alone, and batch norm + LIF, forward and backward.

Checked against the float64 reference on the same values, spikes and every gradient.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from spimm.bench import peers
from spimm.bench.ops import Distances, OpPlan, Side, Truth, channels_last, traffic
from spimm.bench.precision import PRECISIONS
from spimm.bench.registry import Options, Plan, Ratio, register_case
from spimm.kernels.lif import reference as lif_reference
from spimm.kernels.norm_lif import reference as norm_lif_reference
from spimm.layers.norm import norm_neuron
from spimm.neurons import LIF
from spimm.surrogate import Surrogate

NORM_SHAPE = (4, 16, 96, 32, 32)  # [T, B, C, H, W]: the first stage of QKFormer 4-384 with 16 images of 32x32
LIF_SHAPE = (4, 16, 96, 56, 56)
QUICK_SHAPE = (2, 2, 5, 3, 4)
INPUT_SCALE = 1.5
EPS = 1e-5
# Reads and writes of one tensor of x's size: forward x and spikes, backward x, gradient and gradient of x.
LIF_PASSES = 5
# The statistics of the forward and the sums of the backward each need a pass of their own: x, then x and gradient.
NORM_LIF_PASSES = 8


@dataclass(frozen=True)
class Problem:
    """Input and upstream gradient, the same values for every side, and a norm's weight and bias."""

    x: Tensor
    grad: Tensor
    affine: dict[str, Tensor]

    @classmethod
    def make(cls, shape: tuple[int, ...], dtype: torch.dtype, *, norm: bool) -> "Problem":
        generator = torch.Generator().manual_seed(0)
        x, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
        weight, bias = torch.rand(shape[2], generator=generator) + 0.5, torch.rand(shape[2], generator=generator)
        return cls(x * INPUT_SCALE, grad, {"weight": weight, "bias": bias} if norm else {})

    def lif_truth(self, *, detach_reset: bool) -> Truth:
        """Of the reference in float64."""
        x, fire = self.x.double().requires_grad_(), Distances()
        dynamics = LIF(detach_reset=detach_reset).dynamics()
        spikes, _ = lif_reference.lif(x, dynamics, num_steps=len(x), fire=fire)
        (gradient,) = torch.autograd.grad(spikes, x, self.grad.double())
        return Truth(spikes.detach(), fire.stacked(), {"x": gradient})

    def branches_truth(self, thresholds: Sequence[float], surrogate: Surrogate) -> Truth:
        """Of the sum over LIFs of these thresholds, of the reference in float64."""
        x, fire = self.x.double().requires_grad_(), Distances(surrogate)
        parts = [LIF(threshold=threshold).dynamics() for threshold in thresholds]
        spikes = sum(lif_reference.lif(x, part, num_steps=len(x), fire=fire)[0] for part in parts)
        assert isinstance(spikes, Tensor)
        (gradient,) = torch.autograd.grad(spikes, x, self.grad.double())
        return Truth(spikes.detach(), fire.nearest(len(parts)), {"x": gradient}, levels=len(parts))

    def norm_lif_truth(self) -> Truth:
        """Of the reference in float64."""
        leaves = {"x": self.x, **self.affine}
        leaves = {name: leaf.double().requires_grad_() for name, leaf in leaves.items()}
        fire = Distances()
        x, weight, bias = leaves.values()
        spikes, _, _ = norm_lif_reference.norm_lif(
            x, weight, bias, LIF().dynamics(), None, None, None, num_steps=len(x), eps=EPS, fire=fire
        )
        gradients = torch.autograd.grad(spikes, list(leaves.values()), self.grad.double())
        return Truth(spikes.detach(), fire.stacked(), dict(zip(leaves, gradients, strict=True)))

    def lif_side(self, neuron: peers.PeerSpikes | LIF, precision: str, truths: dict[bool, Callable[[], Truth]]) -> Side:
        ours = isinstance(neuron, LIF)
        scale, detached = (1.0, True) if isinstance(neuron, LIF) else (neuron.input_scale, neuron.detach_reset)
        laid_out = channels_last if ours else Tensor.clone
        leaves = {"x": laid_out(self.x * scale)}
        grads = (laid_out(self.grad),)
        return Side(neuron, leaves, grads, precision, truth=truths[detached], ours=ours, input_scale=scale)

    def norm_side(
        self, norm: nn.BatchNorm2d, op: Callable[[Tensor], Tensor], precision: str, truth: Callable[[], Truth]
    ) -> Side:
        """`op` is the peer's module, which has the norm within, or ours."""
        ours = not isinstance(op, peers.PeerNormLIF)
        norm.weight.data.copy_(self.affine["weight"])
        norm.bias.data.copy_(self.affine["bias"])
        laid_out = channels_last if ours else Tensor.clone
        leaves = {"x": laid_out(self.x), "weight": norm.weight, "bias": norm.bias}
        return Side(op, leaves, (laid_out(self.grad),), precision, truth=truth, ours=ours)


@register_case("norm_lif", "batch norm + LIF, forward and backward, gradients of x, weight and bias")
def norm_lif(options: Options) -> Plan:
    """Goal: 12 times SpikingJelly's speed in either precision. Both sides update the running statistics."""
    shape = QUICK_SHAPE if options.quick else NORM_SHAPE
    elements = torch.Size(shape).numel()
    case = OpPlan(options, {"shape [T, B, C, H, W]": list(shape)}, traffic(elements, NORM_LIF_PASSES))
    for precision, dtype in PRECISIONS.items():
        problem = Problem.make(shape, dtype, norm=True)
        norm, truth = nn.BatchNorm2d(shape[2], eps=EPS), problem.norm_lif_truth
        ours = partial(norm_neuron, norm=norm, neuron=LIF())
        case.add("spimm", problem.norm_side(norm, ours, precision, truth))
        if options.peers:
            peer = peers.PeerNormLIF(shape[2])
            case.add("spikingjelly", problem.norm_side(peer.norm, peer, precision, truth))
    return case.plan([Ratio(f"spikingjelly {precision}", f"spimm {precision}", 12.0) for precision in PRECISIONS])


@register_case("lif", "LIF alone, forward and backward")
def lif(options: Options) -> Plan:
    """Goals: 8 times SpikingJelly's speed, 10 times snnTorch's and Norse's, 1.5 times a compiled loop's, in fp32.

    Peers get contiguous memory, ours channels-last. A quick run compiles for torch's eager mode.
    """
    shape = QUICK_SHAPE if options.quick else LIF_SHAPE
    setting: dict[str, object] = {"shape [T, B, C, H, W]": list(shape)}
    case = OpPlan(options, setting, traffic(torch.Size(shape).numel(), LIF_PASSES))
    for precision, dtype in PRECISIONS.items():
        problem = Problem.make(shape, dtype, norm=False)
        truths = {detached: partial(problem.lif_truth, detach_reset=detached) for detached in (True, False)}
        case.add("spimm", problem.lif_side(LIF(), precision, truths))
        if options.peers:
            case.add("spikingjelly", problem.lif_side(peers.PeerLIF(), precision, truths))
        if options.peers and precision == "fp32":
            for name, peer in _others(options, setting).items():
                case.add(name, problem.lif_side(peer, precision, truths))
    goals = {"spikingjelly": 8.0, "snntorch": 10.0, "norse": 10.0, "torch.compile": 1.5}
    ratios = [Ratio(f"{name} fp32", "spimm fp32", goal) for name, goal in goals.items()]
    return case.plan([*ratios, Ratio("spikingjelly bf16", "spimm bf16")])


def _others(options: Options, setting: dict[str, object]) -> dict[str, peers.PeerSpikes]:
    """Neurons that take part in fp32 alone; says in the setting in which form, or why one does not take part."""
    backend = "aot_eager" if options.quick else "inductor"
    setting |= {
        "snntorch": "Leaky(beta=0.5, reset zero), input halved: the same spikes and gradients",
        "norse": "LIFBoxCell, surrogate tanh(2 u); gradients flow through its reset, and through that of its check",
        "torch.compile": f"a loop over T, backend {backend}",
    }
    found: dict[str, peers.PeerSpikes] = {
        "snntorch": peers.SnnTorchLIF(),
        "torch.compile": peers.CompiledLIF(backend=backend),
    }
    if importlib.util.find_spec("norse") is None:
        setting["norse"] = peers.NORSE_MISSING
    else:
        found["norse"] = peers.NorseLIF()
    return found
