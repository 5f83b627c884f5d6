from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spimm.analyze import Layer, Probe, Trace, Work, probe, record
from spimm.kernels import use_backend
from spimm.layers import TokenMask, as_sequence
from spimm.neurons import IF, Neuron

Build = Callable[..., nn.Module]


@torch.no_grad()
def traced(model: nn.Module, *batches: Tensor) -> Trace:
    with record(model) as recorder:
        for batch in batches:
            model(batch)
    return recorder.trace()


def test_a_network_counted_by_hand_has_these_rates(countable: Build, one_pixel: Tensor) -> None:
    trace = traced(countable(), one_pixel)
    assert (trace.model, trace.num_steps, trace.samples) == ("CountableNet", 4, 2)
    names = ["stem.conv", "stem.neuron", "body.conv", "body.neuron", "head"]
    assert [layer.name for layer in trace.layers] == names
    stem = trace.layer("stem.neuron")
    assert stem.output_shape == (2, 2, 2)
    assert stem.step_rates == (1 / 16, 2 / 16, 1 / 16, 2 / 16)  # 1 or 2 spikes of 2 samples, 2 channels, 4 pixels
    assert stem.rate == pytest.approx(6 / 64)
    assert stem.channel_rates == (2 / 32, 4 / 32)  # 2 and 4 spikes of 2 samples, 4 steps, 4 pixels
    assert (stem.silent, stem.saturated) == (0, 0)
    body = trace.layer("body.neuron")  # 3x3 over 2x2: each pixel of the first image sees every spike, and fires
    assert body.step_rates == (0.5, 0.5, 0.5, 0.5)
    assert trace.firing_rates() == {"stem.neuron": stem.rate, "body.neuron": 0.5}


def test_the_first_convolution_of_a_static_image_is_computed_in_one_step(countable: Build, one_pixel: Tensor) -> None:
    trace = traced(countable(), one_pixel)
    assert [layer.steps for layer in trace.layers] == [1, 4, 4, 4, 1]
    image = trace.layer("stem.conv").input("x")
    assert not image.integers
    assert (image.nonzero, image.mean) == (1 / 8, pytest.approx(0.6 / 8))


def test_a_sequence_of_equal_frames_gives_the_rates_of_the_image(countable: Build, one_pixel: Tensor) -> None:
    frames = one_pixel.unsqueeze(1).expand(-1, 4, -1, -1, -1)
    still, moving = traced(countable(), one_pixel), traced(countable(), frames)
    assert moving.num_steps == 4
    assert moving.firing_rates() == still.firing_rates()
    assert moving.layer("stem.conv").steps == 4
    assert moving.layer("body.conv") == still.layer("body.conv")
    assert traced(countable(), one_pixel.unsqueeze(1)).num_steps == 1


def test_the_neuron_behind_a_pool_is_seen_where_it_is_called(countable: Build, one_pixel: Tensor) -> None:
    trace = traced(countable(pool=True), one_pixel)
    assert trace.layer("body.neuron").output_shape == (1, 1, 1)
    assert trace.layer("body.conv").output_shape == (1, 2, 2)
    assert [layer.name for layer in trace.layers].count("body.neuron") == 1


def test_channels_that_never_or_always_fire_are_counted(countable: Build) -> None:
    bright = traced(countable(), torch.full((1, 1, 2, 2), 0.6)).layer("stem.neuron")
    assert (bright.silent, bright.saturated) == (0, 0.5)
    dark = traced(countable(), torch.full((1, 1, 2, 2), 0.15)).layer("stem.neuron")
    assert (dark.silent, dark.saturated) == (0.5, 0.5)


def test_heads_are_the_channels_of_a_token_mask() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = TokenMask(4, IF())

        def forward(self, x: Tensor) -> Tensor:
            steps, _ = as_sequence(x, 1, 8)
            return self.core(torch.cat((steps, steps), 2))

    x = torch.zeros(2, 3, 8, 5, 5)
    x[:, :, 2:4] = 1  # one of four heads
    mask = traced(Net(), x).layer("core.neuron")
    assert mask.output_shape == (5, 5, 4)
    assert (mask.silent, mask.saturated) == (0.75, 0.25)


def test_batches_add_up_to_what_they_are_together(firing: Build) -> None:
    model, x = firing(), torch.rand(6, 1, 8, 8)
    apart, together = traced(model, x[:2], x[2:]), traced(model, x)
    assert (apart.samples, together.samples) == (6, 6)
    assert apart.firing_rates() == together.firing_rates()
    for mine, theirs in zip(apart.layers, together.layers, strict=True):
        assert (mine.name, mine.steps, mine.step_rates) == (theirs.name, theirs.steps, theirs.step_rates)
        assert [product.dense for product in mine.products] == [product.dense for product in theirs.products]
        for ours, other in zip(mine.inputs, theirs.inputs, strict=True):
            assert (ours.nonzero, ours.histogram) == (other.nonzero, other.histogram)
            assert ours.mean == pytest.approx(other.mean, rel=1e-5)


def test_recorded_rates_are_those_of_the_tensors(firing: Build) -> None:
    model, x = firing(), torch.rand(3, 1, 8, 8)
    trace = traced(model, x)
    with torch.no_grad():
        unit = model.stages[1].embed.units[0]
        spikes = unit(model.stages[0](as_sequence(x, 4, 1)[0], 4))
    layer = trace.layer("stages.1.embed.units.0.neuron")
    assert 0.01 < layer.rate < 0.9
    assert layer.step_rates == pytest.approx(spikes.mean((1, 2, 3, 4)).tolist(), rel=1e-6)


def test_joined_steps_are_put_back_in_their_place(firing: Build) -> None:
    model, x = firing(legacy=True), torch.rand(3, 1, 8, 8)
    seen: dict[str, Tensor] = {}
    attention = model.stages[2].blocks[0].attention.branch
    attention.register_forward_hook(
        lambda module, args, kwargs, output: seen.update(attention=output - kwargs["added"]), with_kwargs=True
    )
    attention.proj.register_forward_hook(lambda module, args, output: seen.update(unit=output))
    trace = traced(model, x)
    assert seen["unit"].shape[:2] == (12, 1)  # [T*B, 1, ...]
    neuron, conv = (trace.layer(f"stages.2.blocks.0.attention.branch.proj.{part}") for part in ("neuron", "conv"))
    assert (neuron.steps, conv.steps) == (4, 4)
    assert neuron.step_rates == pytest.approx(seen["attention"].mean((1, 2, 3, 4)).tolist(), rel=1e-6)
    assert len(set(neuron.step_rates)) > 1


def _fingerprint(model: nn.Module) -> list[Any]:
    """Attributes (also private ones), hooks, mode and parameters of every module."""
    return [
        (name, sorted(module.__dict__), module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ] + [(key, value.clone()) for key, value in model.state_dict().items()]


def _same(before: list[Any], after: list[Any]) -> bool:
    return all(
        torch.equal(a[1], b[1]) if isinstance(a[1], Tensor) else a == b for a, b in zip(before, after, strict=True)
    )


def test_recording_leaves_the_model_and_its_output_alone(firing: Build) -> None:
    model, x = firing(), torch.rand(2, 1, 8, 8)
    before, alone = _fingerprint(model), model(x)
    with record(model):
        recorded = model(x)
    recorded.sum().backward()
    assert torch.equal(alone, recorded)
    assert _same(before, _fingerprint(model))


def test_after_an_error_hooks_are_gone_and_the_call_counts_for_nothing(countable: Build, one_pixel: Tensor) -> None:
    model = countable()
    before = _fingerprint(model)
    model.head.register_forward_pre_hook(lambda module, args: one_pixel.unknown if len(args[0]) == 3 else None)
    with record(model) as recorder:
        model(one_pixel)
        with pytest.raises(AttributeError):
            model(one_pixel[:1].expand(3, -1, -1, -1))
        model(one_pixel)
    assert recorder.trace() == traced(model, one_pixel, one_pixel)
    with pytest.raises(AttributeError), record(model):
        model(one_pixel[:1].expand(3, -1, -1, -1))
    model.head._forward_pre_hooks.clear()
    assert _same(before, _fingerprint(model))


def test_a_neuron_that_breaks_its_promise_is_named(countable: Build, one_pixel: Tensor) -> None:
    model = countable(pool=True)
    model.body.register_forward_hook(lambda module, args, output: output / 2)
    with pytest.raises(ValueError, match=r"'body\.neuron' gives 0\.5; wanted spikes, exactly 0 or 1"):
        traced(model, one_pixel)


def test_values_that_are_not_finite_are_named(countable: Build, one_pixel: Tensor) -> None:
    with pytest.raises(ValueError, match=r"'stem\.conv' holds values that are not finite"):
        traced(countable(), one_pixel * float("nan"))


def test_shapes_and_steps_that_change_are_refused(firing: Build) -> None:
    model = firing()
    with pytest.raises(ValueError, match="record them apart"):
        traced(model, torch.rand(2, 1, 8, 8), torch.rand(2, 1, 16, 16))
    with pytest.raises(ValueError, match="ran 4 steps before and 5 now"):
        traced(model, torch.rand(2, 1, 8, 8), torch.rand(2, 5, 1, 8, 8))


def test_nothing_recorded_is_an_error(countable: Build, one_pixel: Tensor) -> None:
    model = countable()
    with record(model) as recorder, pytest.raises(ValueError, match=r"'stem\.conv' ran outside a call of CountableNet"):
        model.stem(one_pixel.unsqueeze(0))
    with record(model), pytest.raises(ValueError, match="CountableNet was called without a sample"):
        model(one_pixel[:0])
    with pytest.raises(ValueError, match="no batch of CountableNet was recorded"):
        recorder.trace()


def test_a_layer_that_runs_twice_gets_two_entries(countable: Build, one_pixel: Tensor) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = countable()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) + self.net(2 * x)

    trace = traced(Twice(), one_pixel)
    assert [layer.name for layer in trace.layers[-2:]] == ["net.body.neuron#2", "net.head#2"]
    once, twice = (trace.layer(name).input("x").mean for name in ("net.stem.conv", "net.stem.conv#2"))
    assert twice == pytest.approx(2 * once)


def test_a_new_kind_of_layer_needs_only_a_probe() -> None:
    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = Gate()

        def forward(self, x: Tensor) -> Tensor:
            return self.gate(as_sequence(x, 1, 1)[0])

    @probe.register
    def _(module: Gate) -> tuple[Probe, ...]:
        return (Probe("gate", ("x",), lambda inputs, output: (Work("square", output[0, 0].numel(), gate=0),)),)

    trace = traced(Net(), torch.ones(2, 3, 1, 4, 4))
    assert trace.num_steps == 3
    (layer,) = trace.layers
    assert (layer.name, layer.kind, layer.dense, layer.steps) == ("gate", "gate", 16, 3)


@pytest.mark.parametrize(
    ("shape", "steps"), [((6, 5), 3), ((6, 7, 5), 3), ((3, 2, 5), 3), ((3, 2, 7, 5), 3), ((2, 5), 1)], ids=str
)
def test_a_linear_layer_finds_its_steps_in_every_layout(shape: tuple[int, ...], steps: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(torch.ones(shape))

    layer = traced(Net(), torch.ones(2, 3)).layer("linear")
    assert layer.dense * layer.steps * 2 == torch.Size(shape).numel() * 4
    assert layer.steps == steps


def _most_different(a: Trace, b: Trace) -> float:
    return max(abs(rate - b.firing_rates()[name]) for name, rate in a.firing_rates().items())


def test_backends_give_the_same_trace_up_to_rare_spikes(firing: Build) -> None:
    model, x = firing(), torch.rand(4, 1, 8, 8)
    with use_backend("reference"):
        reference = traced(model, x)
    with use_backend("cpu"):
        compiled = traced(model, x)
    assert _most_different(reference, compiled) < 2e-3
    assert [(layer.name, layer.dense, layer.steps) for layer in reference.layers] == [
        (layer.name, layer.dense, layer.steps) for layer in compiled.layers
    ]


def test_spikes_in_bfloat16_are_counted_as_in_float32(firing: Build) -> None:
    model, x = firing(), torch.rand(4, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        trace = traced(model, x)
    first = trace.layer("stages.0.embed.units.0.neuron")
    assert first.rate == pytest.approx(traced(model, x).layer(first.name).rate, abs=0.02)
    assert trace.layer("stages.0.embed.units.1.conv").input("x").nonzero == first.rate


def _layers(trace: Trace, ending: str) -> list[Layer]:
    return [layer for layer in trace.layers if layer.name.endswith(ending)]


def test_the_stream_holds_0_to_2_behind_an_embedding_and_0_to_4_behind_a_block(firing: Build) -> None:
    trace = traced(firing(depths=(2, 1, 1)), torch.rand(4, 1, 8, 8))
    for name, highest in (
        ("stages.0.blocks.0.attention.branch.qkv.conv", 2),
        ("stages.0.blocks.0.mlp.branch.expand.conv", 3),
        ("stages.0.blocks.1.attention.branch.qkv.conv", 4),
        ("stages.1.embed.units.0.conv", 6),
    ):
        stream = trace.layer(name).input("x")
        assert stream.integers
        assert [value for value, fraction in enumerate(stream.histogram) if fraction] == list(range(highest + 1)), name
        assert sum(stream.histogram) == pytest.approx(1)
        assert stream.mean == pytest.approx(sum(value * part for value, part in enumerate(stream.histogram)))
        assert stream.nonzero == pytest.approx(1 - stream.histogram[0])
    inner = _layers(trace, "units.1.conv") + _layers(trace, "proj.conv") + _layers(trace, "contract.conv")
    assert all(layer.inputs[0].histogram[2:] == (0,) * 15 for layer in inner)


@pytest.mark.parametrize(
    "options",
    [
        {"neuron": "if"},
        {"neuron": "plif"},
        {"neuron": "if", "attention_neuron": "plif"},
        {"attention": ("qkca", "qkca", "ssa")},
        {"attention": ("ssa", "ssa", "ssa"), "merge_scale": True},
        {"deformed_shortcut": False},
    ],
    ids=str,
)
def test_every_option_of_the_family_is_recorded_in_full(firing: Build, options: dict[str, Any]) -> None:
    model = firing(**options)
    trace = traced(model, torch.rand(2, 1, 8, 8))
    neurons = sum(isinstance(module, Neuron) for module in model.modules())
    assert len(trace.firing_rates()) == neurons
    assert len([layer for layer in trace.layers if layer.kind == "attention"]) == 3
    assert all(0 <= rate <= 1 for rate in trace.firing_rates().values())
    assert all(entry.integers for layer in trace.layers[1:-1] for entry in layer.inputs)


def test_with_membrane_shortcuts_every_layer_behind_the_first_sees_spikes(firing: Build) -> None:
    trace = traced(firing(shortcut="membrane"), torch.rand(2, 1, 8, 8))
    synaptic = [layer for layer in trace.layers if layer.kind in ("conv", "attention")]
    assert all(entry.histogram[2:] == (0,) * 15 for layer in synaptic[1:] for entry in layer.inputs)
