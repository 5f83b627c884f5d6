"""SPK blocks against single neurons and plain torch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, gelu, relu

from spimm.layers import FORMS, SPK, Activation, ConvNormNeuron, MixedMBPL, create_spk
from spimm.neurons import IF, LIF, PLIF, MultiLIF, Neuron, SpikeOutput
from spimm.surrogate import ATan

from .conftest import is_channels_last, lively, steps

CHANNELS = 6
BLOCKS = [(kind, form) for kind in SPK for form in FORMS.get(kind, (None,))]
every_block = pytest.mark.parametrize(("kind", "form"), BLOCKS)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # compiled and reference kernel
ATAN_LIF = partial(LIF, surrogate=ATan())


def block(kind: str, form: str | None = None, *, neuron_fn: Callable[..., Neuron] = ATAN_LIF, **settings: Any) -> Any:
    if (kind, form) == ("rl", "serial"):
        settings = {"thresholds": (1.0, 0.7), **settings}  # two spikes in a row reach the second
    return create_spk(kind, CHANNELS, neuron_fn=neuron_fn, form=form, **settings)


def currents(num_steps: int = 4, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return steps(num_steps, 2, CHANNELS, 5, 7, scale=4, seed=seed).to(dtype).requires_grad_()


def gradient(y: Tensor, x: Tensor) -> Tensor:
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)
    return torch.autograd.grad((y * weights).sum(), x, retain_graph=True)[0]


def assert_same(found: Tensor, expected: Tensor, x: Tensor) -> None:
    """Equal spikes, and gradients that differ by rounding alone."""
    assert torch.equal(found, expected)
    assert 0 < (expected > 0).double().mean() < 1
    tolerance = 1e-5 if x.dtype == torch.float32 else 1e-12
    torch.testing.assert_close(gradient(found, x), gradient(expected, x), atol=tolerance, rtol=tolerance)


@both_dtypes
@pytest.mark.parametrize("num_steps", [1, 4])
@pytest.mark.parametrize("form", ["sum", "concat"])
def test_mbpl_of_one_branch_is_sl(form: str, num_steps: int, dtype: torch.dtype) -> None:
    x = currents(num_steps, dtype)
    one, single = block("mbpl", form, thresholds=[1.0]), block("sl")
    assert one.output == single.output
    assert torch.equal(one(x), single(x)) and single(x).any()
    assert torch.equal(gradient(one(x), x), gradient(single(x), x))


@both_dtypes
@pytest.mark.parametrize("num_steps", [1, 4])
@pytest.mark.parametrize("neuron_fn", [ATAN_LIF, partial(IF, v_reset=None), partial(LIF, 3.0, detach_reset=False)])
def test_branches_are_separate_neurons_of_their_thresholds(
    neuron_fn: Callable[..., Neuron], num_steps: int, dtype: torch.dtype
) -> None:
    x = currents(num_steps, dtype)
    alone = [neuron_fn(threshold=threshold)(x) for threshold in (0.2, 1, 2, 4)]
    assert_same(block("mbpl", neuron_fn=neuron_fn)(x), torch.stack(alone).sum(0), x)
    assert_same(block("mbpl", "concat", neuron_fn=neuron_fn)(x), torch.cat(alone, 2), x)
    assert all(map(torch.equal, block("mbpl", neuron_fn=neuron_fn).branches(x), alone))


def test_branches_share_a_learnt_time_constant() -> None:
    spikes, x = block("mbpl", neuron_fn=PLIF), currents()
    assert [name for name, _ in spikes.named_parameters()] == ["neuron.w"]
    alone = torch.stack([PLIF(threshold=threshold)(x) for threshold in (0.2, 1, 2, 4)]).sum(0)
    assert torch.equal(spikes(x), alone)
    assert gradient(spikes(x), spikes.neuron.w).abs() > 0


@both_dtypes
def test_rl_is_the_printed_sum_of_two_neurons(dtype: torch.dtype) -> None:
    x = currents(dtype=dtype)
    assert_same(block("rl")(x), ATAN_LIF(threshold=1)(x) + ATAN_LIF(threshold=2)(x), x)


@both_dtypes
def test_the_second_neuron_of_serial_rl_fires_on_the_spikes_of_the_first(dtype: torch.dtype) -> None:
    x = currents(dtype=dtype)
    first = ATAN_LIF(threshold=1)(x)
    assert_same(block("rl", "serial")(x), first + ATAN_LIF(threshold=0.7)(first), x)


def test_serial_rl_with_the_thresholds_of_the_table_is_sl() -> None:
    x = currents(8)
    serial = block("rl", "serial", thresholds=(1.0, 2.0))
    assert torch.equal(serial(x[:1]), block("sl")(x[:1]))
    assert torch.equal(serial(x), block("sl")(x))


@both_dtypes
def test_each_half_of_hsl_has_a_threshold_and_a_time_constant(dtype: torch.dtype) -> None:
    x = currents(dtype=dtype)
    first, second = x[:, :, :3], x[:, :, 3:]
    plain = torch.cat([ATAN_LIF(threshold=1)(first), ATAN_LIF(threshold=2)(second)], 2)
    assert_same(block("hsl")(x), plain, x)
    own = torch.cat([ATAN_LIF(1.5, threshold=0.7)(first), ATAN_LIF(4.0, threshold=0.3)(second)], 2)
    assert_same(block("hsl", thresholds=(0.7, 0.3), taus=(1.5, 4.0))(x), own, x)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("form", FORMS["dcl"])
def test_dcl_is_two_convolutions_with_a_neuron_each(form: str, training: bool) -> None:
    dcl, x = lively(block("dcl", form, thresholds=(0.5, 0.8))).double().train(training), currents()
    halves = []
    for kernel, inputs in ((3, x[:, :, :3]), (5, x[:, :, 3:])):
        conv, norm = getattr(dcl, f"conv{kernel}"), getattr(dcl, f"norm{kernel}")
        inputs = inputs if form.startswith("split") else x
        assert conv.weight.shape == (3, inputs.shape[2], kernel, kernel)
        y = conv2d(inputs.flatten(0, 1), conv.weight, conv.bias, padding=kernel // 2)
        assert (norm is None) == (not form.endswith("norm")) == (conv.bias is not None)
        if norm is not None:
            mean, var = norm.running_mean.clone(), norm.running_var.clone()
            y = batch_norm(y, mean, var, norm.weight, norm.bias, training=training)
        halves.append(ATAN_LIF(threshold=0.5 if kernel == 3 else 0.8)(y.unflatten(0, x.shape[:2])))
    assert_same(dcl(x), torch.cat(halves, 2), x)


def test_mbpl_mixed_depthwise_is_the_sum_of_a_convolution_for_each_branch() -> None:
    mixed, x = block("mbpl", "depthwise").double().train(), currents()
    kernels = mixed.mix.conv.weight.chunk(4)
    spikes = [ATAN_LIF(threshold=threshold)(x).flatten(0, 1) for threshold in (0.2, 1, 2, 4)]
    y = sum(conv2d(s, w, padding=3, groups=CHANNELS) for s, w in zip(spikes, kernels, strict=True))
    expected = batch_norm(y, None, None, mixed.mix.norm.weight, mixed.mix.norm.bias, training=True)
    torch.testing.assert_close(mixed(x).flatten(0, 1), expected, atol=1e-10, rtol=1e-10)


def test_mbpl_mixed_by_a_convnext_adds_the_number_of_spikes() -> None:
    mixed, x = lively(block("mbpl", "convnext")).double().eval(), currents()
    depthwise, expand, contract = mixed.mix

    def norm(unit: nn.Module, y: Tensor) -> Tensor:
        return unit.norm(y).unflatten(0, x.shape[:2])

    y = block("mbpl", "concat")(x)
    y = ATAN_LIF()(norm(depthwise, conv2d(y.flatten(0, 1), depthwise.conv.weight, padding=3, groups=4 * CHANNELS)))
    y = ATAN_LIF()(norm(expand, conv2d(y.flatten(0, 1), expand.conv.weight)))
    y = norm(contract, conv2d(y.flatten(0, 1), contract.conv.weight))
    assert expand.conv.weight.shape == (16 * CHANNELS, 4 * CHANNELS, 1, 1)
    torch.testing.assert_close(mixed(x), block("mbpl", "sum")(x) + y, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    "spk",
    [block("sl"), block("rl"), block("rl", "serial"), block("mbpl"), block("mbpl", "concat")],
    ids=["sl", "rl", "serial", "mbpl", "concat"],
)
def test_step_by_step_equals_all_steps_at_once(spk: Any) -> None:
    x, state, found = currents(), None, []
    for step in x:
        y, state = spk.step(step, state)
        found.append(y)
    assert_same(torch.stack(found), spk(x), x)


@torch.no_grad()
@every_block
def test_values_are_of_the_declared_kind_and_reach_its_top_level(kind: str, form: str | None) -> None:
    spk, x = lively(block(kind, form)).eval(), 5 * currents(6, torch.float32)
    y, output = spk(x), spk.output
    assert y.shape == (6, 2, output.branches * CHANNELS, 5, 7)
    if output.kind == "real":
        assert isinstance(spk, MixedMBPL) and not torch.equal(y, y.round())
    else:
        assert y.unique().tolist() == list(range(output.levels + 1))
        assert (output.levels > 1) == (output.kind == "integer")
        assert (output.branches > 1) == (output.kind == "concatenated")


@pytest.mark.parametrize(
    ("form", "count", "output"),
    [
        ("sum", 1, SpikeOutput("binary")),
        ("sum", 3, SpikeOutput("integer", 3)),
        ("concat", 1, SpikeOutput("binary")),
        ("concat", 3, SpikeOutput("concatenated", 1, 3)),
        ("depthwise", 3, SpikeOutput("real")),
    ],
)
def test_the_declaration_follows_the_number_of_thresholds(form: str, count: int, output: SpikeOutput) -> None:
    assert block("mbpl", form, thresholds=range(1, count + 1)).output == output


@every_block
@pytest.mark.parametrize("training", [False, True])
def test_a_shared_input_equals_its_repetition(kind: str, form: str | None, training: bool) -> None:
    results = []
    for times in (1, 3):
        torch.manual_seed(0)
        spk, x = lively(block(kind, form)).double().train(training), currents(1)
        y = spk(x.expand(times, -1, -1, -1, -1), 3)
        assert y.any()
        results.append([y, gradient(y, x), *spk.state_dict().values()])
    for shared, repeated in zip(*results, strict=True):
        torch.testing.assert_close(shared, repeated, atol=1e-10, rtol=1e-9)


@every_block
def test_memory_stays_channels_last(kind: str, form: str | None) -> None:
    spk = block(kind, form).to(memory_format=torch.channels_last)
    assert is_channels_last(spk(currents(dtype=torch.float32)))


@pytest.mark.parametrize(("kind", "function"), [("relu", relu), ("gelu", gelu)])
def test_an_activation_stands_where_spikes_would_be(kind: str, function: Callable[[Tensor], Tensor]) -> None:
    activation, x = block(kind), currents()
    assert isinstance(activation, Activation) and activation.output.kind == "real"
    assert torch.equal(activation(x), function(x)) and torch.equal(activation(x, 4), function(x))
    assert torch.equal(activation(x[:1], 3), function(x[:1]).repeat(3, 1, 1, 1, 1))


@pytest.mark.parametrize(
    ("pool", "shortcut"), [(False, None), (False, "behind"), (False, "first"), (True, None), (True, "behind")]
)
@pytest.mark.parametrize("training", [False, True])
def test_a_unit_takes_a_block_as_it_takes_a_neuron(training: bool, pool: bool, shortcut: str | None) -> None:
    x, results = currents(1), []
    for neuron in (ATAN_LIF(), MultiLIF(ATAN_LIF(), [1.0])):
        torch.manual_seed(0)
        unit = ConvNormNeuron(CHANNELS, 4, 3, neuron=neuron, pool=pool, adds_first=shortcut == "first")
        unit = lively(unit).double().train(training)
        size = (3, 4) if pool else (5, 7)
        added = None if shortcut is None else steps(3, 2, 4, *size, seed=2).double()
        y = unit(x, 3, added=added)
        results.append([y, gradient(y, x), *(value for key, value in unit.state_dict().items() if "norm" in key)])
    for with_neuron, with_block in zip(*results, strict=True):
        torch.testing.assert_close(with_block, with_neuron, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("mbp", {}, r"unknown SPK block 'mbp'; did you mean mbpl"),
        ("xyz", {}, r"unknown SPK block 'xyz'; did you mean sl, rl, mbpl, hsl, dcl, relu, gelu\?"),
        ("mbpl", {"form": "split"}, r"mbpl has no form 'split'; it has sum, concat, depthwise, convnext"),
        ("sl", {"form": "sum"}, r"sl has no form 'sum'; it has one"),
        ("sl", {"thresholds": (1.0, 2.0)}, r"sl has 1 neurons; 2 thresholds are given"),
        ("rl", {"thresholds": (1.0,)}, r"rl has 2 neurons; 1 thresholds are given"),
        ("hsl", {"thresholds": (1, 2, 3)}, r"hsl has 2 neurons; 3 thresholds are given"),
        ("mbpl", {"thresholds": ()}, r"thresholds are \(\); wanted 1 to 8 above 0.0"),
        ("mbpl", {"thresholds": range(1, 10)}, r"thresholds are \(1, .*, 9\); wanted 1 to 8 above 0.0"),
        ("mbpl", {"thresholds": (1.0, 0.0)}, r"thresholds are \(1.0, 0.0\); wanted 1 to 8 above 0.0"),
        ("mbpl", {"thresholds": (1.0, float("nan"))}, r"thresholds are \(1.0, nan\); wanted 1 to 8 above 0.0"),
        ("rl", {"thresholds": (-1.0, 1.0)}, r"thresholds are \(-1.0, 1.0\); wanted 1 to 8 above 0.0"),
        ("rl", {"thresholds": (1.0, 0.0), "form": "serial"}, r"threshold is 0.0; it must lie above the potential"),
        ("hsl", {"taus": (2.0,)}, r"taus are \(2.0,\) for the SPK block hsl; they are for hsl, one for each half"),
        ("mbpl", {"taus": (2.0, 3.0)}, r"taus are \(2.0, 3.0\) for the SPK block mbpl; they are for hsl"),
        ("relu", {"taus": (2.0, 3.0)}, r"taus are \(2.0, 3.0\) for the SPK block relu; they are for hsl"),
        ("relu", {"thresholds": (1.0,)}, r"thresholds are \(1.0,\); relu has none"),
        ("gelu", {"form": "sum"}, r"gelu has no form 'sum'"),
        ("hsl", {"channels": 5}, r"5 channels do not divide into two halves"),
        ("dcl", {"channels": 5}, r"5 channels do not divide into two halves"),
    ],
)
def test_blocks_without_meaning_are_refused(kind: str, settings: dict[str, Any], message: str) -> None:
    channels = settings.pop("channels", CHANNELS)
    with pytest.raises(ValueError, match=message):
        create_spk(kind, channels, neuron_fn=LIF, **settings)


def test_halves_of_an_odd_number_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x has shape \(1, 2, 5, 3, 3\); 5 channels do not divide into two halves"):
        block("hsl")(torch.zeros(1, 2, 5, 3, 3))


def test_an_unknown_way_to_combine_is_refused() -> None:
    with pytest.raises(ValueError, match="combine is 'mean'; wanted 'sum' or 'concat'"):
        MultiLIF(LIF(), [1.0], combine="mean")


def test_a_step_of_several_thresholds_leaves_the_neuron_alone_and_takes_a_state_for_each(monkeypatch) -> None:
    neuron = MultiLIF(LIF(), (0.5, 1.0, 2.0))
    x = 3 * torch.rand(2, 4, 3, 3)

    def changed(*_: object) -> None:
        raise AssertionError("two threads that step at once would see each other's threshold")

    monkeypatch.setattr("spimm.neurons.multi._threshold_of", changed)
    spikes, potentials = neuron.step(x)
    assert torch.equal(spikes, neuron(x.unsqueeze(0))[0]) and potentials.shape == (3, *x.shape)
    with pytest.raises(ValueError, match="state has 2 potentials; expected 3"):
        neuron.step(x, potentials[:2])
