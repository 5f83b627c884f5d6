"""Weights that ship: those of the package, and the ways of loading them with weights made here."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import spimm
from spimm.cli.main import main
from spimm.data import load_data
from spimm.models import pretrained
from spimm.models.pretrained import ship, shipped

from .conftest import lively

NAME = "qkformer_3_64_digits"
SHIPPED = shipped()


def suffixed(suffix: str) -> set[str]:
    return {path.name.removesuffix(suffix) for path in pretrained.FOLDER.iterdir() if path.name.endswith(suffix)}


def test_weights_and_cards_of_the_package_belong_together() -> None:
    assert suffixed(".safetensors") == set(SHIPPED) == set(spimm.list_models(pretrained=True))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_file_of_the_package_is_the_one_of_its_card_and_fills_its_model(name: str) -> None:
    content = (pretrained.FOLDER / f"{name}.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHIPPED[name].sha256
    model, other = spimm.create_model(name, pretrained=True), spimm.create_model(name, pretrained=True)
    for (key, value), same in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, same) and value.isfinite().all(), key


@pytest.mark.parametrize("name", SHIPPED)
def test_settings_of_the_pooling_leave_the_classifier_that_was_learnt(name: str) -> None:
    plain = spimm.create_model(name, pretrained=True)
    pooled = spimm.create_model(name, pretrained=True, global_pool="avg", num_classes=plain.num_classes)
    assert torch.equal(pooled.head.weight, plain.head.weight)


@pytest.mark.skipif("SPIMM_DATA" not in os.environ, reason="SPIMM_DATA names no folder of real data")
@pytest.mark.parametrize("name", SHIPPED)
def test_the_accuracy_of_a_card_is_found_again(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        load_data(SHIPPED[name].data)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert main(["eval", "--model", name, "--pretrained", "--as-json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == pytest.approx(SHIPPED[name].top1, abs=0.03)


def test_the_accuracy_of_a_card_is_that_of_the_last_epoch_of_its_log() -> None:
    log = Path(__file__).parents[2] / "docs" / "results" / "ttfs_mnist" / "log_shipped.jsonl"
    start, *_, last = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    card = SHIPPED["ttfs_mnist_cnn"]
    assert (start["recipe"]["name"], start["recipe"]["seed"]) == (card.recipe, card.seed)
    assert (last["epoch"], last["ema_top1"]) == (start["recipe"]["epochs"], card.top1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the package's, without weights."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    (tmp_path / "cards.json").write_text("{}")
    return tmp_path


@pytest.fixture
def trained(folder: Path) -> nn.Module:
    """The model whose weights lie there."""
    model = lively(spimm.create_model(NAME).eval())
    ship(model, NAME, folder, data="digits", top1=98.5, recipe="digits", seed=3)
    return model


def test_a_model_made_with_shipped_weights_is_the_one_that_was_shipped(trained: nn.Module) -> None:
    model, x = spimm.create_model(NAME, pretrained=True).eval(), torch.randn(2, 1, 8, 8)
    assert torch.equal(model(x), trained(x))
    one_step = spimm.create_model(NAME, pretrained=True, num_steps=1).eval()
    assert one_step.config.num_steps == 1 and torch.equal(one_step.head.weight, trained.head.weight)
    assert (shipped()[NAME].top1, shipped()[NAME].seed) == (98.5, 3)


def test_shipped_weights_serve_features_with_and_without_classifier(trained: nn.Module) -> None:
    x = torch.randn(2, 1, 8, 8)
    backbone = spimm.create_model(NAME, pretrained=True, features_only=True).eval()
    torch.testing.assert_close(trained.head(backbone(x)[-1].mean((2, 3))), trained(x))
    headless = spimm.create_model(NAME, pretrained=True, num_classes=0).eval()
    assert isinstance(headless.get_classifier(), nn.Identity)
    torch.testing.assert_close(trained.head(headless(x)), trained(x))


def test_other_classes_get_a_new_classifier_in_one_line(trained: nn.Module, caplog) -> None:
    model = spimm.create_model(NAME, pretrained=True, num_classes=5)
    assert caplog.messages == [f"{NAME}: the head of 10 classes left out; the one of 5 classes is new"]
    assert (model.num_classes, model.head.out_features) == (5, 5)
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith("head.")}
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in kept.items())
    same = spimm.create_model(NAME, pretrained=True, num_classes=10)
    assert torch.equal(same.head.weight, trained.head.weight)


def test_other_channels_are_refused(trained: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"in_chans is 3; the weights that ship for '{NAME}' take 1"):
        spimm.create_model(NAME, pretrained=True, in_chans=3)
    same = spimm.create_model(NAME, pretrained=True, in_chans=1)
    assert torch.equal(same.head.weight, trained.head.weight)


def test_options_that_change_the_weights_are_refused(trained: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"{NAME}.safetensors does not fit QKFormer; .*wrong-shaped"):
        spimm.create_model(NAME, pretrained=True, embed_dim=32)


@pytest.mark.usefixtures("trained")
def test_a_file_cut_short_or_changed_is_refused(folder: Path) -> None:
    path = folder / f"{NAME}.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{NAME}\.safetensors is cut short or was changed: its SHA-256"):
            spimm.create_model(NAME, pretrained=True)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{NAME}\.safetensors"):
        spimm.create_model(NAME, pretrained=True)


@pytest.mark.usefixtures("trained")
def test_a_model_without_weights_is_told_which_have_some(tmp_path: Path) -> None:
    assert spimm.list_models(pretrained=True) == spimm.list_models("qk*", pretrained=True) == [NAME]
    assert spimm.list_models("meta*", pretrained=True) == []
    with pytest.raises(ValueError, match=f"no weights ship for 'qkformer_10_384', only for: {NAME}; .*load_official"):
        spimm.create_model("qkformer_10_384", pretrained=True)
    with pytest.raises(ValueError, match=r"weights is 'other\.safetensors' and pretrained is True; wanted one"):
        spimm.create_model(NAME, pretrained=True, weights="other.safetensors")


@pytest.mark.usefixtures("folder")
def test_where_no_weights_ship_at_all_that_is_said() -> None:
    with pytest.raises(ValueError, match=f"no weights ship for '{NAME}', only for: no model"):
        spimm.create_model(NAME, pretrained=True)


def test_timm_takes_them_too(trained: nn.Module) -> None:
    spimm.models.register_with_timm()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(timm.create_model(NAME, pretrained=True).eval()(x), trained(x))
    backbone = timm.create_model(NAME, pretrained=True, features_only=True, out_indices=(2,)).eval()
    torch.testing.assert_close(trained.head(backbone(x)[0].mean((2, 3))), trained(x))
    assert timm.create_model(NAME, pretrained=True, num_classes=5).head.out_features == 5


def test_a_second_model_is_added_to_the_first(trained: nn.Module, folder: Path) -> None:
    ship(trained, "another", folder, data="mnist", top1=1.0, recipe="r", seed=0)
    ship(trained, NAME, folder, data="digits", top1=99.0, recipe="digits", seed=4)
    assert list(shipped()) == ["another", NAME]
    assert shipped()[NAME].top1 == 99.0
