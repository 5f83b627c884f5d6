"""Cases of the other fused ops, forward and backward, beside the same maths as separate ops of ours and as a peer's.

Sides: `spimm` is the op, `spimm separate` torch's layers with our LIF, `spikingjelly` torch's layers with its LIF.
Checked against the same maths in float64.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, max_pool2d

from spimm.bench import peers
from spimm.bench.kernels import EPS, INPUT_SCALE, NORM_SHAPE, QUICK_SHAPE
from spimm.bench.ops import PEER, Distances, OpPlan, Side, Tolerance, Truth, channels_last, traffic
from spimm.bench.precision import PRECISIONS
from spimm.bench.registry import Options, Plan, Ratio, register_case
from spimm.kernels import channel_mask, lif, multi_lif, norm_lif_membrane, norm_pool_lif, token_mask
from spimm.kernels.lif import reference as lif_reference
from spimm.neurons import LIF

Leaves = Mapping[str, Tensor]
Outputs = Tensor | tuple[Tensor, Tensor]
Fire = Callable[[Tensor], Tensor]
NeuronFn = Callable[[Tensor, float], Tensor]
"""Spikes of a current at a threshold, [T, ...] -> same."""

POOL_SHAPE = (4, 16, 192, 32, 32)
QK_SHAPE = POOL_SHAPE  # q's 96 channels and k's
QUICK_QK_SHAPE = (2, 2, 32, 3, 4)
NUM_HEADS = 8
SPIKE_RATE = 0.1
THRESHOLDS = (0.5, 1.0, 1.5, 2.0)
ATTENTION_THRESHOLD = 0.5
# Once the norm's output is rounded several pixels of a window may be its maximum: the gradient goes to another one. A
# maximum of nine is more often near the threshold than one of them.
POOL_SEPARATE = {"fp32": Tolerance(1e-5, 1e-2, 1e-3), "bf16": Tolerance(2**-5, 0.2, 0.3)}


class FusedOp(ABC):
    """One op: its inputs, the op, and the same maths in plain layers around a neuron that is given."""

    passes: float
    """Least reads and writes, in tensors of x's size."""
    threshold = 1.0
    separate: Mapping[str, Tolerance] = PEER
    """Of separate layers, by precision."""
    rounds = False
    """Whether the op, too, stores potentials in the precision of x."""

    def __init__(self, quick: bool):
        self.shape = self.shapes()[quick]

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Full and quick, [T, B, C, H, W] of x."""
        return NORM_SHAPE, QUICK_SHAPE

    def leaves(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {"x": torch.randn(self.shape, generator=generator) * INPUT_SCALE}

    @abstractmethod
    def fused(self, x: Tensor, leaves: Leaves) -> Outputs:
        """Ours in one op."""

    @abstractmethod
    def plain(self, x: Tensor, leaves: Leaves, neuron: NeuronFn) -> Outputs:
        """The same of separate layers."""

    def truth(self, leaves: Leaves, grads: tuple[Tensor, ...]) -> Truth:
        """Of `plain` in float64."""
        leaves = {name: leaf.double().requires_grad_() for name, leaf in leaves.items()}
        fire = Distances()
        outputs = self.plain(leaves["x"], leaves, partial(_reference_lif, fire=fire))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        found = torch.autograd.grad(outputs, list(leaves.values()), [grad.double() for grad in grads])
        spikes = outputs[-1].detach()
        membrane = outputs[0].detach() if len(outputs) > 1 else None
        return Truth(
            spikes, self.distance(fire, spikes), dict(zip(leaves, found, strict=True)), membrane, self.levels()
        )

    def distance(self, fire: Distances, spikes: Tensor) -> Tensor:
        return fire.stacked()

    def levels(self) -> int:
        return 1


def _reference_lif(x: Tensor, threshold: float, *, fire: Fire) -> Tensor:
    return lif_reference.lif(x, LIF(threshold=threshold).dynamics(), num_steps=len(x), fire=fire)[0]


class _Norm(FusedOp):
    def leaves(self, generator: torch.Generator) -> dict[str, Tensor]:
        weight, bias = (torch.rand(self.shape[2], generator=generator) + shift for shift in (0.5, 0.0))
        return super().leaves(generator) | {"weight": weight, "bias": bias}

    def normed(self, x: Tensor, leaves: Leaves) -> Tensor:
        return batch_norm(x.flatten(0, 1), None, None, leaves["weight"], leaves["bias"], True, eps=EPS)


class NormLIFMembrane(_Norm):
    """Forward: x twice, residual, both outputs. Backward: x, membrane and both gradients once to sum and to write the
    residual's gradient, then x and that gradient once to write x's."""

    passes, rounds = 5 + 5 + 3, True

    def leaves(self, generator: torch.Generator) -> dict[str, Tensor]:
        return super().leaves(generator) | {"residual": torch.randn(self.shape, generator=generator)}

    def fused(self, x: Tensor, leaves: Leaves) -> Outputs:
        affine = leaves["weight"], leaves["bias"]
        return norm_lif_membrane(x, *affine, LIF().dynamics(), residual=leaves["residual"], eps=EPS)[:2]

    def plain(self, x: Tensor, leaves: Leaves, neuron: NeuronFn) -> Outputs:
        membrane = self.normed(x, leaves).unflatten(0, x.shape[:2]) + leaves["residual"]
        return membrane, neuron(membrane, self.threshold)


class NormPoolLIF(_Norm):
    """Forward: x twice, a quarter for the spikes. Backward: x and the gradient's quarter twice, x's gradient."""

    passes = 2.25 + 2.5 + 1
    separate = POOL_SEPARATE

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return POOL_SHAPE, QUICK_SHAPE

    def fused(self, x: Tensor, leaves: Leaves) -> Outputs:
        return norm_pool_lif(x, leaves["weight"], leaves["bias"], LIF().dynamics(), eps=EPS)[0]

    def plain(self, x: Tensor, leaves: Leaves, neuron: NeuronFn) -> Outputs:
        pooled = max_pool2d(self.normed(x, leaves), 3, stride=2, padding=1)
        return neuron(pooled.unflatten(0, x.shape[:2]), self.threshold)


class MultiLIF(FusedOp):
    """As LIF: x and the sum forward, x, gradient and x's gradient backward."""

    passes = 5

    def fused(self, x: Tensor, leaves: Leaves) -> Outputs:
        return multi_lif(x, LIF().dynamics(), THRESHOLDS, combine="sum")

    def plain(self, x: Tensor, leaves: Leaves, neuron: NeuronFn) -> Outputs:
        return torch.stack([neuron(x, threshold) for threshold in THRESHOLDS]).sum(0)

    def distance(self, fire: Distances, spikes: Tensor) -> Tensor:
        """That of the branch nearest to its threshold."""
        return fire.nearest(len(THRESHOLDS))

    def levels(self) -> int:
        return len(THRESHOLDS)


class _Mask(FusedOp):
    """Forward: q, k and the output; backward: k, gradient and both of q's and k's gradients, each half of x."""

    passes, threshold = 7 / 2, ATTENTION_THRESHOLD

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return QK_SHAPE, QUICK_QK_SHAPE

    def leaves(self, generator: torch.Generator) -> dict[str, Tensor]:
        """A sum has one spike on average: near the threshold, where its gradient matters."""
        rates = torch.full(self.shape[2:], SPIKE_RATE)
        rates[: self.shape[2] // 2] = 1 / self.summed()
        return {"x": (torch.rand(self.shape, generator=generator) < rates).float()}

    @abstractmethod
    def summed(self) -> int:
        """How many values of q a neuron sums."""

    def distance(self, fire: Distances, spikes: Tensor) -> Tensor:
        """Far: sums of spikes and what remains of them are exact in every precision as long as they matter."""
        return torch.ones_like(spikes)


class TokenMask(_Mask):
    def summed(self) -> int:
        return self.shape[2] // 2 // NUM_HEADS

    def fused(self, x: Tensor, leaves: Leaves) -> Outputs:
        return token_mask(x, LIF(threshold=ATTENTION_THRESHOLD).dynamics(), NUM_HEADS)[0]

    def plain(self, x: Tensor, leaves: Leaves, neuron: NeuronFn) -> Outputs:
        q, k = (part.unflatten(2, (NUM_HEADS, -1)) for part in x.chunk(2, dim=2))
        return (neuron(q.sum(3, keepdim=True), self.threshold) * k).flatten(2, 3)


class ChannelMask(_Mask):
    def summed(self) -> int:
        return self.shape[3] * self.shape[4]

    def fused(self, x: Tensor, leaves: Leaves) -> Outputs:
        return channel_mask(x, LIF(threshold=ATTENTION_THRESHOLD).dynamics())[0]

    def plain(self, x: Tensor, leaves: Leaves, neuron: NeuronFn) -> Outputs:
        q, k = x.chunk(2, dim=2)
        return neuron(q.sum((-2, -1), keepdim=True), self.threshold) * k


def _plan(op: FusedOp, options: Options) -> Plan:
    setting: dict[str, object] = {"shape [T, B, C, H, W]": list(op.shape)}
    case = OpPlan(options, setting, traffic(torch.Size(op.shape).numel(), op.passes))
    for precision, dtype in PRECISIONS.items():
        generator = torch.Generator().manual_seed(0)
        leaves = {name: leaf.to(dtype) if leaf.dim() > 1 else leaf for name, leaf in op.leaves(generator).items()}
        with torch.no_grad():
            outputs = op.plain(leaves["x"], leaves, lambda x, _: x)
        shapes = [output.shape for output in (outputs if isinstance(outputs, tuple) else (outputs,))]
        grads = tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
        truth = partial(op.truth, leaves, grads)
        case.add("spimm", _side(op.fused, leaves, grads, precision, truth, ours=not op.rounds, laid_out=channels_last))
        ways: dict[str, tuple[NeuronFn, Callable[[Tensor], Tensor]]] = {"spimm separate": (_ours, channels_last)}
        if options.peers:
            ways["spikingjelly"] = (_PeerNeurons(), Tensor.clone)
        for name, (neuron, laid_out) in ways.items():
            side = _side(
                partial(op.plain, neuron=neuron), leaves, grads, precision, truth, ours=False, laid_out=laid_out
            )
            side.tolerance = op.separate[precision]
            case.add(name, side)
    slower = ("spimm separate", "spikingjelly")
    ratios = [Ratio(f"{name} {precision}", f"spimm {precision}") for name in slower for precision in PRECISIONS]
    return case.plan(ratios, repeats=15)


def _ours(x: Tensor, threshold: float) -> Tensor:
    return lif(x, LIF(threshold=threshold).dynamics())[0]


class _PeerNeurons:
    """SpikingJelly's neurons, one a threshold."""

    def __init__(self) -> None:
        self.made: dict[float, peers.PeerLIF] = {}

    def __call__(self, x: Tensor, threshold: float) -> Tensor:
        if threshold not in self.made:
            self.made[threshold] = peers.PeerLIF(threshold)
        return self.made[threshold](x)


def _side(
    op: Callable[[Tensor, Leaves], Outputs],
    leaves: Leaves,
    grads: tuple[Tensor, ...],
    precision: str,
    truth: Callable[[], Truth],
    *,
    ours: bool,
    laid_out: Callable[[Tensor], Tensor],
) -> Side:
    own = {name: laid_out(leaf) if leaf.dim() > 1 else leaf.clone() for name, leaf in leaves.items()}
    laid_grads = [laid_out(grad) for grad in grads]
    return Side(lambda x: op(x, own), own, laid_grads, precision, truth=truth, ours=ours)


_CASES: dict[str, tuple[str, type[FusedOp]]] = {
    "norm_lif_membrane": ("batch norm + residual + LIF, giving membrane and spikes", NormLIFMembrane),
    "norm_pool_lif": ("batch norm + 3x3 max-pool + LIF", NormPoolLIF),
    "multi_lif": (f"{len(THRESHOLDS)} LIFs of other thresholds, their spikes summed", MultiLIF),
    "token_mask": ("QK token mask: k where the sum of a head's q fires", TokenMask),
    "channel_mask": ("QK channel mask: k where the sum over space of q fires", ChannelMask),
}

for _name, (_about, _op) in _CASES.items():
    register_case(_name, f"{_about}; forward and backward")(lambda options, op=_op: _plan(op(options.quick), options))
