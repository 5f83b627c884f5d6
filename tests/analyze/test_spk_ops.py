"""SPK blocks and attention in groups: what is recorded of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spimm.analyze import Trace, energy, implied_rate, record
from spimm.layers import (
    Activation,
    ConvNormNeuron,
    GroupAttention,
    as_sequence,
    create_spk,
)
from spimm.neurons import IF, LIF, MultiLIF, Neuron

Build = Callable[..., nn.Module]
THRESHOLDS = (0.5, 1.0, 2.0)
SMALL: dict[str, Any] = {"widths": (8, 16), "depths": (1, 2), "strides": (1, 2), "group_size": 3, "head_dim": 4}


class Alone(nn.Module):
    """A block on a sequence of four channels."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        steps, num_steps = as_sequence(x, 3, x.shape[-3])
        return self.block(steps, num_steps)


@torch.no_grad()
def traced(model: nn.Module, x: Tensor) -> Trace:
    with record(model) as recorder:
        model(x)
    return recorder.trace()


@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_each_threshold_has_its_own_firing_rate(combine: str) -> None:
    torch.manual_seed(0)
    x = 4 * torch.rand(2, 4, 5, 5)
    spikes = MultiLIF(LIF(), THRESHOLDS, combine=combine)
    trace = traced(Alone(spikes), x)
    expected = {
        f"block[{threshold:g}]": LIF(threshold=threshold)(x.unsqueeze(0), 3).mean().item() for threshold in THRESHOLDS
    }
    assert trace.firing_rates() == pytest.approx(expected)
    assert len(set(expected.values())) == 3
    assert {(layer.output_shape, layer.steps) for layer in trace.layers} == {((4, 5, 5), 3)}


def test_the_branches_are_computed_once_for_all_thresholds_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    spikes, calls = MultiLIF(LIF(), THRESHOLDS), []
    compute = MultiLIF.branches

    def counted(module: MultiLIF, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        calls.append(module)
        return compute(module, *args, **kwargs)

    monkeypatch.setattr(MultiLIF, "branches", counted)
    model = Alone(spikes)
    with torch.no_grad(), record(model) as recorder:
        model(torch.zeros(1, 2, 2, 2))
        model(torch.full((1, 2, 2, 2), 8.0))
    assert calls == [spikes, spikes]
    assert list(recorder.trace().firing_rates().values()) == [0.5, 0.5, 0.5]


def test_equal_thresholds_are_told_apart() -> None:
    trace = traced(Alone(MultiLIF(LIF(), (1.0, 1.0))), torch.rand(1, 1, 2, 2))
    assert list(trace.firing_rates()) == ["block[1]", "block[1]#2"]


@pytest.mark.parametrize(
    ("kind", "form", "names"),
    [
        ("sl", None, [""]),
        ("rl", "parallel", ["[1]", "[2]"]),
        ("rl", "serial", [".first", ".second"]),
        ("hsl", None, [".first", ".second"]),
        ("dcl", "full_norm", [".first", ".second"]),
        ("mbpl", "depthwise", [".spikes[0.2]", ".spikes[1]", ".spikes[2]", ".spikes[4]"]),
        (
            "mbpl",
            "convnext",
            [".spikes[0.2]", ".spikes[1]", ".spikes[2]", ".spikes[4]", ".mix.0.neuron", ".mix.1.neuron"],
        ),
    ],
)
def test_every_neuron_of_a_block_is_recorded_once_also_behind_a_norm(
    kind: str, form: str | None, names: list[str]
) -> None:
    torch.manual_seed(0)

    def neuron_fn(threshold: float = 1.0) -> Neuron:
        return LIF(threshold=threshold)

    block = create_spk(kind, 4, neuron_fn=neuron_fn, form=form)
    trace = traced(Alone(block).eval(), 4 * torch.randn(2, 4, 5, 5))
    assert list(trace.firing_rates()) == [f"block{name}" for name in names]
    unit = ConvNormNeuron(4, 4, 1, neuron=block)
    behind = traced(Alone(unit).eval(), torch.randn(2, 4, 5, 5))
    assert list(behind.firing_rates()) == [f"block.neuron{name}" for name in names]


def _pairs(groups: Tensor) -> int:
    """Tokens that meet, by brute force."""
    flat = groups.flatten().tolist()
    return sum(a == b for a in flat for b in flat)


HEADS, WIDTH = 2, 6


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (1, 3)], ids=str)
@pytest.mark.parametrize("partition", ["grid", "window", "full"])
@pytest.mark.parametrize("shared", [False, True])
def test_attention_in_groups_counts_real_tokens_alone(shared: bool, partition: Any, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    core = GroupAttention(HEADS, 2, LIF(threshold=0.1), partition=partition, shared=shared)
    x = (torch.rand(2, 3, core.num_inputs * WIDTH, *size) < 0.4).float()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = core

        def forward(self, x: Tensor) -> Tensor:
            return self.core(as_sequence(x, 1, x.shape[2])[0])

    trace = traced(Net(), x)
    layer, groups = trace.layer("core"), core.groups(*size)
    scores, values = layer.products
    assert [(product.name, product.dense) for product in layer.products] == [
        ("q k^T", _pairs(groups) * WIDTH),
        ("map v", _pairs(groups) * WIDTH),
    ]
    if partition == "window" and size == (4, 4):
        assert scores.dense == 16 * 4 * WIDTH
    assert [entry.name for entry in layer.inputs] == (["q = k = v"] if shared else ["q", "k", "v"])
    assert (scores.gate, values.gate) == (("q = k = v",) * 2 if shared else ("q", "v"))
    parts = x.chunk(core.num_inputs, 2)
    for entry, part in zip(layer.inputs, parts, strict=True):
        assert entry.nonzero == pytest.approx(part.mean().item())
    met = (groups.flatten()[:, None] == groups.flatten()).float()
    q, k = (part.flatten(3) for part in (parts[0], parts[len(parts) // 2]))
    both = torch.einsum("btci,ij,btcj->", q, met, k).item()
    assert scores.paired == pytest.approx(both / (scores.dense * 2 * 3))
    assert values.paired is None
    assert list(trace.firing_rates()) == ["core.spk"]
    assert layer.steps == 3


@pytest.mark.parametrize("options", [{"spk": "gelu"}, {"spk": "relu", "attention": "bdsa"}], ids=str)
@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_spike_free_network_multiplies_everywhere(firing: Build, options: dict[str, Any], num_steps: int) -> None:
    model = firing("spikeatconv_cifar", **SMALL, **options, num_steps=num_steps)
    trace = traced(model, torch.rand(2, 3, 16, 16))
    assert trace.num_steps == num_steps and not trace.firing_rates()
    reports = [energy(trace, count_integers=flag) for flag in (False, True)]
    for report in reports:
        assert {line.operation for line in report.lines} == {"MAC"} and report.acs == 0
    first, *_, last = reports[0].lines
    assert [first.group, last.group] == ["input", "classifier"]
    assert sum(line.group == "input" for line in reports[0].lines) == 1
    if num_steps == 1:
        assert reports[0].millijoules == pytest.approx(reports[0].dense_millijoules)
    with pytest.raises(ValueError, match="is behind a neuron"):
        implied_rate(trace, 1.0)
    with pytest.raises(ValueError, match="takes a rate"):
        energy(trace, count_integers=False, rates={"head": 0.5})


def test_inputs_that_are_all_zero_still_multiply_without_neurons() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 2, 1)
            self.activation = Activation(nn.ReLU())
            self.second = nn.Conv2d(2, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.activation(-self.first(x).abs().unsqueeze(0)).squeeze(0))

    report = energy(traced(Net(), torch.rand(1, 1, 2, 2)), count_integers=False)
    assert [(line.operation, line.operations) for line in report.lines] == [("MAC", 8), ("MAC", 8)]


def test_a_unit_that_fires_in_one_op_keeps_its_probe() -> None:
    trace = traced(Alone(ConvNormNeuron(4, 4, 1, neuron=IF())).eval(), torch.randn(2, 4, 5, 5))
    assert list(trace.firing_rates()) == ["block.neuron"]
