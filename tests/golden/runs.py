"""A model against the golden figures of its authors' network, and its CPU kernels against the references."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from spimm.kernels import Dynamics, dispatch
from spimm.kernels.lif import reference as lif_reference
from spimm.kernels.norm_lif import reference as norm_lif_reference
from spimm.kernels.norm_pool_lif import reference as norm_pool_lif_reference
from spimm.kernels.qk_mask import reference as qk_mask_reference
from spimm.layers import TokenMask
from spimm.models.official import official_keys

from ..kernels.conftest import TOLERANCES, Potentials, assert_spike_parity
from . import weights

RELATIVE_ERROR, ROUNDING = 1e-8, 1e-9
REFERENCES = {
    "norm_lif": norm_lif_reference.norm_lif,
    "norm_pool_lif": norm_pool_lif_reference.norm_pool_lif,
    "token_mask": qk_mask_reference.token_mask,
    "lif": lambda *inputs, keep_v, **settings: lif_reference.lif(*inputs, **settings),
}


@dataclass(frozen=True, eq=False)
class Network:
    """A network of ours with weights and figures of its authors'."""

    family: str
    golden: dict[str, Any]
    build: Callable[[torch.dtype], nn.Module]
    neurons: Callable[[nn.Module], Mapping[str, list[str]]]
    """Our modules that fire -> the authors' names of their neurons."""
    ops: dict[str, int]
    """How often a forward pass calls each kernel."""


class Run(NamedTuple):
    """One pass in one mode: logits, firing rates by the authors' names, and gradient norms (train mode)."""

    logits: Tensor
    rates: dict[str, float]
    gradients: dict[str, float]


def run(network: Network, mode: str) -> Run:
    """The float64 model in `eval` or `train` mode on the golden input."""
    model, golden = network.build(torch.float64).train(mode == "train"), network.golden
    rates: dict[str, float] = {}
    for ours, theirs in network.neurons(model).items():

        def keep(
            module: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor, theirs: list[str] = theirs
        ) -> None:
            if isinstance(module, TokenMask):
                output = module.mask(args[0])
            elif kwargs.get("added") is not None:
                output = output - kwargs["added"]
            for name, part in zip(theirs, output.chunk(len(theirs), dim=2), strict=True):
                rates[name] = part.mean().item()

        model.get_submodule(ours).register_forward_hook(keep, with_kwargs=True)
    with torch.set_grad_enabled(model.training):
        logits = model(weights.model_input(golden))
    gradients: dict[str, float] = {}
    if model.training:
        (logits * weights.loss_weights(golden, logits)).sum().backward()
        parameters = dict(model.named_parameters())
        for ours, theirs in official_keys(model, network.family).items():
            if ours in parameters:
                parts = parameters[ours].grad.chunk(len(theirs))
                gradients |= {name: part.norm().item() for name, part in zip(theirs, parts, strict=True)}
    return Run(logits.detach(), rates, gradients)


def assert_logits(found: Tensor, expected: list[list[float]]) -> None:
    truth = torch.tensor(expected, dtype=torch.float64)
    assert (found - truth).abs().max() <= RELATIVE_ERROR * truth.abs().max()


def assert_rates(found: dict[str, float], expected: dict[str, float]) -> None:
    assert found == pytest.approx(expected, rel=RELATIVE_ERROR, abs=0)


def assert_gradients(found: dict[str, float], expected: dict[str, float]) -> None:
    """A bias in front of batch norm has no gradient but the rounding of what cancels: a part of its weight's."""
    assert found.keys() == expected.keys()
    for name, length in expected.items():
        layer, _, tensor = name.rpartition(".")
        rounding = ROUNDING * expected[f"{layer}.weight"] if tensor == "bias" else 0
        assert found[name] == pytest.approx(length, rel=RELATIVE_ERROR, abs=rounding), name


def check_kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs every op on the CPU backend from now on, and holds its spikes against the reference in float64 on the same
    float32 inputs. Returns the list that the names of the ops go to."""
    ops: list[str] = []
    original = dispatch.call

    def checked(op: str, backend: str, *inputs: Any, **settings: Any) -> Any:
        ops.append(op)
        results = original(op, "cpu", *inputs, **settings)
        if op not in REFERENCES:
            return results
        (dynamics,) = (value for value in inputs if isinstance(value, Dynamics))
        fire = Potentials(dynamics.surrogate)
        exact = [x.double() if isinstance(x, Tensor) else x for x in inputs]
        out, truth = results[0], REFERENCES[op](*exact, **settings, fire=fire)[0]
        if torch.equal((8 * exact[0]).round(), 8 * exact[0]):  # counts, halved a few times, are exact: no doubt
            assert torch.equal(out.double(), truth)
            return results
        added = exact[-2] if op == "norm_lif" and exact[-2] is not None else 0  # the thresholds of several come last
        assert_spike_parity(out - added, truth - added, fire.decided(TOLERANCES[torch.float32].potential))
        return results

    monkeypatch.setattr(dispatch, "call", checked)
    return ops
