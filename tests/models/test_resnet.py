from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

import spimm
from spimm.layers import ACTIVATIONS, FORMS, SPK, THRESHOLDS, SpikeConv2d
from spimm.models.resnet import TABLES, VARIANTS, ResNetConfig
from spimm.neurons import Neuron

from .conftest import assert_train_alike, count, lively, shapes_only

BLOCKS = [
    {"spk": kind, "form": form}
    for kind in (*SPK, *ACTIVATIONS)
    for form in (None, *FORMS.get(kind, ())[1:])
    if form != "concat"
]
every_block = pytest.mark.parametrize("options", BLOCKS, ids=lambda options: "-".join(filter(None, options.values())))
# Table, T, tau, thresholds, surrogate, block, top-1 in % as printed, in the order of the paper
PRINTED = [
    (1, 1, 4.0, "1", "sigmoid", "sl", 64.3),
    (1, 1, 2.0, "1", "sigmoid", "sl", 66.0),
    (1, 1, 2.0, "1", "atan", "sl", 67.1),
    (1, 4, 2.0, "1", "sigmoid", "sl", 70.9),
    (1, 8, 2.0, "1", "sigmoid", "sl", 70.4),
    (1, 1, 2.0, "1,2", "atan", "rl", 71.0),
    (1, 2, 2.0, "0.2,1,2,4", "atan", "mbpl", 74.4),
    (1, 2, 2.0, "1,2", "atan", "hsl", 70.6),
    (1, 2, 2.0, "1,1", "atan", "dcl", 70.3),
    (2, 1, 2.0, "1,2", "atan", "mbpl", 71.7),
    (2, 1, 2.0, "1,2,4", "atan", "mbpl", 71.9),
    (2, 1, 2.0, "0.2,1,2,4", "atan", "mbpl", 72.5),
    (2, 1, 2.0, "1,2,4,6", "atan", "mbpl", 72.2),
    (2, 2, 2.0, "0.2,1,2,4", "sigmoid", "mbpl", 73.8),
    (2, 4, 2.0, "0.2,1,2,4", "atan", "mbpl", 73.6),
    (2, 2, 2.0, "0.2,1,2,3,4,5,6,7", "atan", "mbpl", 59.0),
]


def tiny(**options: Any) -> nn.Module:
    """Two stages of two blocks for images of a few pixels; neurons fire in eval mode, too."""
    small = {"width": 4, "depths": (2, 1), "num_classes": 5}
    return lively(spimm.create_model("resnet18_cifar", **{**small, **options}).eval())


def images(*size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *(size or (32, 32)), generator=torch.Generator().manual_seed(1))


def torchvision_resnet(num_classes: int) -> nn.Module:
    """With one 3x3 convolution for a stem, without a pool."""
    model = resnet18(num_classes=num_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def test_the_size_is_that_of_resnet18_with_a_small_stem() -> None:
    widths = (64, 128, 256, 512)
    stem = 27 * 64 + 2 * 64
    same = sum(2 * 9 * d**2 + 4 * d for d in widths)
    changing = 18 * 64**2 + 4 * 64 + sum(9 * d * d // 2 + 9 * d * d + d * d // 2 + 6 * d for d in widths[1:])
    assert stem + same + changing + 100 * 512 + 100 == 11_220_132
    with torch.device("meta"):
        theirs = torchvision_resnet(100)
    for name in ("resnet18_cifar", "resnet18_cifar_ann"):
        model = shapes_only(name)
        assert [p.shape for p in model.parameters()] == [p.shape for p in theirs.parameters()]
        assert count(model) == 11_220_132


def test_the_plain_network_computes_what_torchvisions_does() -> None:
    ours, theirs = spimm.create_model("resnet18_cifar_ann", num_classes=7).double(), torchvision_resnet(7).double()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = images(20, 12).double()
    for training in (True, False):  # after one step the running statistics tell images apart
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x), atol=1e-9, rtol=1e-9)
    assert ours(x).std() > 0


def test_both_tables_are_complete() -> None:
    found = []
    for row in TABLES.values():
        config = ResNetConfig(**row.options)
        if config.spk != "relu":
            thresholds = config.thresholds or ",".join(f"{value:g}" for value in THRESHOLDS[config.spk])
            setting = (config.num_steps, config.tau, thresholds, config.surrogate, config.spk)
            found.append((row.table, *setting, row.top1))
    assert sorted(found) == sorted(PRINTED)
    assert len(TABLES) == 17 == len(PRINTED) + 1
    assert (TABLES["ann"].top1, TABLES["ann"].table) == (75.4, 1)


@pytest.mark.parametrize("row", TABLES)
def test_the_name_of_a_row_says_what_it_is(row: str) -> None:
    options = TABLES[row].options
    kind = row.split("_")[0].rstrip("0123456789")
    assert kind == ("ann" if options["spk"] == "relu" else options["spk"])
    config = ResNetConfig(**options)
    if kind == "mbpl":
        assert len(config.spk_fn(2).thresholds) == int(row.split("_")[0].removeprefix("mbpl"))
    assert row == "ann" or f"t{config.num_steps}" in row.split("_")
    assert row == "ann" or ("sigmoid" in row) == (config.surrogate == "sigmoid")


@pytest.mark.parametrize("row", TABLES)
def test_every_row_computes_and_learns(row: str) -> None:
    model = tiny(depths=(2, 2, 2, 2), **TABLES[row].options).train()
    logits = model(images(16, 16))
    assert logits.shape == (2, 5) and logits.std() > 0
    nn.functional.cross_entropy(logits, torch.tensor([0, 4])).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model.stages[0].embed.conv.weight.grad.any()


@every_block
@pytest.mark.parametrize("num_steps", [1, 2])
@pytest.mark.parametrize("size", [(32, 32), (13, 9)])
def test_every_block_computes_and_learns(size: tuple[int, int], num_steps: int, options: dict[str, Any]) -> None:
    model = tiny(num_steps=num_steps, **options).train()
    features = model.forward_features(images(*size))
    assert features.shape == (num_steps, 2, 8, -(-size[0] // 2), -(-size[1] // 2))
    logits = model.forward_head(features)
    nn.functional.cross_entropy(logits, torch.tensor([0, 4])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.dim() < 4 or parameter.grad.any(), name


@torch.no_grad()
@pytest.mark.parametrize(("spk", "top"), [("sl", 1), ("hsl", 1), ("rl", 2), ("mbpl", 4)])
def test_every_convolution_but_the_first_sees_spikes(spk: str, top: int) -> None:
    model, inputs = tiny(spk=spk, num_steps=2), []
    for module in model.modules():
        if isinstance(module, SpikeConv2d):
            module.register_forward_hook(lambda m, args, y: inputs.append(args[0]))
    features = model.forward_features(3 * images())
    first, *others = *inputs, features
    assert len(others) == 2 * 3 + 1 + 1
    assert len(first.unique()) > 100
    assert all(torch.equal(x, x.round()) and 0 <= x.min() < x.max() <= top for x in others)
    assert max(float(x.max()) for x in others) == top


def test_the_activation_fires_on_the_sum_of_branch_and_shortcut() -> None:
    block, x = tiny(spk="sl").stages[0].blocks[0].double(), torch.randint(0, 2, (2, 3, 4, 6, 5)).double()
    branch = block.second.norm(block.second.conv(block.first(x).flatten(0, 1))).unflatten(0, x.shape[:2])
    expected = block.second.neuron(branch + x)
    assert torch.equal(block(x), expected) and expected.any()


@pytest.mark.parametrize("saving", [{"checkpoint": True}, {"memory": "packed"}], ids=str)
@every_block
def test_ways_to_save_memory_change_no_gradient(options: dict[str, Any], saving: dict[str, Any]) -> None:
    plain, thrifty = tiny(num_steps=2, **options).train(), tiny(num_steps=2, **options, **saving).train()
    assert_train_alike(plain, thrifty, images())


def test_the_plain_network_has_no_neurons() -> None:
    for name in VARIANTS:
        neurons = [part for part in shapes_only(name).modules() if isinstance(part, Neuron)]
        assert bool(neurons) == (name != "resnet18_cifar_ann")


@torch.no_grad()
def test_it_serves_as_a_backbone() -> None:
    maps = tiny().features_only()(images(13, 9))
    assert [x.shape for x in maps] == [(2, 4, 13, 9), (2, 8, 7, 5)]
    reductions = [info["reduction"] for info in shapes_only("resnet18_cifar_small").feature_info]
    assert reductions == [2, 4, 8, 16]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": ()}, r"depths are \(\); wanted 1 or more blocks in each stage"),
        ({"depths": (1, 0)}, r"depths are \(1, 0\); wanted 1 or more blocks in each stage"),
        ({"width": 0}, r"width is 0; wanted at least 1"),
        ({"stem_stride": 0}, r"stem_stride is 0; wanted at least 1"),
        ({"form": "concat"}, r"form is 'concat'; a ResNet wants as many channels behind an activation as in front"),
        ({"spk": "gleu"}, r"unknown SPK block 'gleu'; did you mean gelu"),
        ({"spk": "relu", "form": "sum"}, r"relu has no form 'sum'"),
        ({"spk": "relu", "thresholds": "1"}, r"thresholds are \(1.0,\); relu has none"),
        ({"thresholds": "0.2,x"}, r"thresholds is '0.2,x'; wanted numbers with commas between them"),
        ({"thresholds": ""}, r"thresholds is ''; wanted numbers with commas between them"),
        ({"thresholds": "0,1"}, r"thresholds are \(0.0, 1.0\); wanted 1 to 8 above 0.0"),
        ({"thresholds": ()}, r"thresholds are \(\); wanted 1 to 8 above 0.0"),
        ({"thresholds": "1,2,3,4,5,6,7,8,9"}, r"wanted 1 to 8 above 0.0"),
        ({"spk": "rl", "thresholds": 1.0}, r"rl has 2 neurons; 1 thresholds are given"),
        ({"taus": "2,3"}, r"taus are \(2.0, 3.0\) for the SPK block mbpl; they are for hsl"),
        ({"spk": "hsl", "taus": "0,2"}, r"tau is 0.0; wanted at least 1"),
        ({"spk": "hsl", "taus": "2,3", "neuron": "if"}, r"taus are '2,3'; the neuron if has no time constant"),
        ({"spk": "hsl", "width": 3}, r"3 channels do not divide into two halves"),
        ({"partition": "grid"}, r"ResNet has no option 'partition'"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_thresholds_are_a_tuple_a_number_or_a_text() -> None:
    for thresholds, expected in (((0.5, 1.5), (0.5, 1.5)), ("0.5,1.5", (0.5, 1.5)), (0.5, (0.5,)), (2, (2.0,))):
        assert tiny(thresholds=thresholds).stages[0].embed.neuron.thresholds == expected


@torch.no_grad()
def test_without_decay_of_the_input_neurons_fire_as_with_half_the_threshold() -> None:
    torch.manual_seed(0)
    halved = tiny(spk="mbpl", thresholds="1,2", num_steps=3)
    whole = tiny(spk="mbpl", thresholds="2,4", num_steps=3, decay_input=False)
    whole.load_state_dict(halved.state_dict())
    assert torch.equal(whole(images()), halved(images()))
    other = tiny(spk="mbpl", thresholds="1,2", num_steps=3, decay_input=False)
    other.load_state_dict(halved.state_dict())
    assert not torch.equal(other(images()), halved(images()))
