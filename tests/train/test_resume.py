import json
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from spimm.data import Augment, ImageData, load_data
from spimm.files import sha256
from spimm.train import (
    Checkpoint,
    CheckpointError,
    Recipe,
    TrainResult,
    apply_overrides,
    build_model,
    load_recipe,
    load_weights,
    read_checkpoint,
    read_log,
    train,
)
from spimm.train.checkpoint import write_checkpoint

from .conftest import TinyNet, signal_at
from .families import TINY, tiny_model

TIMING = {"time", "images_per_second", "eval_seconds"}
SETTINGS = {
    "plain": {},
    "averaged": {"ema_decay": 0.9},
    "bf16": {"precision": "bf16", "ema_decay": 0.9},
    "lamb": {"optimizer": "lamb", "ema_decay": 0.9},
    "adam": {"optimizer": "adam", "schedule": "milestones", "milestones": (1, 2), "weight_decay": 0.0},
    "sgd": {"optimizer": "sgd", "ema_decay": 0.9},
    "mixed": {"mixup": 0.8, "cutmix": 1.0, "mix_epochs": 2, "label_smoothing": 0.1},
    "repeated": {"repeats": 2, "mixup": 0.5, "mix_probability": 0.5, "layer_decay": 0.5},
    "random": {"augment": Augment(rand_augment="rand-m9-mstd0.5-inc1", erase=0.5, erase_mode="const")},
    "warped": {"augment": Augment(rotate=30, shear=10, auto_augment="imagenet", fill=128, cutout=2)},
}


def run(recipe: Recipe, out: Path, data: ImageData, model: TinyNet | None = None, **options: Any) -> TrainResult:
    return train(recipe, out, data=data, model=model or TinyNet(), console=Console(file=StringIO()), **options)


def progress(out: Path) -> list[dict[str, Any]]:
    """The log's steps and epochs without what a clock decides."""
    records = [record for record in read_log(out / "log.jsonl") if record["kind"] in ("step", "epoch")]
    return [{key: value for key, value in record.items() if key not in TIMING} for record in records]


def assert_same(first: Any, second: Any) -> None:
    """Equal to the last bit, whatever the nesting."""
    assert type(first) is type(second)
    if isinstance(first, Tensor):
        assert first.dtype == second.dtype
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


def assert_same_run(first: Path, second: Path) -> None:
    for name in ("last", "best"):
        one, other = (read_checkpoint(out / "checkpoints" / name) for out in (first, second))
        assert_same(one.model, other.model)
        assert_same(one.ema, other.ema)
        assert_same(one.optimizer, other.optimizer)
        assert_same(one.state, other.state)
    assert progress(first) == progress(second)


def crash(logits: Tensor) -> Tensor:
    raise OSError("the machine went away")


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("step", "number"), [(7, signal.SIGINT), (10, signal.SIGTERM), (15, signal.SIGINT)])
def test_a_run_stopped_by_a_signal_and_resumed_equals_one_that_was_not(
    step: int, number: int, setting: str, recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    recipe = replace(recipe, **SETTINGS[setting])
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(recipe, whole, data).completed
    stopped = run(recipe, parts, data, signal_at(step, number))
    assert (stopped.completed, stopped.step) == (False, step)
    finished = run(recipe, parts, data)
    assert (finished.completed, finished.step) == (True, 15)
    assert_same_run(whole, parts)


@pytest.mark.parametrize("checkpoint_every", [0, 3])
def test_a_run_that_crashed_goes_on_from_its_last_checkpoint_and_logs_no_step_twice(
    checkpoint_every: int, recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    recipe = replace(recipe, checkpoint_every=checkpoint_every, ema_decay=0.9)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(recipe, whole, data)
    with pytest.raises(OSError, match="went away"):
        run(recipe, parts, data, TinyNet(fail_at=15, fail=crash))
    assert read_checkpoint(parts / "checkpoints" / "last").state["step"] == (12 if checkpoint_every else 10)
    run(recipe, parts, data)
    assert_same_run(whole, parts)
    assert [record["step"] for record in progress(parts) if "lr" in record] == list(range(1, 16))


def test_a_run_that_crashed_before_its_first_checkpoint_starts_again(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="went away"):
        run(recipe, tmp_path / "parts", data, TinyNet(fail_at=3, fail=crash))
    run(recipe, tmp_path / "parts", data)
    run(recipe, tmp_path / "whole", data)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_spiking_model_stopped_and_resumed_equals_one_that_was_not(precision: str, tmp_path: Path) -> None:
    settings = ["epochs=2", "warmup_epochs=1", "batch_size=8", "ema_decay=0.9", "log_every=1", "device=cpu"]
    recipe = apply_overrides(load_recipe("digits"), [*settings, f"precision={precision}", "tensorboard=false"])
    digits = load_data("digits")
    few = replace(digits, train=digits.train.subset(range(32)), test=digits.test.subset(range(16)))

    def stop(model: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    train(recipe, tmp_path / "whole", data=few, console=Console(file=StringIO()))
    torch.manual_seed(recipe.seed)
    model, steps = build_model(recipe, few), []
    model.register_forward_pre_hook(stop)
    assert not train(recipe, tmp_path / "parts", data=few, model=model, console=Console(file=StringIO())).completed
    assert train(recipe, tmp_path / "parts", data=few, console=Console(file=StringIO())).completed
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("family", TINY)
def test_every_family_stopped_at_any_step_and_resumed_equals_one_that_was_not(
    family: str, recipe: Recipe, tmp_path: Path
) -> None:
    digits = load_data("digits")
    few = replace(digits, train=digits.train.subset(range(40)), test=digits.test.subset(range(16)))
    recipe = replace(recipe, model=TINY[family][0], epochs=2, mixup=0.5, ema_decay=0.9)
    step = random.Random(family).randrange(1, 10)

    def stop(model: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        steps.append(model.training)
        if sum(steps) == step and model.training:
            os.kill(os.getpid(), signal.SIGINT)

    def fit(out: str, *hooks: Callable[[torch.nn.Module, tuple[Tensor]], None]) -> bool:
        model = tiny_model(family, exact=False)
        for hook in hooks:
            model.register_forward_pre_hook(hook)
        return train(recipe, tmp_path / out, data=few, model=model, console=Console(file=StringIO())).completed

    steps: list[bool] = []
    assert fit("whole")
    assert not fit("parts", stop)
    assert read_checkpoint(tmp_path / "parts" / "checkpoints" / "last").state["step"] == step
    assert fit("parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_two_runs_of_one_recipe_are_equal_and_another_seed_is_not(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    for name, seed in (("first", 0), ("second", 0), ("third", 1)):
        run(replace(recipe, seed=seed), tmp_path / name, data)
    assert_same_run(tmp_path / "first", tmp_path / "second")
    assert progress(tmp_path / "first") != progress(tmp_path / "third")


def test_a_finished_run_is_not_trained_further(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    first = run(recipe, tmp_path, data)
    model = TinyNet()
    assert run(recipe, tmp_path, data, model) == first
    assert model.training_steps == 0


def test_the_state_left_by_a_stop_says_how_to_go_on(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    shown = StringIO()
    model = signal_at(4, signal.SIGINT)
    train(recipe, tmp_path, data=data, model=model, console=Console(file=shown, width=1000))
    assert f"stopped by SIGINT after step 4, saved in {tmp_path / 'checkpoints' / 'last'}" in shown.getvalue()
    assert "run the same command again" in shown.getvalue()
    assert read_log(tmp_path / "log.jsonl")[-1]["reason"] == "SIGINT"


def test_the_signal_handlers_of_before_come_back(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(recipe, tmp_path, data)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_resume_from_a_named_checkpoint_goes_on_from_there(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    run(recipe, tmp_path / "whole", data)
    run(recipe, tmp_path / "parts", data, signal_at(8, signal.SIGINT))
    run(recipe, tmp_path / "other", data, resume=tmp_path / "parts" / "checkpoints" / "last")
    one, other = (read_checkpoint(tmp_path / name / "checkpoints" / "last") for name in ("whole", "other"))
    assert_same(one.model, other.model)
    with pytest.raises(FileNotFoundError, match="no folder"):
        run(recipe, tmp_path / "other", data, resume=tmp_path / "nowhere")


def test_never_resume_refuses_a_folder_that_holds_a_run(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    run(recipe, tmp_path, data, resume="never")
    with pytest.raises(FileExistsError, match="holds a run already"):
        run(recipe, tmp_path, data, resume="never")


def test_a_run_is_not_resumed_under_another_recipe(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    run(recipe, tmp_path, data, signal_at(4, signal.SIGINT))
    with pytest.raises(ValueError, match=r"another recipe: lr was 0.01, now 0.02"):
        run(replace(recipe, lr=0.02), tmp_path, data)
    assert run(replace(recipe, log_every=5, checkpoint_every=2), tmp_path, data).completed


def test_a_run_from_before_a_setting_existed_goes_on_where_the_setting_has_its_default(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    last = run(recipe, tmp_path, data, signal_at(4, signal.SIGINT)).last_checkpoint
    checkpoint = read_checkpoint(last)
    for name in ("distillation", "optimizer", "mixup"):
        del checkpoint.state["recipe"][name]
    del checkpoint.state["recipe"]["augment"]["shear"]
    write_checkpoint(last, checkpoint)
    with pytest.raises(ValueError, match=r"another recipe: optimizer was 'adamw', now 'lamb'; a new run"):
        run(replace(recipe, optimizer="lamb"), tmp_path, data)
    assert run(recipe, tmp_path, data).completed


def test_a_checkpoint_of_another_model_is_refused(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    run(recipe, tmp_path, data, signal_at(4, signal.SIGINT))
    model = TinyNet()
    model.neck = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"checkpoints/last does not fit TinyNet; .*neck\.weight"):
        run(recipe, tmp_path, data, model)


def change_state(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    state = json.loads((folder / "state.json").read_text())
    change(state)
    (folder / "state.json").write_text(json.dumps(state))
    list_again(folder)


def change_weights(folder: Path) -> None:
    tensors = {key: value.clone() for key, value in load_file(folder / "model.safetensors").items()}
    tensors["conv.weight"][0] = torch.nan
    save_file(tensors, folder / "model.safetensors")
    list_again(folder)


def list_again(folder: Path) -> None:
    """Writes the checksums of the files as they are now: damage that they do not show."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {name: sha256(folder / name) for name in manifest["files"]}
    path.write_text(json.dumps(manifest))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut": lambda folder: (folder / "state.json").write_bytes(b"{"),
    "copied in half": lambda folder: (folder / "model.safetensors").unlink(),
    "bit": lambda folder: (folder / "optimizer.safetensors").write_bytes(
        (folder / "optimizer.safetensors").read_bytes()[:-1] + b"\x01"
    ),
    "manifest": lambda folder: (folder / "manifest.json").unlink(),
    "random state": lambda folder: change_state(folder, lambda state: state["rng"].update(numpy_position=10**6)),
    "recipe": lambda folder: change_state(folder, lambda state: state["recipe"].update(epochs="many")),
    "not finite": lambda folder: change_weights(folder),
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before_and_says_so(
    damage: str, recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(recipe, whole, data)
    run(recipe, parts, data)
    last = parts / "checkpoints" / "last"
    DAMAGES[damage](last)
    with pytest.raises(CheckpointError, match=r"the checkpoint before it is .*last\.old$"):
        run(recipe, parts, data, resume=last)
    shown = StringIO()
    train(recipe, parts, data=data, model=TinyNet(), console=Console(file=shown, width=1000))
    assert f"the checkpoint before it is {last}.old, which is taken in its place" in shown.getvalue()
    assert_same_run(whole, parts)
    assert read_log(parts / "log.jsonl")[-1]["step"] == 15
    assert sorted(path.name for path in last.parent.glob("last*")) == ["last", "last.damaged", "last.old"]
    assert read_checkpoint(last.with_name("last.old")).state["step"] == 10


def test_where_both_checkpoints_are_damaged_both_are_named(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    run(recipe, tmp_path, data)
    for name in ("last", "last.old"):
        DAMAGES["bit"](tmp_path / "checkpoints" / name)
    with pytest.raises(CheckpointError, match=r"last/optimizer\.safetensors .*last\.old/optimizer\.safetensors"):
        run(recipe, tmp_path, data)


def test_a_damaged_best_checkpoint_is_replaced_by_the_one_before_with_a_warning(
    recipe: Recipe, data: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best = tmp_path / "checkpoints" / "best"
    for value in (0.5, 1.0):
        weights = {name: torch.full_like(tensor, value) for name, tensor in TinyNet().state_dict().items()}
        write_checkpoint(best, Checkpoint(weights, {}))
    (best / "model.safetensors").write_bytes(b"short")
    model = TinyNet()
    load_weights(model, tmp_path)
    assert model.head.weight.unique().item() == 0.5
    assert "best.old, which is taken in its place" in caplog.text


def test_a_run_that_goes_on_with_other_threads_says_so_in_a_line(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    run(recipe, tmp_path, data, signal_at(4, signal.SIGINT))
    shown = StringIO()
    torch.set_num_threads(2)
    train(recipe, tmp_path, data=data, model=TinyNet(), console=Console(file=shown, width=1000))
    assert shown.getvalue().count("rounded otherwise: threads was 1, now 2") == 1
    shown = StringIO()
    train(recipe, tmp_path, data=data, model=TinyNet(), console=Console(file=shown, width=1000))
    assert "rounded otherwise" not in shown.getvalue()


@pytest.mark.parametrize("line", [b"nonsense", b"\xff\xfe", b"[1]", b'{"kind": "step", "step": "x"}', b"\x00" * 50])
def test_a_log_with_a_damaged_line_does_not_stop_the_resume(
    line: bytes, recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(recipe, whole, data)
    run(recipe, parts, data, signal_at(7, signal.SIGINT))
    log = parts / "log.jsonl"
    lines = log.read_bytes().split(b"\n")
    log.write_bytes(b"\n".join([*lines[:3], line, *lines[3:]]))
    shown = StringIO()
    train(recipe, parts, data=data, model=TinyNet(), console=Console(file=shown, width=1000))
    assert f"1 damaged line of {log} moved to {parts / 'log.damaged'}" in shown.getvalue()
    assert (parts / "log.damaged").read_bytes() == line + b"\n"
    assert_same_run(whole, parts)


@pytest.mark.parametrize(
    "names", [["log.jsonl"], ["recipe.json"], ["data.json"], ["log.jsonl", "recipe.json", ".lock"]]
)
def test_a_run_goes_on_without_what_is_missing_beside_its_checkpoints(
    names: list[str], recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    run(recipe, tmp_path, data, signal_at(7, signal.SIGINT))
    for name in names:
        (tmp_path / name).unlink()
    assert run(recipe, tmp_path, data).completed
    assert all((tmp_path / name).is_file() for name in names)
