"""Hooks and overridden forwards: whatever is attached to a neuron or a norm runs, and nothing else changes."""

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from spimm.deploy import fold
from spimm.layers import Readout, set_memory
from spimm.neurons import LIF, NEURONS, MultiLIF, Neuron, RelPSP, ReLU1, by_itself

from ..train.families import TINY, tiny_model

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in TINY},
    "qkca": ("qkformer", {"attention": "qkca"}),
    "legacy": ("qkformer", {"legacy": True}),
    "membrane": ("qkformer", {"shortcut": "membrane", "merge_scale": True}),
    "sdsa1": ("metaspikeformer", {"attention": "sdsa1", "shortcut": "vanilla"}),
    "sdsa2": ("metaspikeformer", {"attention": "sdsa2", "qkv_conv": "linear"}),
    "sdsa4": ("metaspikeformer", {"attention": "sdsa4", "neuron": "plif"}),
    "vsa": ("metaspikeformer", {"attention": "vsa", "shortcut": "spike_add"}),
    "bdsa": ("spikeatconv", {"attention": "bdsa", "spk": "sl"}),
    "convnext": ("spikeatconv", {"spk": "mbpl", "form": "convnext"}),
    "rl": ("resnet", {"spk": "rl"}),
    "serial": ("resnet", {"spk": "rl", "form": "serial"}),
    "hsl": ("resnet", {"spk": "hsl"}),
    "dcl": ("resnet", {"spk": "dcl", "form": "full_norm"}),
    "relu1": ("ttfs", {"neuron": "relu1"}),
}
WATCHED = (Neuron, MultiLIF, RelPSP, ReLU1, nn.BatchNorm2d)


def network(name: str, **changes: Any) -> nn.Module:
    family, options = NETWORKS[name]
    return tiny_model(family, **{**options, **changes})


def watched(model: nn.Module) -> dict[str, nn.Module]:
    """Neurons and norms by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, WATCHED)}


def calls_expected(model: nn.Module) -> Counter[str]:
    """One of each in a forward pass: of the neuron of a MultiLIF one a threshold, of one that is not read none."""
    counts = Counter(dict.fromkeys(watched(model), 1))
    for name, module in model.named_modules():
        if isinstance(module, MultiLIF):
            counts[f"{name}.neuron"] = len(module.thresholds)
        elif isinstance(module, Readout):
            counts[f"{name}.neuron"] = int(module.kind == "time")
    return +counts


@contextmanager
def counted(model: nn.Module, attach: Callable[[nn.Module, Any], Any]) -> Iterator[Counter[str]]:
    """Hooks on all that is watched, and how often each of them ran."""
    calls: Counter[str] = Counter()

    def note(name: str) -> Callable[..., None]:
        return lambda module, *_: calls.update([name])

    handles = [attach(module, note(name)) for name, module in watched(model).items()]
    yield calls
    for handle in handles:
        handle.remove()


def outcome(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Logits, all gradients, all buffers."""
    logits = model(x)
    logits = torch.stack(logits) if isinstance(logits, tuple) else logits
    grads = torch.autograd.grad(
        (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum(),
        list(model.parameters()),
        allow_unused=True,
    )
    return [logits.detach(), *(grad for grad in grads if grad is not None), *(b.clone() for b in model.buffers())]


def assert_same(left: list[Tensor], right: list[Tensor]) -> None:
    assert len(left) == len(right)
    scale = max(
        float(tensor.abs().max()) for tensor in left
    )  # the gradient of a bias before a norm is 0 but for rounding
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-12 * scale)


@pytest.fixture(autouse=True)
def every_test_runs_on(one_thread: None) -> None:
    """One thread."""


IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_hook_runs_and_changes_nothing(name: str, training: bool) -> None:
    model = network(name).train(training)
    other = copy.deepcopy(model)
    plain = outcome(model, IMAGES)
    with counted(other, nn.Module.register_forward_hook) as calls:
        hooked = outcome(other, IMAGES)
    assert calls == calls_expected(other)
    assert plain[0].std() > 0 or not training
    assert_same(plain, hooked)


def test_hooks_of_parts_that_are_computed_again_run_again() -> None:
    model, other = network("qkformer").train(), network("qkformer", checkpoint=True).train()
    with counted(other, nn.Module.register_forward_hook) as calls:
        hooked = outcome(other, IMAGES)
    assert calls.keys() == calls_expected(other).keys()
    assert set(calls.values()) == {1, 2}
    assert_same(outcome(model, IMAGES), hooked)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("ttfs", "relu1")])
def test_every_hook_runs_in_a_folded_model(name: str) -> None:
    folded = fold(network(name).eval())
    expected = folded(IMAGES)
    with counted(folded, nn.Module.register_forward_hook) as calls:
        torch.testing.assert_close(folded(IMAGES), expected, rtol=1e-9, atol=1e-9)
    assert calls == calls_expected(folded)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(
    "attach", [nn.Module.register_forward_pre_hook, nn.Module.register_full_backward_hook], ids=["pre", "backward"]
)
def test_hooks_of_other_kinds_run_too(name: str, attach: Callable[..., Any]) -> None:
    model = network(name).train()
    other = copy.deepcopy(model)
    with counted(other, attach) as calls:
        hooked = outcome(other, IMAGES)
    assert calls == calls_expected(other)
    assert_same(outcome(model, IMAGES), hooked)


@pytest.mark.parametrize("name", ["qkformer", "spikeatconv"])
def test_hooks_of_all_modules_run(name: str) -> None:
    model = network(name).train()
    names, calls = {module: name for name, module in watched(model).items()}, Counter[str]()
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, *_: calls.update([names[module]] if module in names else [])
    )
    try:
        model(IMAGES)
    finally:
        handle.remove()
    assert calls == calls_expected(model)


def test_packed_memory_and_hooks_go_together() -> None:
    model = network("qkformer", exact=False).train()
    set_memory(model, "packed")
    with counted(model, nn.Module.register_forward_hook) as calls:
        model(IMAGES).sum().backward()
    assert calls == calls_expected(model)


class Counted(LIF):
    """A LIF that notes its calls, in a forward of its own."""

    calls: ClassVar[Counter[int]] = Counter()

    def forward(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        Counted.calls[id(self)] += 1
        return super().forward(x, num_steps)


@pytest.mark.parametrize("folds", [False, True], ids=["plain", "folded"])
@pytest.mark.parametrize("name", [name for name in TINY if name != "ttfs"])
def test_a_forward_of_its_own_runs_everywhere(name: str, folds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEURONS, "counted", Counted)
    plain, model = network(name).eval(), network(name, neuron="counted").eval()
    if folds:
        plain, model = fold(plain), fold(model)
    Counted.calls.clear()
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), plain(IMAGES), rtol=1e-9, atol=1e-9)
    expected = calls_expected(model)
    made = {name: Counted.calls[id(module)] for name, module in watched(model).items() if isinstance(module, Counted)}
    assert made and made == {name: expected[name] for name in made}


def test_a_forward_put_on_a_module_or_on_a_class_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ran = network("qkformer").eval(), []
    before = model(IMAGES)
    neuron = model.stages[0].embed.units[0].neuron
    neuron.forward = lambda *inputs: (ran.append(neuron), LIF.forward(neuron, *inputs))[1]
    torch.testing.assert_close(model(IMAGES), before)
    assert ran == [neuron]
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda norm, x: (ran.append(norm), x)[1])
    model(IMAGES)
    assert {module for module in model.modules() if isinstance(module, nn.BatchNorm2d)} < set(ran)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_hook_returns_is_used(name: str, training: bool) -> None:
    model = network(name).train(training)
    scales = {part: torch.ones((), dtype=torch.float64, requires_grad=True) for part in calls_expected(model)}
    for part, scale in scales.items():
        model.get_submodule(part).register_forward_hook(lambda module, args, output, scale=scale: output * scale)
    logits = model(IMAGES)
    loss = torch.stack(logits).sum() if isinstance(logits, tuple) else logits.sum()
    grads = torch.autograd.grad(loss, [*scales.values()], allow_unused=True)
    unused = [part for part, grad in zip(scales, grads, strict=True) if grad is None]
    assert not unused


def test_stepping_aside_is_logged_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_itself, "_said", set())
    model = network("qkformer").eval()
    with caplog.at_level(logging.INFO, "spimm.layers"):
        model(IMAGES)
        assert not caplog.records
        with counted(model, nn.Module.register_forward_hook):
            model(IMAGES)
            model(IMAGES)
    said = sorted(record.getMessage() for record in caplog.records)
    assert said == [
        f"{kind} has hooks: it runs by itself, not in one op with its neighbours" for kind in ("BatchNorm2d", "LIF")
    ]
