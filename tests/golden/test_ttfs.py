"""DTA-TTFS's VGG11 against figures of its authors' network, and its CPU kernels against the references."""

import functools
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm.analyze import Trace, record
from spimm.kernels import dispatch
from spimm.kernels.psp import reference as psp_reference
from spimm.kernels.rel_psp import reference
from spimm.models.official import official_keys

from ..kernels.conftest import TOLERANCES, UNDECIDED, assert_near
from . import weights
from .runs import RELATIVE_ERROR, assert_gradients, assert_logits

GOLDEN = weights.load("ttfs_vgg11")


@pytest.fixture(autouse=True)
def every_test_runs_on(one_thread: None) -> None:
    """One thread."""


def build(dtype: torch.dtype) -> nn.Module:
    """The authors' directly trained form reads the output potentials where their window ends."""
    return spimm.load_official("ttfs_vgg11", weights.state_dict(GOLDEN, dtype), readout="end")


class Run(NamedTuple):
    logits: Tensor
    trace: Trace
    gradients: dict[str, float]


@functools.cache
def run() -> Run:
    """One pass of the float64 model and back."""
    model = build(torch.float64)
    with record(model) as recorder:
        logits = model(weights.model_input(GOLDEN))
    (logits * weights.loss_weights(GOLDEN, logits)).sum().backward()
    parameters = dict(model.named_parameters())
    keys = official_keys(model, "ttfs").items()
    gradients = {theirs: parameters[ours].grad.norm().item() for ours, (theirs,) in keys}
    return Run(logits.detach(), recorder.trace(), gradients)


def test_logits_are_those_of_the_authors_network() -> None:
    assert_logits(run().logits, GOLDEN["eval_logits"])


def test_every_layer_fires_as_often_and_when_the_authors_does() -> None:
    neurons = [layer for layer in run().trace.layers if layer.times]
    images = GOLDEN["input_shape"][0]
    for layer, expected in zip(neurons, GOLDEN["layers"], strict=True):
        assert layer.times
        count = images * math.prod(layer.output_shape)
        found = {
            "neurons": count,
            "spikes": layer.rate * count,
            "mean_time_of_fired": layer.times.mean,
            "at_window_start": layer.times.at_start * layer.rate * count,
        }
        assert found == pytest.approx({key: expected[key] for key in found}, rel=RELATIVE_ERROR, abs=0), layer.name


def test_every_gradient_is_as_long_as_the_authors() -> None:
    assert_gradients(run().gradients, GOLDEN["grad_l2"])


REFERENCES = {
    "psp_conv2d": psp_reference.psp_conv2d,
    "psp_linear": psp_reference.psp_linear,
    "rel_psp": reference.rel_psp,
}
TOLERANCE = TOLERANCES[torch.float32]


@torch.no_grad()
def test_the_cpu_kernels_decide_every_spike_as_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same float32 inputs, in float64. Whether a neuron fires is open where its potential ends near 0."""
    model, ops, original = build(torch.float32), [], dispatch.call
    assert sum(parameter.numel() for parameter in model.parameters()) == GOLDEN["params"]

    def checked(op: str, backend: str, *inputs: Any) -> Tensor:
        ops.append(op)
        out = original(op, "cpu", *inputs)
        exact = [x.double() if isinstance(x, Tensor) else x for x in inputs]
        truth = REFERENCES[op](*exact)
        if op != "rel_psp":
            assert_near(out, truth, TOLERANCE.gradient, op)
            return out
        drive, window, pool, *_ = exact
        decided = (drive[0] + window * drive[1]).abs() > TOLERANCE.potential
        if pool > 1:  # one open neuron leaves its square open
            decided = reference.earliest((~decided).double().unsqueeze(0), pool)[0] == 0
        assert torch.equal(out[1].double()[decided], truth[1][decided])
        assert (~decided).sum() <= 2 + UNDECIDED * decided.numel()
        assert_near(out[0], truth[0], TOLERANCE.gradient, "activations")
        return out

    monkeypatch.setattr(dispatch, "call", checked)
    assert model(weights.model_input(GOLDEN).float()).isfinite().all()
    assert {op: ops.count(op) for op in REFERENCES} == {"psp_conv2d": 7, "psp_linear": 3, "rel_psp": 9}
