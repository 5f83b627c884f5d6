"""Our QKFormer against figures of the authors' network, in the `legacy` form that keeps its faults."""

import functools
import warnings

import pytest
import torch
from torch import nn

import spimm
from spimm.models import qkformer_keys

from . import runs, weights

GOLDEN = weights.load("qkformer_cifar_4_384_T4_legacy")


def build(dtype: torch.dtype) -> nn.Module:
    tensors = weights.state_dict(GOLDEN, dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="legacy=True", category=UserWarning)
        return spimm.load_official("qkformer_4_384_cifar", tensors, num_steps=GOLDEN["meta"]["T"], legacy=True)


@functools.cache
def run(mode: str) -> runs.Run:
    model = build(torch.float64).train(mode == "train")
    units = qkformer_keys.unit_names(model)
    neurons = {ours: [f"{name}_lif" for name in theirs] for ours, theirs in units.items()}
    return runs.run(model, GOLDEN, "qkformer", neurons)


@pytest.fixture(autouse=True)
def every_test_runs_on(one_thread: None) -> None:
    """One thread."""


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_logits_are_those_of_the_authors_network(mode: str) -> None:
    runs.assert_logits(run(mode).logits, GOLDEN[f"{mode}_logits"])


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_every_neuron_fires_as_often_as_the_authors(mode: str) -> None:
    runs.assert_rates(run(mode).rates, GOLDEN[f"{mode}_firing_rates"])


def test_every_gradient_is_as_long_as_the_authors() -> None:
    runs.assert_gradients(run("train").gradients, GOLDEN["grad_l2"])


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_the_cpu_kernels_decide_every_spike_of_this_network_as_the_reference(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ops = build(torch.float32).train(training), runs.check_kernels(monkeypatch)
    assert sum(parameter.numel() for parameter in model.parameters()) == GOLDEN["params"]
    logits = model(weights.model_input(GOLDEN).float())
    assert {op: ops.count(op) for op in (*runs.REFERENCES, "spike_conv2d", "spike_attention")} == {
        "norm_lif": 23, "norm_pool_lif": 2, "token_mask": 2, "lif": 2, "spike_conv2d": 25, "spike_attention": 2,
    }  # fmt: skip
    assert logits.isfinite().all()
