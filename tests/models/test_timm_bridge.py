import warnings

import pytest
import timm
import torch
from timm.models import PretrainedCfg

import spimm
from spimm.models.timm_bridge import register_with_timm


@pytest.fixture(autouse=True)
def registered() -> list[str]:
    return register_with_timm()


def test_timm_lists_and_builds_every_model_under_our_name(registered: list[str]) -> None:
    assert registered == spimm.list_models()
    assert set(timm.list_models("qkformer*")) == set(spimm.list_models("qkformer*"))
    assert set(timm.list_models(module="timm_bridge")) == set(spimm.list_models())
    model = timm.create_model("qkformer_10_384", num_classes=5)
    assert type(model) is type(spimm.create_model("qkformer_3_64_digits"))
    assert (model.num_classes, model.head.out_features) == (5, 5)


def test_registering_again_changes_nothing(registered: list[str]) -> None:
    before = timm.models.model_entrypoint("qkformer_10_384")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert register_with_timm() == registered
    assert timm.models.model_entrypoint("qkformer_10_384") is before


def test_options_reach_the_model() -> None:
    model = timm.create_model("qkformer_3_64_digits", in_chans=3, num_classes=0, num_steps=2, neuron="plif")
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 64)
    assert (model.config.num_steps, model.config.neuron) == (2, "plif")
    with pytest.raises(ValueError, match="QKFormer has no option 'drop_block_rate'"):
        timm.create_model("qkformer_3_64_digits", drop_block_rate=0.1)


@pytest.mark.parametrize("as_dict", [True, False])
def test_a_configuration_of_timm_gives_classes_and_channels_unless_they_are_named(as_dict: bool) -> None:
    config = PretrainedCfg(num_classes=7, input_size=(2, 8, 8))
    cfg = config.to_dict() if as_dict else config
    model = timm.create_model("qkformer_3_64_digits", pretrained_cfg=cfg)
    assert (model.num_classes, model.config.in_chans) == (7, 2)
    model = timm.create_model("qkformer_3_64_digits", pretrained_cfg=cfg, num_classes=4)
    assert (model.num_classes, model.config.in_chans) == (4, 2)
    model = timm.create_model("qkformer_3_64_digits", pretrained_cfg_overlay={"num_classes": 3})
    assert (model.num_classes, model.config.in_chans) == (3, 1)
    model = timm.create_model("qkformer_3_64_digits", pretrained_cfg_overlay={"num_classes": -1}, num_classes=6)
    assert model.num_classes == 6


def test_weights_of_a_file_that_the_configuration_names_are_taken_with_a_new_classifier(tmp_path) -> None:
    trained = spimm.create_model("qkformer_3_64_digits")
    path = spimm.save_weights(trained, tmp_path / "trained.safetensors")
    overlay = {"file": str(path), "num_classes": -1}  # as timm's train.py does for --pretrained-path
    settings = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    model = timm.create_model("qkformer_3_64_digits", num_classes=4, **settings)
    weights = "stages.2.blocks.0.mlp.branch.expand.conv.weight"
    assert torch.equal(model.state_dict()[weights], trained.state_dict()[weights])
    assert model.head.out_features == 4


def test_feature_maps_are_chosen_by_out_indices() -> None:
    backbone = timm.create_model("qkformer_3_64_digits", features_only=True, out_indices=(0, 2))
    assert [features.shape[1] for features in backbone(torch.randn(1, 1, 8, 8))] == [16, 64]
    assert len(timm.create_model("qkformer_3_64_digits", features_only=True)(torch.randn(1, 1, 8, 8))) == 3
    with pytest.raises(ValueError, match=r"out_indices is \(0,\); it needs features_only=True"):
        timm.create_model("qkformer_3_64_digits", out_indices=(0,))


def test_weights_that_do_not_ship_are_not_promised() -> None:
    with pytest.raises(ValueError, match=r"no weights ship for 'qkformer_10_384', .*load_official"):
        timm.create_model("qkformer_10_384", pretrained=True)
    with pytest.raises(ValueError, match="'qkformer_10_384' has no weights called 'in1k'; those that ship have no tag"):
        timm.create_model("qkformer_10_384.in1k")


def test_a_model_of_timm_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spimm.models.timm_bridge.list_models", lambda: ["resnet18"])
    with pytest.raises(ValueError, match=r"timm has a model named 'resnet18' already, from timm\.models\.resnet"):
        register_with_timm()
