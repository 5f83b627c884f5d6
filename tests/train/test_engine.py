import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from spimm.data import Augment, ImageData, ImageSplit, Loader
from spimm.tasks import Classify
from spimm.train import NonFiniteLoss, Recipe, TrainResult, build_loader, evaluate, load_weights, read_log, train

from .conftest import TinyNet


def run(recipe: Recipe, out: Path, data: ImageData, model: TinyNet | None = None) -> TrainResult:
    return train(recipe, out, data=data, model=model or TinyNet(), console=Console(file=StringIO()))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Explode(torch.autograd.Function):
    """Passes its input through; its gradient is infinite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * math.inf


@pytest.mark.parametrize(
    ("fail", "what"),
    [(lambda logits: logits * math.nan, "loss is nan"), (Explode.apply, "gradient norm is (inf|nan)")],
)
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run_and_leaves_the_checkpoint_alone(
    clip_norm: float, fail: Callable[[Tensor], Tensor], what: str, recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    recipe = replace(recipe, clip_norm=clip_norm)
    run(recipe, tmp_path / "first", data, TinyNet())
    last = tmp_path / "run" / "checkpoints" / "last"
    with pytest.raises(NonFiniteLoss) as caught:
        run(recipe, tmp_path / "run", data, TinyNet(fail_at=13, fail=fail))
    message = str(caught.value)
    assert re.match(rf"{what}.* at epoch 3, step 13, lr 0\.00\d+; the last good checkpoint is {last}\. ", message)
    model = TinyNet()
    load_weights(model, last)
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    saved = contents(last)
    with pytest.raises(NonFiniteLoss):
        run(recipe, tmp_path / "run", data, TinyNet(fail_at=3, fail=fail))
    assert contents(last) == saved


def test_a_failure_before_the_first_checkpoint_says_that_there_is_none(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteLoss, match=r"epoch 1, step 2, .* no checkpoint had been written yet"):
        run(recipe, tmp_path, data, TinyNet(fail_at=2, fail=lambda logits: logits / 0))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_learns_the_shades(precision: str, recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    result = run(replace(recipe, precision=precision, epochs=30, lr=5e-2, augment=Augment(flip=True)), tmp_path, data)
    assert result.completed
    assert result.best["top1"] > 90
    epochs = [record for record in read_log(tmp_path / "log.jsonl") if record["kind"] == "epoch"]
    assert epochs[-1]["train_loss"] < 0.5 < epochs[0]["train_loss"]


def test_bf16_keeps_weights_and_optimizer_in_fp32_and_computes_in_bf16(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    seen: list[torch.dtype] = []
    model = TinyNet()
    model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    run(replace(recipe, precision="bf16"), tmp_path, data, model)
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_without_held_out_images_the_best_checkpoint_holds_the_weights_of_the_last_epoch(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    recipe = replace(recipe, epochs=8, lr=0.2, min_lr=0.2)
    result = run(recipe, tmp_path, data)
    records = read_log(tmp_path / "log.jsonl")
    scores = {record["epoch"]: record["top1"] for record in records if record["kind"] == "epoch"}
    assert scores[8] < max(scores.values())  # test images would have chosen another
    assert (result.best["epoch"], result.best["top1"]) == (8, scores[8])
    model = TinyNet()
    load_weights(model, result.best_checkpoint)
    measured = evaluate(model, build_loader(recipe, data, train=False), Classify(3), device="cpu")
    assert measured == {key: result.best[key] for key in ("loss", "top1", "untied_top1", "top5", "images")}


def test_averaged_weights_are_evaluated_and_kept(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    recipe = replace(recipe, ema_decay=0.9)
    result = run(recipe, tmp_path, data)
    model = TinyNet()
    load_weights(model, result.best_checkpoint)
    measured = evaluate(model, build_loader(recipe, data, train=False), Classify(3), device="cpu")
    assert measured["loss"] == result.best["ema_loss"] != result.best["loss"]


def test_the_average_follows_the_weights_with_a_decay_that_warms_up(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    model, history = TinyNet(), []
    recipe = replace(recipe, epochs=1, warmup_epochs=0, ema_decay=0.8)
    model.register_forward_pre_hook(lambda module, inputs: history.append(module.head.weight.detach().clone()))
    result = run(recipe, tmp_path, data, model)
    weights = [*history[1:5], model.head.weight.detach()]  # after steps 1 to 5
    average = weights[0]
    for step, weight in enumerate(weights[1:], start=1):
        decay = min(1 - (1 + step) ** (-2 / 3), 0.8)
        average = decay * average + (1 - decay) * weight
    averaged = TinyNet()
    load_weights(averaged, result.last_checkpoint)
    torch.testing.assert_close(averaged.head.weight.detach(), average)


def test_evaluation_happens_every_so_many_epochs_and_at_the_end(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    run(replace(recipe, epochs=5, eval_every=2), tmp_path, data)
    epochs = [record for record in read_log(tmp_path / "log.jsonl") if record["kind"] == "epoch"]
    assert [record["epoch"] for record in epochs if "top1" in record] == [2, 4, 5]


def test_gradients_are_clipped_to_the_norm_asked_for(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    model, norms = TinyNet(), []
    parameters = list(model.parameters())

    def note_norm(module: TinyNet, inputs: tuple[Tensor]) -> None:
        if parameters[0].grad is not None:
            norms.append(float(torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()))

    model.register_forward_pre_hook(note_norm)
    run(replace(recipe, clip_norm=0.01), tmp_path, data, model)
    assert max(norms) == pytest.approx(0.01, rel=1e-3)
    logged = [record["grad_norm"] for record in read_log(tmp_path / "log.jsonl") if record["kind"] == "step"]
    assert max(logged) > 0.01


def test_every_epoch_asks_the_loader_for_its_own_batches(
    recipe: Recipe, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    iterate = Loader.iterate

    def note(loader: Loader, epoch: int, start_batch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        if loader.shuffle:
            asked.append((epoch, start_batch))
        return iterate(loader, epoch, start_batch)

    monkeypatch.setattr(Loader, "iterate", note)
    run(recipe, tmp_path, data)
    assert asked == [(0, 0), (1, 0), (2, 0)]


def test_a_label_out_of_range_is_refused_before_training_begins(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    model = TinyNet()
    wrong = ImageSplit(data.train.images, data.train.labels.clone())
    broken = replace(data, train=wrong)
    wrong.labels[17] = 3
    with pytest.raises(ValueError, match=r"class index 3 \(label number 17\).*num_classes is 3"):
        run(recipe, tmp_path, broken, model)
    assert model.training_steps == 0
    assert not (tmp_path / "log.jsonl").exists()


def test_a_batch_larger_than_the_training_data_is_refused(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        run(replace(recipe, batch_size=41), tmp_path, data)


def test_determinism_settings_of_before_come_back(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    seen: list[bool] = []
    model = TinyNet()
    model.register_forward_pre_hook(lambda *_: seen.append(torch.are_deterministic_algorithms_enabled()))
    run(recipe, tmp_path, data, model)
    assert all(seen)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
