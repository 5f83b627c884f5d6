"""Traces written by hand."""

import math
import random
from collections.abc import Callable, Sequence

import pytest

from spimm.analyze import Input, Layer, Product, Trace


def _neuron(name: str, shape: tuple[int, ...], rates: Sequence[float], steps: int = 1) -> Layer:
    mean = sum(rates) / len(rates)
    return Layer(name, "neuron", shape, shape, steps, step_rates=(mean,) * steps, channel_rates=tuple(rates))


def _linear(name: str, shape: tuple[int, ...], outputs: int, nonzero: float, steps: int = 1) -> Layer:
    values = Input("x", shape, nonzero, nonzero, nonzero, ())
    product = Product("linear", math.prod(shape) * outputs, "x", None)
    return Layer(name, "linear", shape, (outputs,), steps, (values,), (product,))


def _trace(*layers: Layer, num_steps: int = 1) -> Trace:
    return Trace("net", num_steps, 1, layers)


def _random_trace(seed: int) -> Trace:
    """Two to six layers of at most 40 neurons; some of two thresholds side by side, some of four steps."""
    choose, layers = random.Random(seed), [_linear("stem", (2, 3), 5, 0.5)]
    for number in range(choose.randint(2, 6)):
        shape, steps = (choose.randint(1, 10), *choose.choice([(), (2, 1), (2, 2)])), choose.choice([1, 4])
        for threshold in choose.choice([("",), ("",), ("[1]", "[2]")]):
            rates = [choose.random() for _ in range(shape[0])]
            layers.append(_neuron(f"{number}.neuron{threshold}", shape, rates, steps))
    return _trace(*layers, num_steps=4)


@pytest.fixture
def neuron() -> Callable[..., Layer]:
    return _neuron


@pytest.fixture
def linear() -> Callable[..., Layer]:
    return _linear


@pytest.fixture
def trace() -> Callable[..., Trace]:
    return _trace


@pytest.fixture
def random_trace() -> Callable[[int], Trace]:
    return _random_trace
