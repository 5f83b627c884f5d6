import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from spimm.data import ImageData
from spimm.train import Recipe, read_log, train
from spimm.train.log import RunLog
from spimm.train.progress import ProgressView

from .conftest import TinyNet


def run(recipe: Recipe, out: Path, data: ImageData, **options: Any) -> str:
    """Trains, and returns what the terminal showed."""
    shown = StringIO()
    train(recipe, out, data=data, model=TinyNet(), console=Console(file=shown, width=200, **options))
    return shown.getvalue()


def test_the_log_has_one_json_object_a_line_for_the_start_each_step_and_each_epoch(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    run(recipe, tmp_path, data)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["kind"] for record in records] == ["start", *(["step"] * 5 + ["epoch"]) * 3]
    start, steps, epochs = records[0], records[1:6], records[6::6]
    assert Recipe.from_json(start["recipe"]) == recipe
    assert start.keys() == {
        "kind",
        "step",
        "time",
        "device",
        "ranks",
        "torch",
        "threads",
        "torch_isa",
        "spimm_isa",
        "recipe",
    }
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5]
    assert [step["lr"] for step in steps] == pytest.approx([1e-5 + (1e-2 - 1e-5) * k / 5 for k in range(5)])
    assert steps[0].keys() == {"kind", "step", "time", "epoch", "loss", "lr", "grad_norm", "images_per_second"}
    assert [(record["epoch"], record["step"]) for record in epochs] == [(1, 5), (2, 10), (3, 15)]
    assert epochs[0]["train_loss"] == pytest.approx(sum(step["loss"] for step in steps) / 5)
    evaluated = {"loss", "top1", "untied_top1", "top5", "images", "eval_seconds"}
    assert epochs[0].keys() == {"kind", "step", "time", "epoch", "train_loss", "images_per_second"} | evaluated


def test_steps_are_logged_as_often_as_asked(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    run(replace(recipe, log_every=4), tmp_path, data)
    steps = [record["step"] for record in read_log(tmp_path / "log.jsonl") if record["kind"] == "step"]
    assert steps == [4, 8, 12]


def test_without_a_terminal_there_is_one_line_an_epoch(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    lines = run(replace(recipe, ema_decay=0.9), tmp_path, data, force_terminal=False).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    for part in ("train loss 1.", "test loss 1.", "top-1 ", "averaged top-1 ", " images/s"):
        assert part in lines[0]
    assert "top-5" not in lines[0]  # of three classes it is 100 % always


def test_the_top_5_of_more_than_five_classes_is_shown() -> None:
    for classes, there in ((5, False), (6, True), (None, True)):
        shown = StringIO()
        view = ProgressView(Console(file=shown, width=200), classes=classes)
        view.epoch({"epoch": 1, "top1": 50.0, "top5": 90.0, "ema_top5": 91.0})
        assert ("top-5 90.00 %" in shown.getvalue()) == there
        assert ("averaged top-5 91.00 %" in shown.getvalue()) == there


def test_on_a_terminal_a_bar_shows_loss_rate_and_speed(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    shown = run(recipe, tmp_path, data, force_terminal=True, color_system=None)
    assert "epoch 3/3  loss " in shown
    assert "images/s" in shown
    assert "15/15" in shown


def test_tensorboard_gets_the_same_numbers(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(replace(recipe, tensorboard=True), tmp_path, data)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = {record["step"]: record for record in read_log(tmp_path / "log.jsonl") if record["kind"] == "epoch"}
    written = {event.step: event.value for event in events.Scalars("epoch/top1")}
    assert written == pytest.approx({step: record["top1"] for step, record in logged.items()}, rel=1e-6)
    assert len(events.Scalars("step/loss")) == 15


def test_a_log_goes_on_where_the_checkpoint_stands(tmp_path: Path) -> None:
    log = RunLog(tmp_path, console=Console(file=StringIO()))
    with log:
        log.open(step=0, total_steps=9, total_epochs=1)
        for step in (1, 2, 3):
            log.step(step=step, images=4, epoch=1, loss=0.5, lr=0.1)
    with log.path.open("a") as file:
        file.write('{"kind": "step", "step": 4, "lo')  # the power went
    with log:
        log.open(step=2, total_steps=9, total_epochs=1)
        log.step(step=3, images=4, epoch=1, loss=0.25, lr=0.1)
    assert [(record["step"], record["loss"]) for record in read_log(log.path)] == [(1, 0.5), (2, 0.5), (3, 0.25)]


def test_a_broken_line_amid_a_log_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"kind": "step", "step": 1}\nnonsense\n{"kind": "step", "step": 2}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*log\.jsonl is cut short or is not JSON"):
        read_log(tmp_path / "log.jsonl")


def test_a_record_is_on_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    log = RunLog(tmp_path, console=Console(file=StringIO()))
    with log:
        log.open(step=0, total_steps=9, total_epochs=1)
        log.event("start", step=0, torch=torch.__version__)
        assert read_log(log.path)[0]["torch"] == torch.__version__
