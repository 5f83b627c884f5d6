"""What cases of single ops share: a side that runs forward and backward, its check, and the traffic it needs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spimm.bench.agreement import near, spike_parity
from spimm.bench.limits import COPY, copy_limit
from spimm.bench.precision import compute_in
from spimm.bench.registry import Options, Plan, Ratio, Work
from spimm.bench.timing import stopwatch
from spimm.surrogate import Sigmoid, Surrogate, spike


@dataclass(frozen=True)
class Tolerance:
    """Of potentials absolute, of gradients and real outputs relative to their norm; `allowed` is a share of neurons."""

    potential: float
    gradient: float
    allowed: float


# Our arithmetic is float32 whatever the storage; inputs that bfloat16 holds meet the threshold exactly more often.
OURS = {"fp32": Tolerance(1e-5, 1e-4, 1e-3), "bf16": Tolerance(1e-5, 1e-2, 1e-2)}
# Peers round the norm's output and the potentials to bfloat16: by up to 2^-5 below magnitude 16, of which half and,
# of earlier steps, a quarter, an eighth, ... reach the next potential.
PEER = {"fp32": OURS["fp32"], "bf16": Tolerance(2**-5, 0.1, 0.15)}


@dataclass(frozen=True)
class Truth:
    """What a side must give: spikes, how far from the threshold each was, real outputs and gradients by name."""

    spikes: Tensor
    distance: Tensor
    gradients: Mapping[str, Tensor]
    membrane: Tensor | None = None
    levels: int = 1
    """Spikes are whole numbers up to this: a sum over as many neurons, each of which may be near its threshold."""


class Distances:
    """A firing function in plain torch that keeps potential minus threshold of every step."""

    def __init__(self, surrogate: Surrogate | None = None) -> None:
        self.surrogate = surrogate or Sigmoid()
        self.steps: list[Tensor] = []

    def __call__(self, distance: Tensor) -> Tensor:
        self.steps.append(distance.detach())
        return spike(distance, self.surrogate)

    def stacked(self) -> Tensor:
        return torch.stack(self.steps)

    def nearest(self, branches: int) -> Tensor:
        """Without sign, that of the branch nearest to its threshold; branches fired one after another."""
        return self.stacked().abs().unflatten(0, (branches, -1)).amin(0)


class Side:
    """Forward and backward of one op on inputs of its own, differentiated as inside a network: into no `.grad`.

    `op` maps x to spikes or to (membrane, spikes); `grads` are the gradients of its outputs.
    """

    def __init__(
        self,
        op: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
        leaves: Mapping[str, Tensor],
        grads: Sequence[Tensor],
        precision: str,
        *,
        truth: Callable[[], Truth],
        ours: bool,
        input_scale: float = 1.0,
    ):
        self.op, self.grads, self.precision, self.truth = op, tuple(grads), precision, truth
        self.tolerance = (OURS if ours else PEER)[precision]
        self.input_scale = input_scale
        self.leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
        self.outputs: tuple[Tensor, ...] = ()
        self.gradients: dict[str, Tensor] = {}

    def __call__(self) -> None:
        self.outputs, self.gradients = (), {}
        with compute_in(self.precision):
            outputs = self.op(self.leaves["x"])
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        found = torch.autograd.grad(outputs, list(self.leaves.values()), self.grads)
        self.outputs = tuple(output.detach() for output in outputs)
        self.gradients = dict(zip(self.leaves, found, strict=True))


def check_sides(sides: Mapping[str, Side]) -> dict[str, float]:
    """Differences of every side from its truth. Raises Mismatch where they are too large."""
    found: dict[str, float] = {}
    for truth_of in dict.fromkeys(side.truth for side in sides.values()):
        truth = truth_of()
        for name, side in sides.items():
            if side.truth is truth_of:
                side()
                found |= _differences(name, side, truth)
    return found


def _differences(name: str, side: Side, truth: Truth) -> dict[str, float]:
    tolerance = side.tolerance
    found = {
        f"{name}: undecided share": spike_parity(
            side.outputs[-1],
            truth.spikes,
            truth.distance,
            tolerance=tolerance.potential,
            allowed=tolerance.allowed * truth.levels,
            levels=truth.levels,
            what=name,
        )
    }
    if truth.membrane is not None:
        what = f"{name}: membrane"
        found[what] = near(side.outputs[0], truth.membrane, tolerance=tolerance.gradient, what=what)
    for leaf, expected in truth.gradients.items():
        what = f"{name}: gradient of {leaf}"
        scale = side.input_scale if leaf == "x" else 1.0
        found[what] = near(side.gradients[leaf] * scale, expected, tolerance=tolerance.gradient, what=what)
    return found


@dataclass
class OpPlan:
    """Collects the sides of one op. `bytes_moved` is the least traffic of a call in each precision."""

    options: Options
    setting: dict[str, object]
    bytes_moved: Mapping[str, float]
    sides: dict[str, Side] = field(default_factory=dict)

    def add(self, name: str, side: Side) -> None:
        """`name` is the library's, or that of one way to do it."""
        self.sides[f"{name} {side.precision}"] = side

    def plan(self, ratios: Sequence[Ratio], *, repeats: int = 20) -> Plan:
        """The sides turn by turn with a copy of a large buffer, whose bandwidth is the machine's limit."""
        copying, copied = copy_limit(self.options.quick)
        runs = {name: stopwatch(side) for name, side in self.sides.items()}
        work = {name: Work(self.bytes_moved[side.precision], "B", COPY) for name, side in self.sides.items()}
        return Plan(
            setting=self.setting | {"bytes moved": dict(self.bytes_moved), "direction": "forward and backward"},
            check=lambda: check_sides(self.sides),
            sides=runs | {COPY: copying},
            ratios=[ratio for ratio in ratios if {ratio.slower, ratio.faster} <= runs.keys()],
            work=work | {COPY: copied},
            warmup=1 if self.options.quick else 3,
            repeats=2 if self.options.quick else repeats,
        )


def traffic(elements: int, passes: float) -> dict[str, float]:
    """Bytes of `passes` reads or writes of a tensor of so many elements, by precision."""
    return {"fp32": 4.0 * elements * passes, "bf16": 2.0 * elements * passes}


def channels_last(x: Tensor) -> Tensor:
    """The same values in memory (T, B, ..., C). x: [T, B, C, ...] -> same."""
    return x.movedim(2, -1).contiguous().movedim(-1, 2)
