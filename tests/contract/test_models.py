"""What every registered model promises. A new model is found here by its registration alone."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm.analyze import energy, record
from spimm.models import ModelCard, registry
from spimm.neurons import SpikeOutput


def networks() -> list[str]:
    """One name of each network: a second name of the same configuration promises the same."""
    first: dict[object, str] = {}
    for name in spimm.list_models():
        build = registry._find(name)[1]
        first.setdefault((spimm.model_card(name).family, *getattr(build, "args", (name,))), name)
    return list(first.values())


@pytest.fixture(scope="module", params=networks())
def card(request: pytest.FixtureRequest) -> ModelCard:
    return spimm.model_card(request.param)


@pytest.fixture(scope="module")
def model(card: ModelCard) -> Iterator[nn.Module]:
    """The model in eval mode, its norms strong enough for neurons to fire. Tests leave it as they found it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = spimm.create_model(card.name).eval()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.uniform_(1.5, 3)
                part.bias.uniform_(0, 1)
    yield model
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def exact(model: nn.Module) -> nn.Module:
    """The same model in float64, where no rounding comes near a threshold."""
    return copy.deepcopy(model).double()


def images(model: nn.Module, card: ModelCard) -> Tensor:
    """Two random images in the dtype of the model, of its only size or as small as leaves a last map of 2x2."""
    channels, *size = card.input_size
    last = model.feature_info[-1]
    least = max(size) if "size" in last else 2 * last["reduction"]
    generator, dtype = torch.Generator().manual_seed(1), next(model.parameters()).dtype
    draw = torch.rand if card.unit_input else torch.randn
    return draw(2, channels, *(min(side, least) for side in size), generator=generator, dtype=dtype)


def spikes(model: nn.Module) -> bool:
    """Whether any part declares spikes; a spike-free counterpart has none."""
    declared = (getattr(module, "output", None) for module in model.modules())
    return any(isinstance(output, SpikeOutput) and output.kind != "real" for output in declared)


@pytest.mark.parametrize("name", sorted(set(spimm.list_models()) - set(networks())))
def test_a_second_name_of_a_network_has_its_card(name: str) -> None:
    def promises(name: str) -> ModelCard:
        return replace(spimm.model_card(name), name="", recipe=None, note="")

    assert promises(name) in map(promises, networks())


def test_parameters_and_sizes_are_those_of_the_card(card: ModelCard, model: nn.Module) -> None:
    assert sum(parameter.numel() for parameter in model.parameters()) == card.params
    assert model.num_classes == card.num_classes
    assert card.family and card.paper and all(side > 0 for side in card.input_size)


@torch.no_grad()
def test_logits_have_one_row_an_image_whatever_the_number_of_steps(card: ModelCard, model: nn.Module) -> None:
    x = images(model, card)
    assert model(x).shape == (2, card.num_classes)
    assert model.forward_features(x).shape[:2] == (card.num_steps, 2)
    frames = x.unsqueeze(1).expand(-1, 3, -1, -1, -1)
    assert model(frames).shape == (2, card.num_classes)
    assert model.forward_features(frames).shape[0] == 3
    assert model(frames).std() > 0


@torch.no_grad()
def test_a_still_sequence_equals_the_image(card: ModelCard, exact: nn.Module) -> None:
    x = images(exact, card)
    frames = x.unsqueeze(1).expand(-1, card.num_steps, -1, -1, -1)
    torch.testing.assert_close(exact(frames), exact(x), atol=1e-12, rtol=1e-9)


def test_every_parameter_gets_a_finite_gradient(card: ModelCard, model: nn.Module) -> None:
    trained = copy.deepcopy(model).train()
    nn.functional.cross_entropy(trained(images(model, card)), torch.tensor([0, card.num_classes - 1])).backward()
    for name, parameter in trained.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.dim() < 2 or parameter.grad.any(), name


@torch.no_grad()
def test_evaluation_is_deterministic_and_changes_nothing(card: ModelCard, model: nn.Module) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = images(model, card)
    assert torch.equal(model(x), model(x))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch_mates(card: ModelCard, exact: nn.Module) -> None:
    x = images(exact, card)
    parts = torch.cat([exact(x[:1]), exact(x[1:])])
    torch.testing.assert_close(parts, exact(x), atol=1e-12, rtol=1e-9)


@torch.no_grad()
def test_the_state_dict_holds_everything(card: ModelCard, model: nn.Module) -> None:
    with torch.device("meta"):  # what the state dict lacked would stay without memory
        other = spimm.create_model(card.name).eval()
    other.load_state_dict(model.state_dict(), assign=True)
    x = images(model, card)
    assert torch.equal(other(x), model(x))


@torch.no_grad()
def test_features_and_head_make_the_model(card: ModelCard, model: nn.Module) -> None:
    x = images(model, card)
    features = model.forward_features(x)
    assert torch.equal(model.forward_head(features), model(x))
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size)
    torch.testing.assert_close(model.get_classifier()(pooled), model(x))


@torch.no_grad()
def test_intermediates_have_the_shapes_that_the_model_tells(card: ModelCard, model: nn.Module) -> None:
    x = images(model, card)
    features, maps = model.forward_intermediates(x)
    assert torch.equal(features, model.forward_features(x))
    assert len(maps) == len(model.feature_info)
    for info, intermediate in zip(model.feature_info, maps, strict=True):
        size = [info.get("size", -(-side // info["reduction"])) for side in x.shape[2:]]
        assert intermediate.shape == (card.num_steps, 2, info["num_chs"], *size)
        assert model.get_submodule(info["module"])
    last = model.forward_intermediates(x, 1, intermediates_only=True)
    assert torch.equal(last[0], maps[-1])


@torch.no_grad()
def test_the_model_serves_as_a_backbone(card: ModelCard, model: nn.Module) -> None:
    x = images(model, card)
    expected = [intermediate.mean(0) for intermediate in model.forward_intermediates(x, [0, -1])[1]]
    backbone = copy.deepcopy(model).features_only([0, -1])
    assert all(torch.equal(a, b) for a, b in zip(backbone(x), expected, strict=True))
    assert [info["num_chs"] for info in backbone.feature_info] == [features.shape[1] for features in expected]


@torch.no_grad()
def test_the_classifier_can_be_exchanged_or_left_out(card: ModelCard, model: nn.Module) -> None:
    other, x = copy.copy(model), images(model, card)
    other._modules = dict(model._modules)
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    other.reset_classifier(3)
    assert other(x).shape == (2, 3)
    assert (other.num_classes, other.get_classifier().out_features) == (3, 3)
    other.reset_classifier(0)
    assert torch.equal(other(x), pooled)
    assert model(x).shape == (2, card.num_classes)


@torch.no_grad()
def test_the_energy_report_covers_every_layer_that_computes(card: ModelCard, model: nn.Module) -> None:
    x = images(model, card)
    plain = model(x)
    with record(model, model_name=card.name) as recorder:
        recorded = model(x)
    assert torch.equal(recorded, plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    trace = recorder.trace()
    assert (trace.model, trace.num_steps, trace.samples) == (card.name, card.num_steps, 2)
    computing = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    report = energy(trace, count_integers=True)
    assert set(computing) <= {line.layer for line in report.lines}
    assert 0 < report.millijoules < float("inf")
    assert json.loads(report.to_json())["totals"]["millijoules"] == pytest.approx(report.millijoules)
    rates = trace.firing_rates()
    assert bool(rates) == spikes(model)
    assert all(0 <= rate <= 1 for rate in rates.values())
