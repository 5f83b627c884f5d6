"""Cases of growth: networks of spike times run by the clock, against steps, and spike by spike, against spikes."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from spimm.bench.agreement import Mismatch, near
from spimm.bench.registry import Options, Plan, Series, Sweep, register_case
from spimm.bench.timing import stopwatch
from spimm.bench.ttfs import batch_of, network_of
from spimm.deploy import run_event_driven, run_stepwise
from spimm.models.ttfs import TTFSNet

MODEL = "ttfs_mnist_cnn"
STEPS, QUICK_STEPS = (5, 10, 20, 50, 100), (2, 4)
"""Of a window."""
INKS, QUICK_INKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8), (0.1, 0.5)
"""Shares of pixels that are not black: more of them, more spikes."""
BATCH, CHECKED, TOLERANCE = 64, 4, 1e-5
EXACT_STEPS = 64
"""Of the check: times are then binary fractions."""


def _run(call: Callable[..., object], network: TTFSNet, images: Tensor, **settings: object) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return call(network, images, **settings)

    return run


@torch.no_grad()
def _stepwise_error(network: TTFSNet, images: Tensor, steps: int) -> dict[str, float]:
    """The largest distance of times in the first layer behind the input, in steps of the clock: less than 1."""
    network, window = copy.deepcopy(network).double(), network.config.window
    grid = (images.double() * steps).round() / steps  # pixels whose times are steps of the clock
    coded = network.stages[0][0](grid)  # type: ignore[index]
    unit = network.stages[0][1]  # type: ignore[index]
    exact = unit.neuron(unit.product(coded))
    found = run_stepwise(network, grid, dt=window / steps, threshold="exact").spikes
    first = found["stages.0.1"]
    if not torch.equal(first[1], exact[1]):
        raise Mismatch("other neurons fire by the clock than in closed form")
    late = float((exact[0] - first[0]).abs().max()) * steps / window
    if late > 1 + TOLERANCE:
        raise Mismatch(f"a neuron fires {late:.3f} steps from its time; 1 is allowed")
    return {"times of the first layer, in steps": late}


@register_case("ttfs_stepwise", "step-wise inference of the TTFS network for MNIST against the steps of a window")
def ttfs_stepwise(options: Options) -> Plan:
    """Expected: linear; a step with a spike costs a convolution in each layer."""
    network = network_of(MODEL, options.quick).eval()
    images, _ = batch_of(network, 2 if options.quick else BATCH)
    numbers = QUICK_STEPS if options.quick else STEPS
    names: dict[float, str] = {steps: f"spimm step-wise, steps {steps}" for steps in numbers}
    window = network.config.window
    return Plan(
        setting={"model": MODEL, "batch_size": len(images), "steps of a window": list(numbers)},
        check=lambda: _stepwise_error(network, images[:CHECKED], EXACT_STEPS),
        sides={names[steps]: stopwatch(_run(run_stepwise, network, images, dt=window / steps)) for steps in numbers},
        sweep=Sweep("steps of a window", [Series("spimm step-wise", names, 1.0)]),
        repeats=1 if options.quick else 5,
    )


@torch.no_grad()
def _spikes(network: TTFSNet, images: Tensor) -> int:
    """Of the whole network for the batch, pixels included."""
    spikes = run_event_driven(network, images).spikes
    return int((images > 0).sum()) + sum(int(layer[1].sum()) for layer in spikes.values())


@register_case("ttfs_event_driven", "event-driven inference of the TTFS network for MNIST against the number of spikes")
def ttfs_event_driven(options: Options) -> Plan:
    """Expected: linear in the spikes; what it costs to begin a layer weighs where these are few."""
    network = network_of(MODEL, options.quick).eval()
    count = 2 if options.quick else BATCH
    sides, names = {}, {}
    for ink in QUICK_INKS if options.quick else INKS:
        images, _ = batch_of(network, count, ink=ink)
        spikes = _spikes(network, images)
        names[spikes] = f"spimm event-driven, spikes {spikes}"
        sides[names[spikes]] = stopwatch(_run(run_event_driven, network, images))
    images, _ = batch_of(network, CHECKED)

    @torch.no_grad()
    def check() -> dict[str, float]:
        logits = run_event_driven(network, images).logits
        return {"logits, closed form": near(logits, network(images), tolerance=TOLERANCE, what="logits")}

    return Plan(
        setting={"model": MODEL, "batch_size": count, "spikes": list(names)},
        check=check,
        sides=sides,
        sweep=Sweep("spikes", [Series("spimm event-driven", names, 1.0)]),
        repeats=1 if options.quick else 5,
    )
