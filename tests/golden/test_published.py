"""Our networks against figures of their authors' networks, and their CPU kernels against the references."""

import functools

import pytest
import torch

from . import metaspikeformer, qkformer, runs, weights

NETWORKS = {network.family: network for network in (qkformer.NETWORK, metaspikeformer.NETWORK)}
every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=list(NETWORKS))
both_modes = pytest.mark.parametrize("mode", ["eval", "train"])
run = functools.cache(runs.run)


@pytest.fixture(autouse=True)
def every_test_runs_on(one_thread: None) -> None:
    """One thread."""


@both_modes
@every_network
def test_logits_are_those_of_the_authors_network(network: runs.Network, mode: str) -> None:
    runs.assert_logits(run(network, mode).logits, network.golden[f"{mode}_logits"])


@both_modes
@every_network
def test_every_neuron_fires_as_often_as_the_authors(network: runs.Network, mode: str) -> None:
    runs.assert_rates(run(network, mode).rates, network.golden[f"{mode}_firing_rates"])


@every_network
def test_every_gradient_is_as_long_as_the_authors(network: runs.Network) -> None:
    runs.assert_gradients(run(network, "train").gradients, network.golden["grad_l2"])


@pytest.mark.parametrize("training", [False, True])
@every_network
@torch.no_grad()
def test_the_cpu_kernels_decide_every_spike_as_the_reference(
    network: runs.Network, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ops = network.build(torch.float32).train(training), runs.check_kernels(monkeypatch)
    assert sum(parameter.numel() for parameter in model.parameters()) == network.golden["params"]
    logits = model(weights.model_input(network.golden).float())
    assert {op: ops.count(op) for op in network.ops} == network.ops
    assert logits.isfinite().all()
