import os
import signal
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spimm.data import ImageData
from spimm.models import save_weights
from spimm.train import Recipe, TrainResult, build_task, read_checkpoint, read_log, train
from spimm.train.teacher import build_teacher

from .conftest import TinyNet
from .test_resume import assert_same_run

TEACHER = "test_resnet"


class TwoHeads(TinyNet):
    """The tiny network with a second classifier: a pair of logits in training, their mean otherwise."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.distilled_head = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Any:
        hidden = torch.relu(self.norm(self.conv(images))).mean((2, 3))
        logits, distilled = self.head(hidden), self.distilled_head(nn.functional.dropout(hidden, 0.2, self.training))
        return (logits, distilled) if self.training else (logits + distilled) / 2


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A teacher of three classes of grey images, saved to a file."""
    torch.manual_seed(3)
    return str(
        save_weights(
            timm.create_model(TEACHER, num_classes=3, in_chans=1), tmp_path_factory.mktemp("t") / "t.safetensors"
        )
    )


@pytest.fixture
def taught(recipe: Recipe, weights: str) -> Recipe:
    return replace(recipe, teacher=TEACHER, teacher_weights=weights)


def run(recipe: Recipe, out: Path, data: ImageData, model: nn.Module | None = None) -> TrainResult:
    return train(recipe, out, data=data, model=model or TwoHeads(), console=Console(file=StringIO()))


def losses(out: Path) -> list[float]:
    return [record["loss"] for record in read_log(out / "log.jsonl") if record["kind"] == "step"]


def stop_in_step(number: int) -> TwoHeads:
    model, steps = TwoHeads(), []

    def stop(module: nn.Module, inputs: tuple[Tensor]) -> None:
        steps.append(module.training)
        if module.training and sum(steps) == number:
            os.kill(os.getpid(), signal.SIGINT)

    model.register_forward_pre_hook(stop)
    return model


@pytest.mark.parametrize(
    "settings",
    [{}, {"distillation": "soft", "optimizer": "lamb", "precision": "bf16", "distill_temperature": 2.0}],
    ids=["hard", "soft_lamb_bf16"],
)
def test_a_run_with_a_teacher_stopped_and_resumed_equals_one_that_was_not(
    settings: dict[str, Any], taught: Recipe, data: ImageData, tmp_path: Path
) -> None:
    taught = replace(taught, ema_decay=0.9, **settings)
    assert run(taught, tmp_path / "whole", data).completed
    assert run(taught, tmp_path / "parts", data, stop_in_step(7)).step == 7
    assert run(taught, tmp_path / "parts", data).completed
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_the_teacher_stays_out_of_checkpoints_average_and_optimizer(
    taught: Recipe, data: ImageData, tmp_path: Path
) -> None:
    result = run(replace(taught, ema_decay=0.9), tmp_path, data)
    names = set(TwoHeads().state_dict())
    for file in ("model.safetensors", "ema.safetensors"):
        assert set(load_file(result.last_checkpoint / file)) == names
    carried = read_checkpoint(result.last_checkpoint).optimizer
    assert {name.partition("/")[2] for name in carried} == {name for name, _ in TwoHeads().named_parameters()}


def test_the_teacher_and_its_share_decide_the_loss(taught: Recipe, data: ImageData, tmp_path: Path) -> None:
    changes = {
        "hard": {},
        "soft": {"distillation": "soft"},
        "half": {"distillation": "soft", "distill_temperature": 0.5},
        "labels": {"distill_alpha": 0.0},
        "none": {"teacher": None, "teacher_weights": None},
    }
    for name, change in changes.items():
        run(replace(taught, epochs=1, **change), tmp_path / name, data)
    assert len({tuple(losses(tmp_path / name)) for name in changes}) == len(changes)


def test_a_teacher_leaves_a_students_first_weights_and_batches_alone(
    taught: Recipe, data: ImageData, tmp_path: Path
) -> None:
    taught = replace(taught, distill_alpha=0.0, epochs=1)
    run(taught, tmp_path / "taught", data, TinyNet())
    run(replace(taught, teacher=None, teacher_weights=None), tmp_path / "alone", data, TinyNet())
    assert losses(tmp_path / "taught") == losses(tmp_path / "alone")


def test_the_task_has_the_weights_of_the_file_frozen_and_in_eval_mode(
    taught: Recipe, weights: str, data: ImageData
) -> None:
    task = build_task(replace(taught, distillation="soft", distill_alpha=0.3, distill_temperature=2.0), data)
    assert task.distill is not None
    assert (task.distill.target, task.distill.alpha, task.distill.temperature) == ("soft", 0.3, 2.0)
    teacher = task.distill.teacher
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    for name, tensor in load_file(weights).items():
        assert torch.equal(teacher.state_dict()[name], tensor)


def test_a_teacher_that_is_unknown_or_does_not_fit_the_data_is_named(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"teacher must be the name of a timm model, got 'caformer_b37'"):
        build_teacher("caformer_b37", None, num_classes=3, in_chans=1)
    with pytest.raises(
        ValueError, match=r"t\.safetensors does not fit ResNet; .*fc\.weight \(3, \d+\), expected \(10, "
    ):
        build_teacher(TEACHER, weights, num_classes=10, in_chans=1)
    with pytest.raises(FileNotFoundError, match=r"no weights file at .*absent"):
        build_teacher(TEACHER, str(tmp_path / "absent.safetensors"), num_classes=3, in_chans=1)
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **sizes: create(name, **sizes))
    with pytest.raises(ValueError, match=r"knows 1000 classes, the data has 3: teacher_weights=FILE"):
        build_teacher(TEACHER, None, num_classes=3, in_chans=1)


def test_weights_that_cannot_be_downloaded_name_the_option_that_takes_a_file(
    recipe: Recipe, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    text = r"teacher 'test_resnet\.r160_in1k' cannot be had .*teacher_weights=FILE"
    with pytest.raises(FileNotFoundError, match=text):
        run(replace(recipe, teacher="test_resnet.r160_in1k"), tmp_path / "run", data)
    with pytest.raises(FileNotFoundError, match=r"cannot be had .*tag.*teacher_weights=FILE"):
        run(replace(recipe, teacher="test_resnet.nonsense"), tmp_path / "run", data)
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_resumed_with_another_teacher(taught: Recipe, data: ImageData, tmp_path: Path) -> None:
    run(taught, tmp_path, data, stop_in_step(3))
    with pytest.raises(ValueError, match=r"another recipe: teacher was 'test_resnet', now None"):
        run(replace(taught, teacher=None, teacher_weights=None), tmp_path, data)


def test_a_damaged_teacher_file_is_refused(taught: Recipe, data: ImageData, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    save_file({"fc.weight": torch.zeros(3, 3)}, broken)
    broken.write_bytes(broken.read_bytes()[:-4])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        run(replace(taught, teacher_weights=str(broken)), tmp_path / "run", data)
