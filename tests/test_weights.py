import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import spimm

from .models.conftest import tiny


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return spimm.save_weights(tiny(), tmp_path / "deep" / "weights.safetensors")


def fingerprint(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_survive_the_round_trip(dtype: torch.dtype, tmp_path: Path) -> None:
    model, copy = tiny(neuron="plif").to(dtype), tiny(neuron="plif").to(dtype)
    path = spimm.save_weights(model, str(tmp_path / "w.safetensors"))
    spimm.load_weights(copy, path)
    assert_same(fingerprint(model), fingerprint(copy))
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]  # no temporary file is left
    conv = copy.stages[0].embed.units[0].conv.weight
    assert conv.is_contiguous(memory_format=torch.channels_last)


def test_saving_replaces_the_file_whole(saved: Path) -> None:
    model = tiny()
    spimm.save_weights(model, saved)
    assert_same(fingerprint(model), load_file(saved))


def test_weights_are_converted_to_the_dtype_of_the_model(saved: Path) -> None:
    model = tiny().double()
    spimm.load_weights(model, saved)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert torch.equal(model.head.weight, load_file(saved)["head.weight"].double())


def test_a_file_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights file at .*nothing\.safetensors"):
        spimm.load_weights(tiny(), tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_truncated_file_is_refused_and_leaves_the_model_alone(kept: int, saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    model = tiny()
    before = fingerprint(model)
    with pytest.raises(ValueError, match=r"weights\.safetensors is not a whole safetensors file"):
        spimm.load_weights(model, saved)
    assert_same(fingerprint(model), before)


def test_a_foreign_file_is_refused(saved: Path) -> None:
    torch.save({"head.weight": torch.zeros(1)}, saved)
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        spimm.load_weights(tiny(), saved)
    saved.write_text(json.dumps({"not": "weights"}))
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        spimm.load_weights(tiny(), saved)


def test_every_disagreement_is_listed_and_the_model_left_alone(saved: Path) -> None:
    tensors = load_file(saved)
    tensors["extra"] = torch.zeros(2)
    tensors["head.bias"] = torch.zeros(7)
    del tensors["head.weight"]
    save_file(tensors, saved)
    model = tiny()
    before = fingerprint(model)
    with pytest.raises(ValueError) as caught:
        spimm.load_weights(model, saved)
    message = str(caught.value)
    assert "does not fit QKFormer" in message
    assert "1 missing: head.weight" in message
    assert "1 unexpected: extra" in message
    assert "1 wrong-shaped: head.bias (7,), expected (10,)" in message
    assert_same(fingerprint(model), before)


def test_weights_of_another_model_are_refused_in_few_words(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"\d+ wrong-shaped: .* and \d+ more") as caught:
        spimm.load_weights(tiny(embed_dim=32), saved)
    assert len(str(caught.value)) < 1500


WRAPPED = {
    "ddp": lambda key: f"module.{key}",
    "compiled": lambda key: f"_orig_mod.{key}",
    "compiled within ddp": lambda key: f"module._orig_mod.{key}",
    "nested": lambda key: f"state_dict.module.{key}",
    "under model": lambda key: f"model.{key}",
    "compiled stages": lambda key: key.replace("stages.1.", "stages.1._orig_mod."),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_names_that_wrappers_changed_are_read_and_said(wrapper: str, saved: Path, caplog) -> None:
    tensors = load_file(saved)
    save_file({WRAPPED[wrapper](key): tensor for key, tensor in tensors.items()}, saved)
    model = tiny()
    spimm.load_weights(model, saved)
    assert_same(fingerprint(model), tensors)
    (message,) = caplog.messages
    assert message.startswith(f"{saved}: names are read without ")


def test_tensors_beside_nested_weights_are_left_out_and_counted(saved: Path, caplog) -> None:
    tensors = load_file(saved)
    nested = {f"model.{key}": tensor for key, tensor in tensors.items()}
    save_file({**nested, "optimizer.step": torch.zeros(1), "epoch": torch.zeros(1)}, saved)
    model = tiny()
    spimm.load_weights(model, saved)
    assert_same(fingerprint(model), tensors)
    assert caplog.messages == [f"{saved}: names are read without model., and 2 other tensors left out"]


def test_plain_names_are_not_mentioned_nor_those_of_wrapped_models(saved: Path, caplog) -> None:
    spimm.load_weights(tiny(), saved)
    wrapped = torch.nn.ModuleDict({"module": tiny()})
    path = spimm.save_weights(wrapped, saved.with_name("wrapped.safetensors"))
    spimm.load_weights(torch.nn.ModuleDict({"module": tiny()}), path)
    assert caplog.messages == []


def test_names_that_fit_in_no_way_are_listed_as_they_are(saved: Path) -> None:
    save_file({"module.other.weight": torch.zeros(1)}, saved)
    with pytest.raises(ValueError, match=r"1 unexpected: module\.other\.weight"):
        spimm.load_weights(tiny(), saved)


def test_a_classifier_of_other_classes_is_left_out_only_if_a_new_one_is_asked_for(saved: Path, caplog) -> None:
    settings = {"embed_dim": 16, "num_heads": 2, "depths": (1, 1, 2), "num_steps": 3}
    model = spimm.create_model("qkformer_4_384_cifar", weights=saved, num_classes=4, **settings)
    tensors = load_file(saved)
    assert all(torch.equal(value, tensors[key]) for key, value in model.state_dict().items() if "head" not in key)
    assert model.head.weight.shape == (4, 16) and model.head.weight.any()
    (message,) = caplog.messages
    assert message == f"{saved}: head left out, of other classes than the model, whose own is new"
    with pytest.raises(ValueError, match=r"2 wrong-shaped: head\.bias"):
        spimm.load_weights(model, saved)
    bare = spimm.create_model("qkformer_4_384_cifar", weights=saved, num_classes=0, **settings)
    assert bare(torch.randn(1, 3, 8, 8)).shape == (1, 16)


def test_images_of_other_channels_are_refused_with_the_option_that_fits(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"its images have 3 channels, the model's 1: in_chans=3"):
        spimm.load_weights(tiny(in_chans=1), saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_with_the_first_and_their_number(value: float, saved: Path) -> None:
    tensors = load_file(saved)
    tensors["head.bias"][2:5] = value
    save_file(tensors, saved)
    model = tiny()
    before = fingerprint(model)
    with pytest.raises(ValueError, match=r"holds 3 values that are not finite .* in 1 of \d+ tensors, .*head\.bias"):
        spimm.load_weights(model, saved)
    assert_same(fingerprint(model), before)


def test_numbers_too_large_for_the_model_are_refused(saved: Path) -> None:
    tensors = {
        name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in load_file(saved).items()
    }
    tensors["head.bias"][0] = 1e300
    save_file(tensors, saved)
    with pytest.raises(ValueError, match=r"holds 1 values that are not finite"):
        spimm.load_weights(tiny(), saved)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float8_e5m2]
)
def test_weights_of_another_kind_of_numbers_are_refused(dtype: torch.dtype, saved: Path) -> None:
    tensors = load_file(saved)
    tensors["head.bias"] = tensors["head.bias"].to(dtype)
    save_file(tensors, saved)
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"1 of another kind: head\.bias {kind}, expected float32"):
        spimm.load_weights(tiny(), saved)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_other_widths_are_taken(dtype: torch.dtype, saved: Path) -> None:
    tensors = load_file(saved)
    tensors["head.bias"] = tensors["head.bias"].to(dtype)
    save_file(tensors, saved)
    model = tiny()
    spimm.load_weights(model, saved)
    assert torch.equal(model.head.bias, tensors["head.bias"].float())


def test_a_variance_below_0_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    model[1].running_var[1] = -0.5
    path = spimm.save_weights(model, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"1\.running_var holds -0\.5; a variance is expected to be 0 or more"):
        spimm.load_weights(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)), path)
