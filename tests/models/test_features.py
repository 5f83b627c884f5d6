import pytest
import torch

import spimm
from spimm.models.features import FeatureList, pick_stages

from .conftest import tiny


@pytest.mark.parametrize(
    ("indices", "stages"),
    [(None, [0, 1, 2]), (1, [2]), (2, [1, 2]), (3, [0, 1, 2]), ([0, 2], [0, 2]), ([-1], [2]), ([2, 0], [2, 0])],
)
def test_stages_are_picked_by_count_or_number(indices, stages: list[int]) -> None:
    assert pick_stages(indices, 3) == stages


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (0, "asked for the last 0 stages; the model has 3"),
        (4, "asked for the last 4 stages"),
        ([3], "stage 3 does not exist; the model has stages 0 to 2"),
        ([-4], "stage -4 does not exist"),
    ],
)
def test_stages_that_do_not_exist_are_refused(indices, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pick_stages(indices, 3)


def test_intermediates_are_the_outputs_of_the_stages() -> None:
    model, x, seen = tiny(), torch.randn(2, 3, 16, 16), []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, inputs, output: seen.append(output))
    features, maps = model.forward_intermediates(x)
    assert all(torch.equal(a, b) for a, b in zip(maps, seen, strict=True))
    assert torch.equal(features, model.forward_features(x))
    assert torch.equal(model.forward_head(features), model(x))


def test_stages_behind_the_last_one_asked_for_do_not_run() -> None:
    model, ran = tiny(), []
    for index, stage in enumerate(model.stages):
        stage.register_forward_hook(lambda module, inputs, output, index=index: ran.append(index))
    (only,) = model.forward_intermediates(torch.randn(2, 3, 16, 16), [0], intermediates_only=True)
    assert ran == [0]
    assert only.shape == (3, 2, 4, 16, 16)


def test_no_stage_asked_for_gives_no_map() -> None:
    assert tiny().forward_intermediates(torch.randn(2, 3, 16, 16), [], intermediates_only=True) == []


@pytest.mark.parametrize("indices", [None, 2, [0, -1]])
def test_a_backbone_gives_the_mean_over_time_of_its_stages(indices) -> None:
    model, x = tiny(), torch.randn(2, 3, 16, 12)
    expected = [features.mean(0) for features in model.forward_intermediates(x, indices)[1]]
    backbone = model.features_only(indices)
    assert isinstance(backbone, FeatureList)
    for features, wanted, info in zip(backbone(x), expected, backbone.feature_info, strict=True):
        assert torch.equal(features, wanted)
        assert features.shape == (2, info["num_chs"], 16 // info["reduction"], 12 // info["reduction"])
    for info in backbone.feature_info:
        assert backbone.model.get_submodule(info["module"]) is not None


def test_a_backbone_trains_without_unused_parameters() -> None:
    backbone = spimm.create_model("qkformer_3_64_digits", features_only=True)
    sum(features.sum() for features in backbone(torch.randn(2, 1, 8, 8))).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_the_classifier_is_exchanged_in_place_and_in_the_dtype_of_the_model() -> None:
    model, x = tiny().double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    model.reset_classifier(4)
    assert model(x).shape == (2, 4)
    assert model.num_classes == 4
    assert model.get_classifier().weight.dtype == torch.float64
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(model.get_classifier()(pooled), model(x))
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled)


def test_a_backbone_of_no_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stages are \[\]; expected at least one, such as out_indices=\(-1,\)"):
        spimm.create_model("qkformer_3_64_digits", features_only=True, out_indices=[])
