from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from spimm.data import ImageData, Loader, load_data
from spimm.layers import ConvNormNeuron
from spimm.models import create_model
from spimm.neurons import LIF
from spimm.train import Recipe, apply_overrides, load_recipe, read_log, train
from spimm.train.health import SAMPLES, HealthWatch

from .conftest import TinyNet
from .test_resume import assert_same

CPU = torch.device("cpu")


class SpikingNet(nn.Module):
    """Two spiking convolutions over two steps, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = ConvNormNeuron(1, 8, 3, neuron=LIF())
            self.second = ConvNormNeuron(8, 8, 3, neuron=LIF())
            self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        spikes = self.second(self.first(images.unsqueeze(0), 2))
        return self.head(spikes.mean((0, 3, 4)))

    def set_bias(self, layer: str, bias: float, channels: slice = slice(None)) -> None:
        norm = getattr(self, layer).norm
        with torch.no_grad():
            norm.weight[channels], norm.bias[channels] = 1.0, bias


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def test_a_layer_that_never_or_always_fires_is_named_once_until_it_changes(images: Tensor) -> None:
    model, watch = SpikingNet().eval(), HealthWatch(images)
    model._modules["second"] = nn.Identity()

    def news() -> list[str]:
        seen = watch.look(model, CPU)
        assert seen is not None
        return seen.news

    model.set_bias("first", 2.0)
    assert news() == []
    model.set_bias("first", -50.0)
    assert news() == ["never fires: first.neuron"]
    assert news() == []
    model.set_bias("first", 50.0)
    assert news() == ["always fires: first.neuron"]
    model.set_bias("first", 2.0)
    assert news() == ["fires as it should again: first.neuron"]
    assert news() == []


@pytest.mark.parametrize(("bias", "what"), [(-50.0, "silent"), (50.0, "always firing")])
@pytest.mark.parametrize(("channels", "named"), [(3, False), (4, True), (7, True)])
def test_a_layer_with_half_of_its_channels_dead_or_saturated_is_named(
    bias: float, what: str, channels: int, named: bool, images: Tensor
) -> None:
    model = SpikingNet().eval()
    model.set_bias("second", 2.0)
    model.set_bias("first", 2.0)
    model.set_bias("first", bias, slice(channels))
    seen = HealthWatch(images).look(model, CPU)
    assert seen is not None
    assert seen.record["layers"] == ({"first.neuron": f"has half of its channels or more {what}"} if named else {})
    assert seen.record["silent"] == (channels / 16 if bias < 0 else 0)
    assert 0 < seen.record["rate"] < 1


def test_looking_leaves_the_model_and_random_numbers_alone(images: Tensor) -> None:
    model, watch = SpikingNet(), HealthWatch(images)
    model.train()
    model.first.eval()
    before, modes = model.state_dict(), [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in before.items()}
    random = torch.get_rng_state()
    watch.look(model, CPU)
    assert_same(dict(model.state_dict()), before)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_model_without_neurons_has_no_health(images: Tensor) -> None:
    assert HealthWatch(images).look(TinyNet(), CPU) is None


def test_output_neurons_of_a_network_of_spike_times_are_no_saturated_layer() -> None:
    model = create_model("ttfs_mnist_cnn", convs="4", hidden="8").eval()
    watch = HealthWatch(torch.rand(4, 1, 28, 28))
    seen = watch.look(model, CPU)
    assert seen is not None
    assert not any(condition == "always fires" for condition in seen.record["layers"].values())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "head" not in name and parameter.ndim > 1:
                parameter.fill_(-1.0)
    seen = watch.look(model, CPU)
    assert seen is not None
    assert "never fires" in seen.record["layers"].values()


def run(recipe: Recipe, out: Path, data: ImageData, model: nn.Module) -> str:
    shown = StringIO()
    train(recipe, out, data=data, model=model, console=Console(file=shown, width=200))
    return shown.getvalue()


def health(out: Path) -> list[dict[str, Any]]:
    return [record for record in read_log(out / "log.jsonl") if record["kind"] == "health"]


def test_training_logs_how_neurons_fire_at_every_evaluation_and_names_dead_layers_once(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    model = SpikingNet()
    model.set_bias("second", -1e6)
    shown = run(replace(recipe, epochs=5, eval_every=2), tmp_path, data, model)
    assert [record["step"] for record in health(tmp_path)] == [10, 20, 25]
    assert all(record["layers"] == {"second.neuron": "never fires"} for record in health(tmp_path))
    assert shown.count("neurons: never fires: second.neuron") == 1
    assert "first.neuron" not in shown


def test_watching_neurons_does_not_change_what_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["epochs=2", "warmup_epochs=1", "batch_size=8", "device=cpu", "tensorboard=false", "eval_every=1"]
    recipe = apply_overrides(load_recipe("digits"), settings)
    digits = load_data("digits")
    few = replace(digits, train=digits.train.subset(range(32)), test=digits.test.subset(range(16)))
    results = []
    for look in (HealthWatch.look, lambda *_: None):
        monkeypatch.setattr(HealthWatch, "look", look)
        out = tmp_path / str(len(results))
        results.append(train(recipe, out, data=few, console=Console(file=StringIO())).metrics)
    assert results[0] == results[1]
    assert len(health(tmp_path / "0")) == 2 and not health(tmp_path / "1")
    assert 0 < health(tmp_path / "0")[0]["rate"] < 1


def test_many_layers_share_a_sentence_that_names_the_first(images: Tensor) -> None:
    convs = [ConvNormNeuron(1, 1, 3, neuron=LIF()) for _ in range(8)]
    with torch.no_grad():
        for conv in convs:
            conv.norm.bias.fill_(-50.0)
    model = nn.Sequential(nn.Unflatten(0, (1, 5)), *convs)
    seen = HealthWatch(images).look(model, CPU)
    assert seen is not None
    assert seen.news == ["never fires: 1.neuron, 2.neuron, 3.neuron, 4.neuron, 5.neuron and 3 more"]
    assert len(seen.record["layers"]) == 8


def test_the_watch_takes_a_few_images_of_the_loader(data: ImageData) -> None:
    loader = Loader(data.test, 21, mean=data.mean, std=data.std)
    assert len(HealthWatch.of(loader).images) == 21 <= SAMPLES
    many = Loader(data.train, 40, mean=data.mean, std=data.std)
    assert len(HealthWatch.of(many).images) == SAMPLES
