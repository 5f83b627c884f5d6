"""Rates beside the machine's limits, and power laws of sweeps."""

import pytest

from spimm.bench import Series, Summary, Sweep, Work
from spimm.bench.curves import curves_of
from spimm.bench.rates import rates_of
from spimm.bench.workload import Workload, meta_cifar


def curve(y: list[float], x: tuple[float, ...] = (1, 2, 4, 8)):
    sides = {str(number): Summary.of([value]) for number, value in zip(x, y, strict=True)}
    (found,) = curves_of(Sweep("T", [Series("time", {number: str(number) for number in x}, 1.0)]), sides)
    return found


def test_a_power_law_has_its_exponent_as_slope_and_no_interval_steeper() -> None:
    found = curve([3.0, 12.0, 48.0, 192.0])
    assert found.slope == pytest.approx(2)
    assert found.steepest == pytest.approx(2)
    assert (found.label, found.x, found.y, found.expected) == ("T", (1, 2, 4, 8), (3, 12, 48, 192), 1.0)


def test_a_cliff_shows_as_the_steepest_interval() -> None:
    assert curve([1.0, 2.0, 16.0, 32.0]).steepest == pytest.approx(3)


def test_numbers_are_put_in_order() -> None:
    assert curve([8.0, 1.0, 2.0], x=(8, 1, 2)).x == (1, 2, 8)


def test_the_share_of_a_limit_is_taken_round_by_round() -> None:
    work = {"a": Work(4e9, "FLOP", "peak"), "peak": Work(1e9, "FLOP", "peak")}
    rate, limit = rates_of(work, {"a": [8.0, 16.0, 8.0], "peak": [1.0, 2.0, 1.0]})  # the second round is slow for both
    assert rate.share.samples == (0.5, 0.5, 0.5)
    assert rate.readable == "500 GFLOP/s"
    assert (limit.share.median, limit.per_second) == (1, 1e12)


def test_operations_are_those_of_the_products_counted_by_hand_and_grow_with_the_batch() -> None:
    """A stage without attention and MLP: three convolutions at 8x8, the first one of them once for all steps."""
    options = {"embed_dim": 16, "num_heads": 1, "num_steps": 2, "depths": (0,)}
    options |= {"attention": ("qkta",), "patch_forms": ("cifar",)}
    flops = Workload(options, batch_size=1, size=8).flops(training=False)
    first, second, shortcut, head = 64 * 3 * 9 * 8, 2 * 64 * 8 * 9 * 16, 2 * 64 * 8 * 16, 16 * 10
    assert flops == 2 * (first + second + shortcut + head)
    work = Workload(options, batch_size=3, size=8)
    assert work.flops(training=False) == 3 * flops
    # Backward: as much for the weights and as much for the inputs, which the image does not need.
    assert work.flops(training=True) == 3 * (3 * flops - 2 * first)


def test_the_backward_of_a_convolution_of_groups_counts_as_its_forward_does() -> None:
    """Meta-SpikeFormer has depth-wise ones; all but the first convolution, at 16x16, need both gradients."""
    work = meta_cifar(True)
    first = 2 * (16 * 16) * (3 * 9 * 8)
    assert work.flops(training=True) == 3 * work.flops(training=False) - work.batch_size * first
