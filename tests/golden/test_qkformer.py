"""Our QKFormer against figures of the authors' network, in the `legacy` form that keeps its faults."""

import functools
import warnings
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm.kernels import Dynamics, dispatch
from spimm.kernels.lif import reference as lif_reference
from spimm.kernels.norm_lif import reference as norm_lif_reference
from spimm.kernels.norm_pool_lif import reference as norm_pool_lif_reference
from spimm.kernels.qk_mask import reference as qk_mask_reference
from spimm.layers import TokenMask
from spimm.models import qkformer_keys
from spimm.models.official import official_keys

from ..kernels.conftest import TOLERANCES, Potentials, assert_spike_parity
from . import weights

RELATIVE_ERROR = 1e-8


class Run(NamedTuple):
    """One pass in one mode: logits, firing rates by the authors' names, and gradient norms (train mode)."""

    logits: Tensor
    rates: dict[str, float]
    gradients: dict[str, float]


REFERENCES = {
    "norm_lif": norm_lif_reference.norm_lif,
    "norm_pool_lif": norm_pool_lif_reference.norm_pool_lif,
    "token_mask": qk_mask_reference.token_mask,
    "lif": lif_reference.lif,
}
COUNTING = ("token_mask", "lif")  # neurons that integrate whole numbers, or eighths of them
GOLDEN = weights.load("qkformer_cifar_4_384_T4_legacy")


def build(dtype: torch.dtype) -> nn.Module:
    tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.state_dict(GOLDEN).items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="legacy=True", category=UserWarning)
        return spimm.load_official("qkformer_4_384_cifar", tensors, num_steps=GOLDEN["meta"]["T"], legacy=True)


@functools.cache
def run(mode: str) -> Run:
    """The float64 model on the golden input, in `eval` or `train` mode."""
    model = build(torch.float64).train(mode == "train")
    rates: dict[str, float] = {}
    modules = dict(model.named_modules())
    for ours, theirs in qkformer_keys.unit_names(model).items():

        def keep(
            module: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor, theirs: list[str] = theirs
        ) -> None:
            if isinstance(module, TokenMask):
                output = module.mask(args[0])
            elif kwargs.get("added") is not None:
                output = output - kwargs["added"]
            for name, part in zip(theirs, output.chunk(len(theirs), dim=2), strict=True):
                rates[f"{name}_lif"] = part.mean().item()

        modules[ours].register_forward_hook(keep, with_kwargs=True)
    with torch.set_grad_enabled(mode == "train"):
        logits = model(weights.model_input(GOLDEN))
    gradients: dict[str, float] = {}
    if mode == "train":
        (logits * weights.loss_weights(GOLDEN, logits)).sum().backward()
        parameters = dict(model.named_parameters())
        for ours, theirs in official_keys(model, "qkformer").items():
            if ours in parameters:
                parts = parameters[ours].grad.chunk(len(theirs))
                gradients |= {name: part.norm().item() for name, part in zip(theirs, parts, strict=True)}
    return Run(logits.detach(), rates, gradients)


@pytest.fixture(autouse=True)
def every_test_runs_on(one_thread: None) -> None:
    """One thread."""


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_logits_are_those_of_the_authors_network(mode: str) -> None:
    expected = torch.tensor(GOLDEN[f"{mode}_logits"], dtype=torch.float64)
    assert (run(mode).logits - expected).abs().max() <= RELATIVE_ERROR * expected.abs().max()


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_every_neuron_fires_as_often_as_the_authors(mode: str) -> None:
    assert run(mode).rates == pytest.approx(GOLDEN[f"{mode}_firing_rates"], rel=RELATIVE_ERROR, abs=0)


def test_every_gradient_is_as_long_as_the_authors() -> None:
    expected = GOLDEN["grad_l2"]
    rounding = 1e-12 * max(expected.values())  # a bias in front of batch norm has no gradient but that of rounding
    assert run("train").gradients == pytest.approx(expected, rel=RELATIVE_ERROR, abs=rounding)


@pytest.mark.parametrize("training", [False, True])
def test_the_cpu_kernels_decide_every_spike_of_this_network_as_the_reference(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ops = build(torch.float32).train(training), []
    assert sum(parameter.numel() for parameter in model.parameters()) == GOLDEN["params"]
    original = dispatch.call

    def checked(op: str, backend: str, *inputs: Any, **settings: Any) -> Any:
        """The op on the CPU backend, its spikes held against the reference in float64 on the same inputs."""
        ops.append(op)
        results = original(op, "cpu", *inputs, **settings)
        if op not in REFERENCES:
            return results
        (dynamics,) = (value for value in inputs if isinstance(value, Dynamics))
        fire = Potentials(dynamics.surrogate)
        exact = [x.double() if isinstance(x, Tensor) else x for x in inputs]
        out, truth = results[0], REFERENCES[op](*exact, **settings, fire=fire)[0]
        if op in COUNTING:  # counts, halved a few times, are exact: no doubt
            assert torch.equal(out.double(), truth)
            return results
        added = exact[-1] if op == "norm_lif" and exact[-1] is not None else 0
        assert_spike_parity(out - added, truth - added, fire.decided(TOLERANCES[torch.float32].potential))
        return results

    monkeypatch.setattr(dispatch, "call", checked)
    with torch.no_grad():
        logits = model(weights.model_input(GOLDEN).float())
    assert {op: ops.count(op) for op in (*REFERENCES, "spike_conv2d", "spike_attention")} == {
        "norm_lif": 23, "norm_pool_lif": 2, "token_mask": 2, "lif": 2, "spike_conv2d": 25, "spike_attention": 2,
    }  # fmt: skip
    assert logits.isfinite().all()
