"""Models with weights of few bits, of every family, and the files that hold them."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import spimm
from spimm.deploy import fold, load_quantised, quantise, quantised_sizes, quantised_weights, save_quantised
from spimm.models import save_weights

from .conftest import settled, tiny, tiny_meta

CARDS = sorted(map(spimm.model_card, spimm.list_models()), key=lambda card: -card.params)
SMALLEST = {card.family: card for card in CARDS}
"""One model of each family."""
BITS = pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
PER = pytest.mark.parametrize("per", ["layer", "channel"])


def linear_keys(model: nn.Module) -> set[str]:
    """Of what is quantised."""
    return {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}


@PER
@pytest.mark.parametrize("family", SMALLEST)
@torch.no_grad()
def test_every_family_is_quantised_weights_alone_and_the_model_given_stays(family: str, per: str) -> None:
    """A new family is found here by its registration."""
    card = SMALLEST[family]
    model = spimm.create_model(card.name)
    before = copy.deepcopy(model.state_dict())
    found, weights = quantise(model, 4, per), quantised_weights(model, 4, per)
    assert weights.keys() == linear_keys(model)
    assert list(found.state_dict()) == list(before)
    for key, value in found.state_dict().items():
        assert torch.equal(model.state_dict()[key], before[key])
        assert torch.equal(value, weights[key].dequantise() if key in weights else before[key]), key
    assert [type(part) for part in found.modules()] == [type(part) for part in model.modules()]
    sequence = (card.num_steps,) if card.events else ()
    assert found.eval()(torch.rand(1, *sequence, *card.input_size)).isfinite().all()


@PER
def test_a_quantised_model_is_quantised_already(per: str) -> None:
    once = quantise(tiny(), 4, per)
    twice = quantise(once, 4, per)
    assert all(torch.equal(value, once.state_dict()[key]) for key, value in twice.state_dict().items())


@pytest.mark.parametrize("build", [tiny, tiny_meta])
@torch.no_grad()
def test_folded_models_are_quantised_and_run_as_what_they_hold(build) -> None:
    folded = fold(build())
    found, x = quantise(folded, 2), torch.randn(2, 3, 16, 16)
    before = folded(x)
    assert quantised_weights(found, 2).keys() == linear_keys(folded)
    assert all(module.weight.unique().numel() <= 3 for module in found.modules() if isinstance(module, nn.Conv2d))
    for key, weight in quantised_weights(folded, 2).items():
        folded.get_parameter(key).copy_(weight.dequantise())
    assert torch.equal(found(x), folded(x)) and not torch.equal(found(x), before)


@torch.no_grad()
def test_folding_keeps_the_levels_of_channels_but_not_those_of_layers() -> None:
    chain = settled(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)))
    for per, kept in (("channel", True), ("layer", False)):
        held = quantise(chain, 4, per)[0].weight
        folded = fold(quantise(chain, 4, per))
        assert isinstance(folded, nn.Conv2d)
        again = quantise(folded, 4, per)
        assert torch.allclose(again.weight, folded.weight, rtol=1e-5, atol=1e-7) == kept
        levels = quantised_weights(folded, 4, per)["weight"].levels.abs()
        assert torch.equal(levels, quantised_weights(nn.Sequential(chain[0]), 4, per)["0.weight"].levels.abs()) == kept
        assert held.shape == levels.shape


@PER
@BITS
def test_a_file_holds_the_levels_and_all_else(bits: int, per: str, tmp_path: Path) -> None:
    model = tiny()
    path = save_quantised(model, tmp_path / "new" / "model.safetensors", bits=bits, per=per)
    assert list(path.parent.iterdir()) == [path]
    loaded = settled(spimm.create_model("qkformer_4_384_cifar", embed_dim=16, num_heads=2, depths=(1, 1, 2)))
    load_quantised(loaded, path)
    for key, value in quantise(model, bits, per).state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    wanted, found = (quantised_weights(network, bits, per) for network in (model, loaded))
    for key, weight in wanted.items():
        assert torch.equal(found[key].levels, weight.levels) and torch.equal(found[key].scale, weight.scale)


def test_every_level_survives_packing_in_any_layout_and_number(tmp_path: Path) -> None:
    for bits, top in ((2, 1), (3, 3), (4, 7), (5, 15), (8, 127)):
        conv = nn.Conv2d(1, 2 * top + 1, 1, bias=False)  # an odd number of weights
        with torch.no_grad():
            conv.weight.copy_(torch.arange(-top, top + 1).view(-1, 1, 1, 1))
        loaded = nn.Conv2d(1, 2 * top + 1, 1, bias=False)
        load_quantised(loaded, save_quantised(conv, tmp_path / f"{bits}.safetensors", bits=bits))
        assert torch.equal(loaded.weight, conv.weight)
    conv = nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
    loaded = nn.Conv2d(3, 5, 3)
    load_quantised(loaded, save_quantised(conv, tmp_path / "last.safetensors"))
    assert torch.equal(loaded.weight, quantise(conv).weight)


def test_two_levels_are_stored_in_a_byte_the_first_in_the_low_half(tmp_path: Path) -> None:
    layer = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.7, -0.1, 0.2]]))
    stored = load_file(save_quantised(layer, tmp_path / "x.safetensors"))
    assert stored["weight"].tolist() == [0xF7, 0x02]
    assert save_quantised(layer, tmp_path / "y.safetensors", bits=5).stat().st_size > 0
    assert load_file(tmp_path / "y.safetensors")["weight"].tolist() == [15, -2, 4]


@PER
def test_sizes_are_those_of_the_model_and_of_the_file(per: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(9, 2, bias=False))
    floats = 216 + 8 + 4 * 8 + 18
    before, after = quantised_sizes(model, 4, per)
    assert before == 4 * floats + 8  # and the count of batches
    peaks = 2 if per == "layer" else 8 + 2
    assert after == 108 + 9 + 4 * (8 + 4 * 8 + peaks) + 8
    stored = load_file(save_quantised(model, tmp_path / "x.safetensors", per=per))
    assert sum(tensor.nbytes for tensor in stored.values()) == after
    assert quantised_sizes(model, 5, per).after == after + 108 + 9


def test_a_model_in_half_precision_is_stored_exactly(tmp_path: Path) -> None:
    model = nn.Linear(40, 30).to(torch.bfloat16)
    loaded = nn.Linear(40, 30).to(torch.bfloat16)
    load_quantised(loaded, save_quantised(model, tmp_path / "x.safetensors", bits=8))
    assert torch.equal(loaded.weight, quantise(model, 8).weight)


def test_files_that_are_no_quantised_weights_are_refused_and_the_model_stays(tmp_path: Path) -> None:
    model, path = nn.Linear(4, 3), tmp_path / "x.safetensors"
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FileNotFoundError, match=r"x\.safetensors"):
        load_quantised(model, path)
    save_weights(model, path)
    with pytest.raises(ValueError, match="holds no quantised weights: format is None, wanted 'spimm-quantised-1'"):
        load_quantised(model, path)
    save_quantised(nn.Linear(4, 3), path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_quantised(model, path)
    save_quantised(nn.Linear(3, 4), path)
    with pytest.raises(ValueError, match=r"2 wrong-shaped: bias \(4,\), expected \(3,\), weight \(4, 3\), expected"):
        load_quantised(model, path)
    save_quantised(nn.Sequential(nn.Linear(4, 3)), path)
    with pytest.raises(ValueError, match=r"2 missing: bias, weight; 2 unexpected: 0\.bias, 0\.weight"):
        load_quantised(model, path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_file_whose_weights_are_cut_short_is_refused(tmp_path: Path) -> None:
    model, path = nn.Linear(4, 3), tmp_path / "x.safetensors"
    about = {"format": "spimm-quantised-1", "bits": "4", "per": "layer", "shapes": '{"weight": [3, 4]}'}
    parts = {"weight": torch.zeros(5, dtype=torch.uint8), "weight.peak": torch.ones(()), "bias": torch.zeros(3)}
    save_file(parts, path, about)
    with pytest.raises(ValueError, match=r"x\.safetensors: weight has 5 bytes; wanted 6 for \(3, 4\) in 4 bits"):
        load_quantised(model, path)
    save_file({"weight": torch.zeros(6, dtype=torch.uint8), "bias": torch.zeros(3)}, path, about)
    with pytest.raises(ValueError, match=r"x\.safetensors is damaged: it has no 'weight\.peak'"):
        load_quantised(model, path)


def test_the_other_layer_is_named_where_weights_are_not_finite(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight[0, 0] = float("inf")
    for act in (quantise, quantised_sizes, lambda found: save_quantised(found, tmp_path / "x.safetensors")):
        with pytest.raises(ValueError, match=r"1\.weight is not finite"):
            act(model)
    assert not list(tmp_path.iterdir())
