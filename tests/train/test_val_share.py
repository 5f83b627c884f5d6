"""The best epoch is chosen on held-out training images where there are some, and named by what chose it."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from spimm.cli.train import summary
from spimm.data import ImageData
from spimm.data.held_out import hold_out
from spimm.reproduce.logs import RunFiles, read_run
from spimm.train import Recipe, build_loader, build_task, evaluate, load_weights, plan_run, read_log, train

from .conftest import TinyNet, signal_at


@pytest.fixture
def held(data: ImageData) -> ImageData:
    """The shades with 8 of their 40 training images held out."""
    return hold_out(data, 0.2)


def lines(folder: Path) -> list[dict[str, float]]:
    return [record for record in read_log(folder / "log.jsonl") if record["kind"] == "epoch"]


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_the_best_epoch_is_the_first_that_held_out_images_choose(
    recipe: Recipe, held: ImageData, tmp_path: Path, ema_decay: float
) -> None:
    recipe = replace(recipe, epochs=8, batch_size=4, ema_decay=ema_decay, val_share=0.2)
    result = train(recipe, tmp_path, data=held, model=TinyNet())
    score, tested = ("val_ema_top1", "ema_top1") if ema_decay else ("val_top1", "top1")
    epochs = lines(tmp_path)
    best = max(epochs, key=lambda line: line[score])
    assert (result.best["epoch"], result.best[score]) == (best["epoch"], best[score])
    assert max(epochs, key=lambda line: line[tested])["epoch"] != best["epoch"]  # the test images would choose another
    assert all((line["images"], line["val_images"]) == (21, 8) for line in epochs)
    assert read_run(tmp_path, RunFiles("log.jsonl", {})).figures["best_top1"] == best[tested]
    model, task = TinyNet(), build_task(recipe, held)
    load_weights(model, result.best_checkpoint)
    assert evaluate(model, build_loader(recipe, held, train=False, val=True), task)["top1"] == best[score]
    assert evaluate(model, build_loader(recipe, held, train=False), task)["top1"] == best[tested]
    facts = json.loads((tmp_path / "data.json").read_text())
    assert facts["images"] == {"train": 32, "test": 21, "val": 8}
    text = summary(result)
    assert text.startswith(f"best epoch by held-out images, top-1 {best[score]:.2f} %: {best['epoch']}, with top-1 ")
    assert text.endswith(f"of the test images; last epoch: {epochs[-1][tested]:.2f} %")


def test_of_equal_epochs_the_first_is_kept(
    recipe: Recipe, held: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = {"loss": 1.0, "top1": 50.0, "untied_top1": 50.0, "top5": 100.0, "images": 8}
    monkeypatch.setattr("spimm.train.engine.evaluate", lambda *_, **__: dict(same))
    result = train(replace(recipe, val_share=0.2), tmp_path, data=held, model=TinyNet())
    assert (result.best["epoch"], result.epoch) == (1, 3)


def test_without_held_out_images_the_last_epoch_is_kept_and_test_images_choose_none(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    result = train(recipe, tmp_path, data=data, model=TinyNet())
    assert not any(name.startswith("val_") for line in lines(tmp_path) for name in line)
    assert result.best == {"epoch": result.epoch, **result.metrics}
    assert summary(result).startswith("last epoch: top-1 ") and "choose no epoch" in summary(result)
    with pytest.raises(ValueError, match="held-out images, which val_share sets; shades has none"):
        build_loader(recipe, data, train=False, val=True)


def test_training_never_sees_held_out_images_and_a_run_that_stopped_goes_on_alike(
    recipe: Recipe, held: ImageData, tmp_path: Path
) -> None:
    recipe = replace(recipe, val_share=0.2)
    whole = train(recipe, tmp_path / "whole", data=held, model=TinyNet())
    seen, held_out = ({tuple(image.flatten().tolist()) for image in split.images} for split in (held.train, held.val))
    assert len(held_out) == 8 and not held_out & seen
    stopped = train(recipe, tmp_path / "parts", data=held, model=signal_at(6, signal.SIGINT))
    assert not stopped.completed
    again = train(recipe, tmp_path / "parts", data=held, model=TinyNet())
    assert (again.best, again.metrics) == (whole.best, whole.metrics)


def test_a_dry_run_counts_what_is_held_out() -> None:
    from io import StringIO

    from rich.console import Console

    from spimm.cli.plan import print_plan
    from spimm.train import load_recipe

    recipe = replace(load_recipe("digits"), val_share=0.1)
    planned = plan_run(recipe, images=4)
    size = planned.plan.data
    assert (size.train, size.held_out, size.test) == (1293, 144, 360)
    shown = StringIO()
    print_plan(Console(file=shown, width=200), planned)
    assert "1,293 for training, 144 held out and 360 for tests" in shown.getvalue()
    absent = plan_run(replace(recipe, model="qkformer_4_96_mnist", data="mnist"), images=4, data_dir=None)
    assert (absent.plan.data.train, absent.plan.data.held_out) == (54_000, 6_000)


def test_a_share_outside_of_0_to_1_is_refused_by_the_recipe() -> None:
    with pytest.raises(ValueError, match=r"val_share must be in \[0, 1\), got 1.0"):
        Recipe(model="tiny", data="shades", val_share=1.0)


def test_a_batch_larger_than_the_training_images_is_refused_with_the_remedy(recipe: Recipe, data: ImageData) -> None:
    with pytest.raises(ValueError, match=r"batch_size=41 is more than the 40 training images .*: give batch_size=40"):
        build_loader(replace(recipe, batch_size=41), data, train=True)
    assert len(build_loader(replace(recipe, batch_size=41), data, train=False)) == 1
