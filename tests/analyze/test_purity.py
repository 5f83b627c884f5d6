import io
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import spimm
from spimm.analyze import Input, Purity, Trace, purity, record
from spimm.deploy import fold

Build = Callable[..., nn.Module]
STEM = "stages.0.embed.unit.conv"


@torch.no_grad()
def traced(model: nn.Module, x: Tensor) -> Trace:
    with record(model, model_name="net") as recorder:
        model(x)
    return recorder.trace()


def _values(*values: float) -> str:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(len(values), 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x)

    return traced(Net(), torch.tensor([values], dtype=torch.float32)).layer("linear").input("x").values


def test_inputs_are_told_apart_by_the_values_seen() -> None:
    assert _values(0, 0, 0) == "silent"
    assert _values(0, 1, 1) == "spikes"
    assert _values(0, 1, 2) == "integers"
    assert _values(0, 1, 17) == "integers"
    assert _values(0, 1, -1) == "integers"
    assert _values(0, 1, 0.5) == "reals"
    assert Input("x", (1,), 0.5, 0.5, 0.5, (0.5, 0.5)).values == "spikes"


@pytest.fixture(scope="module")
def lively() -> Build:
    """A small Meta-SpikeFormer, untrained, whose norms make neurons fire."""

    def build(shortcut: str) -> nn.Module:
        torch.manual_seed(0)
        sizes = {"widths": (4, 8, 16, 32, 40), "depths": (1, 1, 1, 2, 1)}
        model = spimm.create_model("metaspikeformer_cifar", shortcut=shortcut, num_steps=4, **sizes)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, 2.0)
                nn.init.constant_(module.bias, 0.5)
                module.momentum = 1.0
        with torch.no_grad():
            for _ in range(2):  # the borders of RepConv follow the running statistics, one call behind
                model.train()(torch.rand(8, 3, 32, 32))
        return model.eval()

    return build


def _found(model: nn.Module) -> Purity:
    torch.manual_seed(1)
    return purity(traced(model, torch.rand(2, 3, 32, 32)))


def test_with_membrane_shortcuts_all_but_the_first_convolution_receive_spikes(lively: Build) -> None:
    found = _found(fold(lively("membrane"), merge="dense"))
    assert {layer for layer, values in found.layers().items() if values != "spikes"} == {STEM}
    assert found.layers()[STEM] == "reals"
    assert "stages.3.blocks.0.attention.branch.core q (k^T v)" in found.layers()


def test_with_added_spikes_layers_behind_a_shortcut_receive_integers(lively: Build) -> None:
    found = _found(fold(lively("spike_add"), merge="dense"))
    integers = {line.layer: line.highest for line in found.lines if line.values == "integers"}
    heads = ("embed.unit.conv", "channel_conv.branch.expand.conv", "mlp.branch.expand.conv", "qkv.conv")
    assert integers and all(layer.endswith(heads) for layer in integers)
    assert max(integers.values()) > 2
    assert [line.layer for line in found.lines if line.values == "reals"] == [STEM, "head"]  # means over space


def test_with_vanilla_shortcuts_layers_receive_spikes(lively: Build) -> None:
    found = _found(fold(lively("vanilla"), merge="dense"))
    assert {layer for layer, values in found.layers().items() if values != "spikes"} == {STEM, "head"}
    assert found.layers()[STEM] == found.layers()["head"] == "reals"


def test_convolutions_that_are_not_merged_receive_reals_within_a_row(lively: Build) -> None:
    found = _found(lively("membrane"))
    reals = [line.layer for line in found.lines if line.values == "reals"]
    assert reals[0] == STEM
    assert len(reals) == 1 + 3 + 2 * 2 * 3  # a pointwise convolution a SepConv; two convolutions a RepConv, 2 a block
    assert all(layer.endswith(("mix.conv.1", "conv.depthwise", "conv.project")) for layer in reals[1:])
    assert found.products()["integers"] == 0


@pytest.mark.parametrize("shortcut", ["membrane", "spike_add", "vanilla"])
def test_a_folded_network_has_the_firing_rates_of_the_unfolded_one(lively: Build, shortcut: str) -> None:
    model, x = lively(shortcut).double(), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    rates = traced(model, x).firing_rates()
    for merge in ("dense", "split"):
        assert traced(fold(model, merge=merge), x).firing_rates() == pytest.approx(rates, abs=1e-4)


SMALL = {"widths": (8, 16), "depths": (1, 1), "strides": (1, 2), "group_size": 3, "head_dim": 4}
ENTRIES = {f"stages.{i}.blocks.0.conv.entry" for i in (0, 1)}
DEPTHWISE = {f"stages.{i}.blocks.0.conv.depthwise.conv" for i in (0, 1)}
POOLED = "stages.1.blocks.0.conv.shortcut.conv"


def _spikeatconv(firing: Build, **options: object) -> dict[str, str]:
    """What the products of a small SpikeAtConv receive, but for the first convolution and the classifier: reals."""
    torch.manual_seed(1)
    model = firing("spikeatconv_cifar", **SMALL, **options)
    found = dict(purity(traced(model, torch.rand(4, 3, 16, 16))).layers())
    assert (found.pop("stages.0.embed.first.conv"), found.pop("head")) == ("reals", "reals")
    return found


@pytest.mark.parametrize("kind", ["sl", "hsl"])
@pytest.mark.parametrize("attention", ["sisa", "bdsa"])
def test_blocks_of_one_threshold_give_spikes_to_all_but_the_pooled_shortcut(
    firing: Build, kind: str, attention: str
) -> None:
    found = _spikeatconv(firing, spk=kind, attention=attention)
    assert len(found) == (20 if attention == "sisa" else 18)
    assert found.pop(POOLED) == "integers"
    assert set(found.values()) == {"spikes"}


@pytest.mark.parametrize(("form", "depthwise"), [(None, "spikes"), ("concat", "spikes"), ("sum", "integers")])
def test_several_branches_give_integers_but_to_attention_and_where_they_are_concatenated(
    firing: Build, form: str | None, depthwise: str
) -> None:
    found = _spikeatconv(firing, spk="mbpl", form=form, thresholds="0.2,0.4,0.6")
    assert {found.pop(name) for name in DEPTHWISE} == {depthwise}
    cores = {found.pop(name) for name in list(found) if "core" in name}
    assert cores == {"spikes"} and set(found.values()) == {"integers"}


def test_the_pooled_shortcut_sums_places_and_branches(firing: Build) -> None:
    model = firing("spikeatconv_cifar", **SMALL, thresholds="0.2,0.4,0.6")
    highest = {line.layer: line.highest for line in purity(traced(model, torch.rand(4, 3, 16, 16))).lines}
    assert highest["stages.0.embed.second.conv"] == 3
    assert 3 < (highest[POOLED] or 0) <= 12
    assert all(highest[name] == 1 for name in DEPTHWISE)


@pytest.mark.parametrize("form", ["split", "full_norm"])
def test_the_convolutions_of_dcl_receive_reals(firing: Build, form: str) -> None:
    found = _spikeatconv(firing, spk="dcl", form=form, thresholds="0.2,0.2")
    reals = {name for name, values in found.items() if values == "reals"}
    assert reals == {f"{entry}.{conv}" for entry in ENTRIES for conv in ("conv3", "conv5")}


def test_branches_mixed_by_a_convnext_module_are_spikes_in_front_of_it_and_reals_behind(firing: Build) -> None:
    found = _spikeatconv(firing, spk="mbpl", form="convnext", thresholds="0.2,0.4,0.6")
    assert {found[f"{entry}.mix.{i}.conv"] for entry in ENTRIES for i in range(3)} == {"spikes"}
    assert {name for name, values in found.items() if values == "reals"} == {*DEPTHWISE, POOLED}


def test_branches_mixed_by_depthwise_convolutions_make_the_next_layer_of_a_resnet_see_reals(firing: Build) -> None:
    model = firing("resnet18_cifar_small", width=8, depths=(1, 1), form="depthwise", thresholds="0.2,0.4,0.6")
    found = purity(traced(model, torch.rand(4, 3, 16, 16))).layers()
    mixed = {name: values for name, values in found.items() if name.endswith(".mix.conv")}
    assert len(mixed) == 5 and set(mixed.values()) == {"spikes"}
    assert {values for name, values in found.items() if name not in mixed} == {"reals"}


def test_shares_are_of_operations_and_the_table_lists_all_products(firing: Build) -> None:
    trace = traced(firing(), torch.rand(2, 1, 8, 8))
    found = purity(trace)
    assert sum(found.shares().values()) == pytest.approx(1)
    assert sum(found.products().values()) == len(found.lines) == sum(len(layer.products) for layer in trace.layers)
    reals = sum(line.dense for line in found.lines if line.values == "reals")
    assert found.shares()["reals"] == pytest.approx(reals / sum(layer.dense for layer in trace.layers))
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(found.table())
    text = console.export_text()
    assert all(line.layer in text and line.values in text for line in found.lines)


def test_a_trace_without_products_has_no_purity(firing: Build) -> None:
    trace = traced(firing(), torch.rand(2, 1, 8, 8))
    bare = replace(trace, layers=tuple(layer for layer in trace.layers if layer.kind == "neuron"))
    with pytest.raises(ValueError, match="the trace of net has no matrix product"):
        purity(bare)
