"""What timm's tools and its own test of models ask of a net, asked of ours: the smallest of each family in the gate."""

import copy
import math
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.models import FeatureInfo, get_notrace_functions, get_notrace_modules, get_pretrained_cfg_value
from timm.models._features import FeatureGetterNet
from timm.models._manipulate import group_parameters
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import spimm
from spimm.data import load_data
from spimm.data.folder import IMAGENET_STATISTICS
from spimm.data.static import CIFAR_STATISTICS, MNIST_STATISTICS
from spimm.models import register_with_timm

SMALLEST: dict[str, dict[str, Any]] = {
    "qkformer_3_64_digits": {"num_steps": 2},
    "metaspikeformer_nmnist": {"widths": (8, 16, 32), "num_steps": 2},
    "spikeatconv_mnist": {"widths": (8, 16, 32), "head_dim": 8, "depths": (1, 1, 1), "num_steps": 2},
    "resnet18_cifar_small": {"depths": (1, 2, 1)},
    "ttfs_mnist_cnn": {"convs": "4,M,8,M", "hidden": "16"},
}
OTHERS = sorted(set(spimm.list_models()) - set(SMALLEST))
ALL = [*SMALLEST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
RESIDUAL = [name for name in SMALLEST if not name.startswith("ttfs")]


@pytest.fixture(autouse=True)
def registered() -> None:
    register_with_timm()


def build(name: str, **options: Any) -> nn.Module:
    return timm.create_model(name, **{**SMALLEST.get(name, {}), **options})


def images(model: nn.Module, batch: int) -> Tensor:
    """Of the size that the model's configuration states, at most 128 pixels where it takes any."""
    config = model.default_cfg
    channels, *sides = config["input_size"]
    sides = sides if config["fixed_input_size"] else [min(side, 128) for side in sides]
    return torch.rand(batch, channels, *sides)


@pytest.mark.parametrize("name", ALL)
def test_an_image_gets_logits_which_checkpointing_leaves_as_they_are(name: str) -> None:
    model = build(name).eval()
    x = images(model, 1)
    logits = model(x)
    assert logits.shape == (1, model.num_classes) and logits.isfinite().all()
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(x), logits)


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_gets_a_gradient_with_checkpointing_as_without(name: str) -> None:
    model = build(name, num_classes=42).train()
    x = images(model, 2)
    other = copy.deepcopy(model)
    other.set_grad_checkpointing()
    for net in (model, other):
        logits = net(x)
        assert logits.shape == (2, 42)
        logits.square().mean().backward()
    for (label, weight), again in zip(model.named_parameters(), other.parameters(), strict=True):
        assert weight.grad is not None and weight.grad.isfinite().all(), label
        torch.testing.assert_close(again.grad, weight.grad, msg=label)


@pytest.mark.parametrize("name", ALL)
def test_the_configuration_states_sizes_and_names_of_the_net(name: str) -> None:
    with torch.device("meta"):
        model = build(name).eval()
    config, state = model.default_cfg, model.state_dict()
    assert config["input_size"] == get_pretrained_cfg_value(name, "input_size") == spimm.model_card(name).input_size
    assert f"{config['first_conv']}.weight" in state and f"{config['classifier']}.weight" in state
    x = torch.empty(1, *config["input_size"], device="meta")
    features = model.forward_features(x)
    assert features.shape[1:4] == (model.num_features, *config["pool_size"])
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (1, model.head_hidden_size)
    model.reset_classifier(0)
    assert model.num_classes == 0 and model(x).shape == pooled.shape
    model.reset_classifier(0, "")
    assert model(x).shape == (1, model.num_features, *config["pool_size"])
    with torch.device("meta"):
        bare = build(name, num_classes=0, global_pool="").eval()
    assert bare(x).shape == (1, model.num_features, *config["pool_size"])
    model.to(torch.float64).reset_classifier(2)
    assert model.get_classifier().weight.dtype == torch.float64 and not model.get_classifier().training


@pytest.mark.parametrize("name", list(SMALLEST))
def test_features_and_head_make_the_logits_step_by_step(name: str) -> None:
    model, plain = build(name).eval(), build(name).eval()
    plain.load_state_dict(model.state_dict())
    plain.batch_first = False
    x = images(model, 2)
    features, channels, steps = model.forward_features(x), model.num_features, model.num_steps * (model.planes or 1)
    assert features.shape == (2, channels, *model.default_cfg["pool_size"], *([steps] if steps > 1 else []))
    assert torch.equal(model.forward_head(features), model(x))
    assert torch.equal(model(x), plain(x))
    assert plain.forward_features(x).shape[:2] == (model.num_steps, 2)
    frames = x.unsqueeze(1).expand(-1, 3, -1, -1, -1)
    assert torch.equal(model.forward_head(model.forward_features(frames)), model(frames))


@pytest.mark.parametrize("name", ALL)
def test_maps_have_the_channels_and_reductions_that_are_told(name: str) -> None:
    model = build(name).eval()
    info, x = FeatureInfo(model.feature_info, len(model.feature_info)), images(model, 1)
    features, maps = model.forward_intermediates(x, output_fmt="NCHW")
    assert torch.equal(features, model.forward_features(x))
    with torch.no_grad():
        getter = FeatureGetterNet(copy.deepcopy(model), out_indices=(0, len(maps) - 1))
        assert all(torch.equal(a, b) for a, b in zip(getter(x), (maps[0], maps[-1]), strict=True))
    for one, channels, reduction in zip(maps, info.channels(), info.reduction(), strict=True):
        assert one.shape[:2] == (1, channels)
        for side, full in zip(one.shape[2:], x.shape[2:], strict=True):
            assert full / (2 * reduction) < side <= math.ceil(full / reduction) + 1


@pytest.mark.parametrize("name", ALL)
def test_a_backbone_has_only_what_its_maps_need(name: str) -> None:
    whole = build(name)
    stages = len(whole.feature_info)
    x, counts = images(whole, 2), []
    for last in range(stages):
        backbone = build(name, features_only=True, out_indices=(last,), neuron="plif") if "ttfs" not in name else None
        backbone = backbone or build(name, features_only=True, out_indices=(last,))
        (only,) = backbone.train()(x)
        only.sum().backward()
        assert [label for label, weight in backbone.named_parameters() if weight.grad is None] == []
        info = backbone.feature_info
        assert (info.channels(), info.out_indices) == ([only.shape[1]], (last,))
        assert info.module_name() == [f"stages.{last}"] and backbone.model.get_submodule(f"stages.{last}")
        assert info.reduction(0) == info[0]["reduction"] == whole.feature_info[last]["reduction"]
        assert info.get_dicts(["num_chs"], [0]) == [{"num_chs": only.shape[1]}]
        counts.append(sum(weight.numel() for weight in backbone.parameters()))
    assert counts == sorted(set(counts))
    head = sum(weight.numel() for label, weight in whole.named_parameters() if not label.startswith("stages."))
    assert name.startswith("ttfs") is False or counts[-1] == sum(w.numel() for w in whole.parameters()) - head


@pytest.mark.parametrize("name", list(SMALLEST))
def test_a_pruned_net_ends_at_its_last_map(name: str) -> None:
    model = build(name).eval()
    x, last = images(model, 2), len(model.feature_info) - 1
    maps = model.forward_intermediates(x, intermediates_only=True)
    kept = copy.deepcopy(model)
    assert kept.prune_intermediate_layers([last], prune_head=False) == [last]
    assert torch.equal(kept(x), model(x))
    with pytest.raises(ValueError, match=r"prune_head is False for stages \[0\]; the head takes the map of the last"):
        kept.prune_intermediate_layers([0], prune_head=False)
    pruned = copy.deepcopy(model)
    assert pruned.prune_intermediate_layers([0]) == [0]
    assert torch.equal(pruned.forward_intermediates(x, [0], intermediates_only=True)[0], maps[0])
    assert torch.equal(model.forward_intermediates(x, [0], stop_early=True)[1][0], maps[0])
    pruned.reset_classifier(5)
    assert pruned(x).shape == (2, 5)


STATISTICS = {
    "qkformer_10_384": IMAGENET_STATISTICS,
    "qkformer_4_384_cifar": CIFAR_STATISTICS,
    "spikeatconv_mnist": MNIST_STATISTICS,
    "qkformer_2_256_dvs": ((0.0, 0.0), (1.0, 1.0)),
    "ttfs_mnist_cnn": ((0.0,), (1.0,)),
}


def test_images_are_normalised_as_in_training() -> None:
    for name, (mean, std) in STATISTICS.items():
        assert get_pretrained_cfg_value(name, "mean") == mean and get_pretrained_cfg_value(name, "std") == std
    digits = load_data("digits")
    assert get_pretrained_cfg_value("qkformer_3_64_digits", "mean") == pytest.approx(digits.mean, abs=1e-4)
    assert get_pretrained_cfg_value("qkformer_3_64_digits", "std") == pytest.approx(digits.std, abs=1e-4)
    config = resolve_data_config(model=build("spikeatconv_mnist"))
    assert (config["input_size"], config["mean"], config["crop_pct"]) == ((1, 28, 28), MNIST_STATISTICS[0], 1.0)
    grey = build("resnet18_cifar_small", in_chans=1, img_size=48)
    assert grey.default_cfg["input_size"] == (1, 48, 48) and grey.default_cfg["pool_size"] == (6, 6)
    assert grey.default_cfg["mean"] == pytest.approx((sum(CIFAR_STATISTICS[0]) / 3,))


@pytest.mark.parametrize("name", RESIDUAL)
def test_stochastic_depth_leaves_out_branches_of_samples_in_training_only(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, drop_path_rate=0.9).train()
    plain = build(name).train()
    plain.load_state_dict(model.state_dict())
    x = images(model, 16)
    dropped = [model(x) for _ in range(2)]
    assert not torch.equal(*dropped), "two draws leave out different branches"
    assert torch.equal(plain(x), plain(x))
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("name", list(SMALLEST))
def test_dropout_stands_before_the_classifier_in_training_only(name: str) -> None:
    model = build(name, drop_rate=0.5)
    x = images(model, 2)
    seen: list[Tensor] = []
    model.get_classifier().register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    with torch.no_grad():
        before = model.eval().forward_features(x)
        given = torch.full_like(before, 1.0 if name.startswith("ttfs") else 5.0)
        for training in (False, True, True):
            model.get_classifier().train(training)
            model.training = training
            model.forward_head(given)
    whole, first, second = seen
    assert whole.any()
    assert not torch.equal(first, second)
    assert torch.equal(first[first.ne(0)], 2 * whole[first.ne(0)])
    with pytest.raises(ValueError, match="drop_rate is 1; expected a probability from 0 to below 1"):
        build(name, drop_rate=1)


def test_arguments_that_scripts_pass_do_their_work_or_are_refused() -> None:
    model = build("qkformer_3_64_digits", bn_momentum=0.3, bn_eps=1e-2, drop_path_rate=0.2, drop_rate=0.1)
    assert {(norm.momentum, norm.eps) for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)} == {(0.3, 1e-2)}
    assert model.stages[2].blocks[0].mlp.drop_path == 0.2 and model.drop_rate == 0.1
    sized = build("ttfs_mnist_cnn", img_size=36, padding=2)
    assert sized(torch.rand(1, 1, 36, 36)).shape == (1, 10) and sized.default_cfg["input_size"] == (1, 36, 36)
    with pytest.raises(TypeError, match="QKFormer has no option 'drop_block_rate'"):
        build("qkformer_3_64_digits", drop_block_rate=0.1)
    for options, message in (
        ({"global_pool": "max"}, "global_pool is 'max'; expected 'avg', or '' for 0 classes"),
        ({"global_pool": ""}, "global_pool is '' for 10 classes; a classifier needs 'avg'"),
        ({"img_size": (8, 9)}, r"img_size is \(8, 9\); expected a square"),
        ({"feature_cls": "hook", "features_only": True}, "feature_cls is 'hook'; .* expected getter or list"),
        ({"drop_path_rate": 0.1, "shortcut": "vanilla"}, "drop_path is 0.1; it needs the shortcut membrane or"),
    ):
        with pytest.raises(ValueError, match=message):
            build("qkformer_3_64_digits", **options)
    with pytest.raises(ValueError, match=r"drop_path_rate is 0\.1; ttfs_mnist_cnn has no residual branches"):
        build("ttfs_mnist_cnn", drop_path_rate=0.1)
    with pytest.raises(ValueError, match=r"bn_eps is 0\.1; ttfs_mnist_cnn has no batch norm"):
        build("ttfs_mnist_cnn", bn_eps=0.1)


@pytest.mark.parametrize("name", list(SMALLEST))
def test_each_stage_is_a_node_of_a_traced_graph(name: str) -> None:
    model = build(name).eval()
    x = images(model, 2)
    leaves = {"leaf_modules": get_notrace_modules(), "autowrap_functions": get_notrace_functions()}
    nodes = {f"stages.{i}": f"map{i}" for i in range(len(model.stages))} if "ttfs" not in name else {}
    traced = create_feature_extractor(model, {**nodes, "head": "logits"}, tracer_kwargs=leaves)
    with torch.no_grad():
        found = traced(x)
        whole = create_feature_extractor(model, [get_graph_node_names(model, leaves)[1][-1]], tracer_kwargs=leaves)
        assert torch.equal(*whole(x).values(), model(x))
        for i, one in enumerate(model.forward_intermediates(x, output_fmt="TNCHW", intermediates_only=True)):
            assert not nodes or torch.equal(found[f"map{i}"], one)


@pytest.mark.parametrize("name", list(SMALLEST))
def test_layer_wise_rates_of_timm_follow_the_depths(name: str) -> None:
    model = build(name)
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    assert groups == model.layer_depths()
    assert max(group_parameters(model, model.group_matcher(coarse=True), reverse=True).values()) == len(model.stages)
    scales = {group["lr_scale"] for group in param_groups_layer_decay(model, layer_decay=0.5)}
    assert scales == {0.5**depth for depth in range(len(model.layers()) + 1)}
