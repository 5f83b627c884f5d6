"""Chains of convolutions, dense or split: what both forms give and cost."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spimm.deploy import fold, merge_costs
from spimm.deploy.forms import Split, split_convs
from spimm.layers import SDSA, ConvNeuron, ConvUnit, Ending, RepConv, SepConv
from spimm.neurons import LIF

from .conftest import settled, tiny, tiny_meta

FORMS = ("dense", "split", "cheaper")
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


def repconv(branches: int) -> ConvUnit:
    return ConvUnit(RepConv(6, 12, branches), 12, neuron=None)


def sep_conv() -> ConvUnit:
    return SepConv(6, neuron=LIF(), ending=Ending(None)).mix


CHAINS = {"RepConv": lambda: repconv(1), "three RepConvs": lambda: repconv(3), "SepConv": sep_conv}
COSTS = {  # weights behind one place of the output: dense; split, behind spikes and behind real values
    "RepConv": (9 * 6 * 12, 6 * 12, 9 * 12 + 12 * 12),
    "three RepConvs": (9 * 6 * 12, 6 * 12, 9 * 12 + 12 * 4),
    "SepConv": (49 * 12 * 6, 49 * 12, 12 * 6),
}


def spikes(unit: ConvUnit, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    channels = 6 if isinstance(unit.conv, RepConv) else 12
    return (torch.rand(2, 3, channels, *size) < 0.4).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("size", [(9, 12), (3, 2), (1, 1)])
@pytest.mark.parametrize("merge", FORMS)
@pytest.mark.parametrize("name", CHAINS)
@torch.no_grad()
def test_both_forms_of_a_unit_equal_it_borders_included(
    name: str, merge: Any, size: tuple[int, int], dtype: torch.dtype
) -> None:
    unit = settled(CHAINS[name]()).to(dtype)
    x = spikes(unit, size, dtype)
    expected, folded = unit(x), fold(unit, merge=merge)
    assert isinstance(folded, ConvNeuron)
    torch.testing.assert_close(folded(x), expected, atol=TOLERANCES[dtype] * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize(("merge", "kinds"), [("dense", [3, 7]), ("split", [[1, 3, 1], [7, 1]])])
def test_forms_are_those_asked_for(merge: Any, kinds: list[Any]) -> None:
    for name, expected in zip(("RepConv", "SepConv"), kinds, strict=True):
        conv = fold(settled(CHAINS[name]()), merge=merge).conv
        sizes = [part.kernel_size[0] for part in conv] if isinstance(conv, Split) else conv.kernel_size[0]
        assert sizes == expected


@pytest.mark.parametrize("merge", FORMS)
@pytest.mark.parametrize("shortcut", ["vanilla", "spike_add", "membrane"])
@torch.no_grad()
def test_folded_models_equal_the_model_in_float64(shortcut: str, merge: Any) -> None:
    model, x = tiny_meta(shortcut=shortcut).double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    folded = fold(model, merge=merge)
    expected = model.forward_features(x)
    assert expected.std() > 0.1
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    torch.testing.assert_close(folded.forward_features(x), expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(folded(x), model(x), atol=1e-10, rtol=0)


@pytest.mark.parametrize("merge", ["dense", "split"])
@pytest.mark.parametrize("options", [{"attention": kind} for kind in SDSA] + [{"distillation": True}], ids=str)
@torch.no_grad()
def test_every_operator_folds(options: dict[str, Any], merge: Any) -> None:
    model, x = tiny_meta(**options).double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(fold(model, merge=merge)(x), model(x), atol=1e-10, rtol=0)


@torch.no_grad()
def test_in_float32_a_folded_map_differs_in_few_places() -> None:
    """Those behind a spike whose potential met the threshold within rounding."""
    model, x = tiny_meta(), torch.randn(4, 3, 16, 16)
    expected = model.forward_intermediates(x, [0], intermediates_only=True)[0]
    for merge in FORMS:
        found = fold(model, merge=merge).forward_intermediates(x, [0], intermediates_only=True)[0]
        assert ((found - expected).abs() > 1e-4).float().mean() < 0.01


@pytest.mark.parametrize("name", CHAINS)
def test_costs_are_the_weights_behind_one_place_of_the_output(name: str) -> None:
    units = nn.Sequential(settled(CHAINS[name]()))
    (cost,) = merge_costs(units, rate=0.25, mac_cost=5.0)
    dense, additions, multiplications = COSTS[name]
    assert (cost.name, cost.rate, cost.mac_cost) == ("0", 0.25, 5.0)
    assert (cost.dense, cost.split_additions, cost.split_multiplications) == (dense, additions, multiplications)
    assert fold(units, merge="dense")[0].conv.weight.numel() == dense
    assert cost.dense_cost == 0.25 * dense
    assert cost.split_cost == 0.25 * additions + 5 * multiplications


def test_groups_that_all_convolutions_share_save_weights_in_the_dense_form() -> None:
    chain = nn.Sequential(nn.Conv2d(12, 8, (3, 5), padding=1, groups=4), nn.Conv2d(8, 6, 1, groups=2))
    unit = settled(ConvUnit(chain, 6, neuron=None))
    (cost,) = merge_costs(unit)
    assert cost.dense == fold(unit, merge="dense").conv.weight.numel() == 12 // 2 * 6 * 3 * 5


@pytest.mark.parametrize("mac_cost", [0.5, 1.0])
@pytest.mark.parametrize("name", CHAINS)
def test_the_cheaper_form_changes_at_the_rate_where_both_cost_the_same(name: str, mac_cost: float) -> None:
    dense, additions, multiplications = COSTS[name]
    even, unit = mac_cost * multiplications / (dense - additions), settled(CHAINS[name]())
    for rate, form in ((0.99 * even, "dense"), (1.01 * even, "split")):
        (cost,) = merge_costs(unit, rate=rate, mac_cost=mac_cost)
        assert cost.cheaper == form
        assert isinstance(fold(unit, rate=rate, mac_cost=mac_cost).conv, Split) == (form == "split")


def test_the_form_is_chosen_for_each_unit() -> None:
    model, rate = tiny_meta(), 0.15
    forms = {cost.name: cost.cheaper for cost in merge_costs(model, rate=rate)}
    assert set(forms.values()) == {"dense", "split"}
    folded = fold(model, rate=rate)
    for name, form in forms.items():
        assert isinstance(folded.get_submodule(name).conv, Split) == (form == "split")


def test_every_repconv_and_separable_convolution_has_its_costs() -> None:
    names = [cost.name for cost in merge_costs(tiny_meta())]
    assert names == [
        *(f"stages.{i}.blocks.0.sep_conv.branch.mix" for i in range(3)),
        *(
            f"stages.{i}.blocks.{j}.attention.branch.{unit}"
            for i, j in ((3, 0), (3, 1), (4, 0))
            for unit in ("qkv", "proj")
        ),
    ]
    assert merge_costs(tiny()) == []


def test_costs_and_forms_leave_the_model_as_it_is() -> None:
    model = tiny_meta()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    merge_costs(model)
    fold(model, merge="split")
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@torch.no_grad()
def test_bfloat16_goes_through_the_split_form() -> None:
    folded = fold(tiny_meta(), dtype=torch.bfloat16, merge="split")
    assert all(part.weight.dtype == torch.bfloat16 for part in folded.modules() if isinstance(part, nn.Conv2d))
    logits = folded(torch.randn(2, 3, 16, 16))
    assert logits.dtype == torch.float32 and logits.isfinite().all()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("merge", ["dense", "split"])
@torch.no_grad()
def test_folding_again_keeps_form_and_dtype(merge: Any, dtype: torch.dtype | None) -> None:
    once, x = fold(tiny_meta(), merge=merge, dtype=dtype), torch.randn(2, 3, 16, 16)
    again = fold(once)
    assert sum(isinstance(part, Split) for part in again.modules()) == (9 if merge == "split" else 0)
    assert torch.equal(again(x), once(x))


def test_what_is_no_chain_has_no_split_form() -> None:
    assert split_convs(nn.Conv2d(3, 4, 1)) == []
    assert split_convs(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())) == []
    assert len(split_convs(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3)))) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": -0.1}, r"rate is -0.1; wanted spikes per input, from 0 to 1"),
        ({"rate": 1.5}, r"rate is 1.5"),
        ({"rate": float("nan")}, r"rate is nan"),
        ({"mac_cost": -1.0}, r"mac_cost is -1.0; wanted 0 or more additions"),
        ({"mac_cost": float("nan")}, r"mac_cost is nan"),
        ({"merge": "both"}, r"merge is 'both'; wanted dense, split or cheaper"),
    ],
)
def test_settings_without_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fold(tiny_meta(), **settings)
