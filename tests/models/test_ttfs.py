"""DTA-TTFS: whole networks against the paper's equations in absolute time, twins, read-outs, sizes and options."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spimm
from spimm.analyze import record
from spimm.models.official import official_keys
from spimm.models.ttfs import TTFSConfig

from .conftest import count, shapes_only

SMALL: dict[str, Any] = {"image_size": 6, "convs": "4,5,M,6,M", "hidden": "7,6"}
PIXELS: dict[str, Any] = {**SMALL, "in_chans": 1, "code": "pixels", "padding": 1}
READOUTS = ["start", "end", "time"]


def build(options: dict[str, Any] = SMALL, *, name: str = "ttfs_vgg11", **more: Any) -> Any:
    return spimm.create_model(name, **{**options, **more}).double()


def images(count: int = 3, channels: int = 3, side: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, channels, side, side, generator=generator, dtype=torch.float64)
    return x if channels == 3 else x.clamp(0, 1)


def in_absolute_time(model: Any, x: Tensor, readout: str) -> Tensor:
    """Logits by Eqs. 1, 2, 5 and 7 as they stand: times from the image on, layer l fires between l T_w and (l + 1) T_w.

    t is infinite where a neuron is silent. Differentiable by autograd.
    """
    window, layer = model.config.window, 0
    t = torch.full_like(x, math.inf)

    def code(a: Tensor) -> Tensor:
        return torch.where(a > 0, (1 - a) * window, math.inf)

    def product(t: Tensor, weight: Tensor, by: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Potential where the window of `layer` starts and ends, and the spike time by Eq. 7."""
        fired = (t < math.inf).to(t.dtype)
        weights, weighted = by(fired, weight), by(torch.where(t < math.inf, t, 0), weight)
        start, end = (weights * window * (layer + after) - weighted for after in (0, 1))
        inside = (start < window) & (end >= 0)
        within = (window * (layer + 1) + weighted) / torch.where(inside, 1 + weights, 1)
        time = torch.where(inside, within, torch.full_like(end, math.inf)).masked_fill(start >= window, window * layer)
        return start, end, time

    def conv(t: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(t, weight, padding=model.config.padding)

    for stage in model.stages:
        for unit in stage:
            pool = getattr(unit, "pool", 1)
            if hasattr(unit, "conv"):
                t = code(conv(x, unit.conv.weight).clamp(0, 1))
            elif hasattr(unit, "product"):
                layer += 1
                t = product(t, unit.product.weight, conv)[2]
            else:
                t = code(x)
            t = -F.max_pool2d(-t, pool)
    t = t.flatten(1)
    for unit in model.hidden:
        layer += 1
        t = product(t, unit.product.weight, F.linear)[2]
    layer += 1
    start, end, time = product(t, model.head.weight, F.linear)
    return {"start": start, "end": end, "time": (window * layer - time).clamp(min=-window)}[readout]


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("options", [SMALL, {**SMALL, "window": 0.7}, PIXELS], ids=["direct", "window", "pixels"])
def test_logits_and_gradients_are_those_of_the_equations_as_printed(options: dict[str, Any], readout: str) -> None:
    model = build(options, readout=readout)
    x = images(channels=model.in_chans)
    found, expected = model(x), in_absolute_time(model, x, readout)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)
    assert found.std() > 0.1
    parameters = list(model.parameters())
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((logits * weights).sum(), parameters) for logits in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.any()
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-8)


def test_the_readouts_are_the_potential_at_both_ends_and_the_time() -> None:
    model = build()
    drive = torch.tensor([[[1.2, 0.4, -0.5, 0.0]], [[3.0, 0.6, 0.2, 0.0]]], dtype=torch.float64)
    read = {kind: build(readout=kind).readout(drive)[0].tolist() for kind in READOUTS}
    assert model.config.readout == "start"
    assert read["start"] == [1.2, 0.4, -0.5, 0]
    assert read["end"] == pytest.approx([4.2, 1, -0.3, 0])
    assert read["time"] == pytest.approx([0, -0.6 / 1.6, -1, -1])  # fires at once, within, not, at the very end


@pytest.mark.parametrize("readout", READOUTS)
def test_the_length_of_the_window_is_a_unit(readout: str) -> None:
    short, long = (build(readout=readout, window=window) for window in (1.0, 2.0))
    long.load_state_dict(short.state_dict())
    torch.testing.assert_close(long(images()), 2 * short(images()))


@pytest.mark.parametrize("name", ["ttfs_mnist_cnn", "ttfs_vgg11", "ttfs_vgg16"])
def test_a_network_and_its_twin_have_the_same_keys(name: str) -> None:
    ours, twin = shapes_only(name), shapes_only(f"{name}_ann")
    assert [(key, x.shape) for key, x in ours.state_dict().items()] == [
        (key, x.shape) for key, x in twin.state_dict().items()
    ]
    assert (ours.config.neuron, twin.config.neuron) == ("rel_psp", "relu1")


@torch.no_grad()
def test_the_twin_computes_relu1() -> None:
    twin = build(name="ttfs_vgg11_ann")
    x = images()
    first, second = twin.stages[0]
    a = F.conv2d(x, first.conv.weight, padding=1).clamp(0, 1)
    for product in (second.product, twin.stages[1][0].product):
        a = F.max_pool2d(F.conv2d(a, product.weight, padding=1).clamp(0, 1), 2)
    a = a.flatten(1)
    for unit in twin.hidden:
        a = F.linear(a, unit.product.weight).clamp(0, 1)
    torch.testing.assert_close(twin(x), F.linear(a, twin.head.weight))
    assert twin(x).std() > 0


@torch.no_grad()
def test_weights_of_sum_0_make_the_twins_coincide_where_all_inputs_fire() -> None:
    options = {**PIXELS, "convs": "8,M", "hidden": "", "padding": 0, "kernel_size": 3, "init_centred": True}
    ours, twin = build(options), build(options, neuron="relu1")
    twin.load_state_dict(ours.state_dict())
    x = 0.01 + 0.99 * torch.rand(4, 1, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(x), twin(x), atol=1e-5, rtol=1e-5)  # the sums are 0 in float32
    assert twin(x).std() > 0.1
    x[:, :, 2:4] = 0  # silent pixels leave sums of weights that are not 0
    assert (ours(x) - twin(x)).abs().max() > 0.05


@torch.no_grad()
def test_a_sequence_is_so_many_images_and_their_mean() -> None:
    model = build()
    frames = images(6).unflatten(0, (2, 3))
    expected = torch.stack([model(frames[:, i]) for i in range(3)]).mean(0)
    torch.testing.assert_close(model(frames), expected)
    assert model.forward_features(frames).shape == (3, 2, 2, 6, 1, 1)


@pytest.mark.parametrize(("name", "rate"), [("ttfs_vgg11", 1.0), ("ttfs_mnist_cnn", 0.0)])
def test_the_window_is_closed_but_in_the_network_of_mnist(name: str, rate: float) -> None:
    """Neurons without input fire at the very end of a closed window."""
    model = spimm.create_model(name)
    neuron = model.hidden[0].neuron
    assert float(neuron(torch.zeros(2, 1, 4))[1].mean()) == rate


@pytest.mark.parametrize(("closed", "rate"), [(True, 1.0), (False, 0.0)])
@torch.no_grad()
def test_neurons_without_input_fire_at_the_very_end_or_not_at_all(closed: bool, rate: float) -> None:
    model = build(PIXELS, closed=closed)
    with record(model) as recorder:
        logits = model(torch.zeros(1, 1, 6, 6, dtype=torch.float64))
    layer = recorder.trace().layer("stages.0.1.neuron")
    assert layer.rate == rate
    assert layer.times is None or layer.times.mean == 1
    assert bool(logits.any()) == closed  # spikes at the very end have weight 0, but raise slopes


@pytest.mark.parametrize(
    ("name", "params", "neurons"),
    [
        ("ttfs_mnist_cnn", 400 + 12_800 + 512 * 800 + 800 * 128 + 1280, 16 * 24**2 + 32 * 8**2 + 938),
        ("ttfs_vgg11", 28_133_056, 159_754),
        ("ttfs_vgg16", 33_625_792, 284_682),
    ],
)
@torch.no_grad()
def test_networks_have_the_papers_sizes(name: str, params: int, neurons: int) -> None:
    model = spimm.create_model(name)
    assert count(model) == params == spimm.model_card(name).params
    with record(model) as recorder:
        model(torch.rand(1, *spimm.model_card(name).input_size))
    layers = recorder.trace().layers
    assert sum(math.prod(layer.output_shape) for layer in layers if layer.kind == "neuron") == neurons


def test_maps_of_every_stage_are_told_of() -> None:
    expected = [(5, 2, 3), (6, 4, 1)]
    assert [tuple(info[key] for key in ("num_chs", "reduction", "size")) for info in build().feature_info] == expected
    open_end = build(convs="4,M,5")
    assert [tuple(info[key] for key in ("num_chs", "reduction", "size")) for info in open_end.feature_info] == [
        (4, 2, 3),
        (5, 2, 3),
    ]
    assert (open_end.num_features, open_end.head_hidden_size) == (5, 6)
    assert (build(hidden="").num_features, build(hidden="").head_hidden_size) == (6, 6)


def test_new_weights_have_the_asked_spread_and_mean() -> None:
    plain, small, centred = (
        shaped.head.weight.detach()
        for shaped in (build(hidden="4000", **options) for options in ({}, {"init_gain": 0.5}, {"init_centred": True}))
    )
    assert plain.std() == pytest.approx(math.sqrt(2 / 4000), rel=0.02)
    assert small.std() == pytest.approx(0.5 * math.sqrt(2 / 4000), rel=0.02)
    assert centred.mean(1).abs().max() < 1e-8 < 1e-5 < plain.mean(1).abs().max()
    conv = build(init_centred=True).stages[0][1].product.weight
    assert conv.flatten(1).mean(1).abs().max() < 1e-7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 2}, "num_steps is 2; each layer has one window of spike times, wanted 1"),
        ({"code": "rate"}, "code is 'rate'; wanted direct or pixels"),
        ({"neuron": "lif"}, "neuron is 'lif'; wanted rel_psp or relu1"),
        ({"readout": "first"}, "readout is 'first'; wanted start, end, time"),
        (
            {"neuron": "relu1", "readout": "time"},
            "readout is 'time'; a network of ReLU1 has no spike times, wanted start",
        ),
        ({"window": 0.0}, "window is 0.0; wanted more than 0"),
        ({"clip": -1.0}, "clip is -1.0; wanted more than 0"),
        ({"init_gain": 0.0}, "init_gain is 0.0; wanted more than 0"),
        ({"padding": -1}, "padding is -1; wanted 0 or more"),
        ({"convs": "M,4"}, "convs are 'M,4'; wanted a convolution in front of each M"),
        ({"convs": "4,x"}, "convs are '4,x'; wanted whole numbers above 0"),
        ({"hidden": "0"}, "hidden are '0'; wanted whole numbers above 0"),
        ({"convs": "4,M,4,M,4,M"}, "image_size is 6; stage 2 has no pixel left"),
    ],
    ids=str,
)
def test_settings_that_make_no_network_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"input is \(8, 8\) pixels; the network takes 6 a side"):
        build()(images(side=8))


@pytest.mark.parametrize("value", [-0.5, 1.5])
def test_standardised_pixels_are_refused_by_their_code(value: float) -> None:
    x = images(channels=1)
    x[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"pixels lie between .*; wanted values in \[0, 1\], not standardised"):
        build(PIXELS)(x)


CONVS = {
    "ttfs_vgg11": [0, 3, 6, 8, 11, 13, 16, 18],
    "ttfs_vgg16": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
}


@pytest.mark.parametrize("suffix", ["", "_ann"])
@pytest.mark.parametrize("name", CONVS)
def test_keys_are_those_of_the_published_checkpoints(name: str, suffix: str) -> None:
    model = shapes_only(name + suffix)
    keys = official_keys(model, "ttfs")
    assert list(keys) == list(model.state_dict())
    expected = [f"conv.{i}.cnn.weight" for i in CONVS[name]] + [f"fc.{i}.linear.weight" for i in (0, 2, 4)]
    assert [theirs for (theirs,) in keys.values()] == expected


@pytest.mark.parametrize("suffix", ["", "_ann"])
@torch.no_grad()
def test_weights_in_the_authors_form_give_the_same_outputs(suffix: str) -> None:
    model = build(name=f"ttfs_vgg11{suffix}", num_classes=7)
    own = model.state_dict()
    tensors = {theirs: own[ours].clone() for ours, (theirs,) in official_keys(model, "ttfs").items()}
    loaded = spimm.load_official(f"ttfs_vgg11{suffix}", tensors, **SMALL)
    assert (loaded.num_classes, loaded.training) == (7, False)
    assert torch.equal(loaded(images()), model(images()))
    twin = spimm.load_official("ttfs_vgg11" if suffix else "ttfs_vgg11_ann", tensors, **SMALL)
    assert all(torch.equal(value, own[key]) for key, value in twin.state_dict().items())
    assert not torch.allclose(twin(images()), model(images()))


def test_a_checkpoint_of_another_network_is_refused() -> None:
    tensors = {"conv.0.cnn.weight": torch.zeros(8, 3, 3, 3), "fc.4.linear.weight": torch.zeros(10, 6)}
    message = r"missing: .*stages\.0\.1\.product.*wrong-shaped: stages\.0\.0\.conv\.weight \(8, 3, 3, 3\), expected"
    with pytest.raises(ValueError, match=message):
        spimm.load_official("ttfs_vgg11", tensors, **SMALL)


def test_a_plan_lists_the_convolutions_of_each_stage() -> None:
    assert TTFSConfig().conv_plan() == [[64], [128], [256, 256], [512, 512], [512, 512]]
    assert TTFSConfig(convs="8, M, 4").conv_plan() == [[8], [4]]
    assert (TTFSConfig().last_pools, TTFSConfig(convs="8,M,4").last_pools) == (True, False)


def test_a_classifier_can_be_replaced_in_a_network_of_any_place_and_dtype() -> None:
    model: nn.Module = build()
    model.reset_classifier(3)  # type: ignore[operator]
    assert model(images()).shape == (3, 3)
    assert model.head.weight.dtype == torch.float64  # type: ignore[union-attr]
