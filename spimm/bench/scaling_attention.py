"""Case of growth of attention alone: the cores of spike-driven attention, and of softmax attention, against the tokens.

N = H W tokens, C channels, h heads, d = C / h; one step, one image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spimm.bench.agreement import spike_parity
from spimm.bench.registry import Options, Plan, Series, Sweep, register_case
from spimm.bench.timing import stopwatch
from spimm.layers import SDSA, Ending, sdsa
from spimm.neurons import LIF

DIM, NUM_HEADS, RATE = 256, 8, 0.2
SIDES, QUICK_SIDES = (8, 16, 32, 64, 128), (4, 8)
"""Heights and widths of the maps."""
EXPECTED = {kind: 2.0 if kind == "vsa" else 1.0 for kind in SDSA}
"""Exponents of N."""
SCALE = 0.125
DTYPE, TOLERANCE, ALLOWED = torch.bfloat16, 2**-7, 0.25
"""Of the inputs, of the input that fires, relative to it, and the share of neurons that may be that near to firing."""


def _product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return SCALE * (q @ k.mT) @ v


DRIVES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sdsa1": lambda q, k, v: (k * v).sum(-2, keepdim=True),
    "sdsa2": lambda q, k, v: q.sum(-2, keepdim=True),
    "sdsa3": _product,
    "sdsa4": _product,
    "vsa": lambda q, k, v: (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v,
}
"""What the attention neuron is given, as the paper writes it: q, k, v [h, N, d] -> [h, N, d] or [h, 1, d]."""


@dataclass(frozen=True)
class _Input:
    """Random spikes; those of sdsa2 have no k."""

    kind: str
    side: int

    def spikes(self) -> Tensor:
        """[1, 1, 3 C or 2 C, H, W]."""
        channels = (2 if self.kind == "sdsa2" else 3) * DIM
        generator = torch.Generator().manual_seed(0)
        uniform = torch.rand(1, 1, self.side, self.side, channels, generator=generator)
        return (uniform < RATE).to(DTYPE).movedim(-1, 2)

    def heads(self) -> list[Tensor]:
        """q, k and v, float64, [h, N, d] each."""
        tokens = self.spikes()[0, 0].double().flatten(1)
        found = [piece.unflatten(0, (NUM_HEADS, -1)).mT for piece in tokens.split(DIM)]
        return found if len(found) == 3 else [found[0], torch.ones_like(found[0]), found[1]]

    def drive(self) -> Tensor:
        """Of the attention neuron."""
        return DRIVES[self.kind](*self.heads())


def _core(kind: str, threshold: float) -> nn.Module:
    def neuron_fn(**settings: Any) -> LIF:
        settings["threshold"] = threshold
        return LIF(**settings)

    made = sdsa(kind, DIM, NUM_HEADS, neuron_fn=LIF, attention_neuron_fn=neuron_fn, ending=Ending(None))
    return made.core.eval()


def _differences(core: nn.Module, given: _Input, threshold: float) -> float:
    """`spike_parity` with the definition in float64: LIF from rest fires where half its input reaches the threshold."""
    with torch.no_grad():
        spikes = core(given.spikes())[0, 0].flatten(1).unflatten(0, (NUM_HEADS, -1)).mT
    q, _, v = given.heads()
    distance = (given.drive() / 2 - threshold).expand_as(q)
    passed = {"sdsa1": q, "sdsa2": v}.get(given.kind, torch.ones_like(q))
    expected = (distance >= 0) * passed
    return spike_parity(
        spikes[None],
        expected[None],
        distance[None],
        tolerance=TOLERANCE * threshold,
        allowed=ALLOWED,
        what=f"spikes of {given.kind}",
    )


def _run(core: nn.Module, spikes: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.no_grad():
            return core(spikes)

    return run


@register_case("scaling_attention", "attention alone against the number of tokens, each kind of Meta-SpikeFormer")
def scaling_attention(options: Options) -> Plan:
    """Inference of what stands between q, k, v and the projection, bf16. Expected: all linear but softmax attention.

    Thresholds are such that about half of the neurons fire in the smallest map, on which the kinds are checked.
    """
    sides, series, checks = {}, [], {}
    maps = QUICK_SIDES if options.quick else SIDES
    for kind in SDSA:
        smallest = _Input(kind, maps[0])
        threshold = float(smallest.drive().mean()) / 2
        core = _core(kind, threshold)
        checks[f"undecided spikes, {kind}"] = (core, smallest, threshold)
        points = {}
        for side in maps:
            points[side**2] = f"spimm {kind}, tokens {side**2}"
            sides[points[side**2]] = stopwatch(_run(core, _Input(kind, side).spikes()))
        series.append(Series(f"spimm {kind}", points, EXPECTED[kind]))
    return Plan(
        setting={"channels": DIM, "heads": NUM_HEADS, "rate": RATE, "dtype": str(DTYPE), "numbers": list(points)},
        check=lambda: {name: _differences(*each) for name, each in checks.items()},
        sides=sides,
        sweep=Sweep("tokens", series),
        repeats=1 if options.quick else 7,
    )
