from dataclasses import replace
from pathlib import Path

import pytest

from spimm.models import create_model
from spimm.train import apply_overrides, load_recipe, plan_run
from spimm.train.plan import KNOWN, resting_bytes

SMALL = ["model=qkformer_4_96_cifar", "device=cpu"]


def test_a_recipe_is_planned_on_its_data_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = apply_overrides(load_recipe("digits"), ["device=cpu"])
    planned = plan_run(recipe, images=8)
    plan = planned.plan
    assert (plan.steps, plan.images, plan.data.train, plan.data.test) == (660, 21_120, 1437, 360)
    assert plan.parameters == sum(weight.numel() for weight in create_model(recipe.model).parameters())
    assert (plan.probe.images, plan.processes, planned.notes) == (8, 1, ())
    assert plan.hours > plan.train_hours > 0
    assert planned.device.startswith("cpu")
    assert list(tmp_path.iterdir()) == []


def test_published_sizes_and_noise_take_the_place_of_data_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPIMM_DATA", raising=False)
    planned = plan_run(apply_overrides(load_recipe("qkformer_cifar100"), SMALL), images=4, processes=2)
    assert planned.plan.data == KNOWN["cifar100"]
    assert (planned.plan.images, planned.plan.process_images) == (410 * 781 * 64, 32)
    assert len(planned.notes) == 1 and "cifar100 needs a data folder" in planned.notes[0]


def test_data_without_a_published_size_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPIMM_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"npz:cifar10_jpeg.npz is not found: .* and no data folder is given"):
        plan_run(load_recipe("cifar10_jpeg"))


def test_memory_grows_with_the_images_of_a_step_from_what_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPIMM_DATA", raising=False)
    recipe = apply_overrides(load_recipe("qkformer_cifar"), SMALL)
    plan = plan_run(recipe, images=32).plan
    if plan.memory is None:
        pytest.skip("the peak of memory is not to be had here")
    assert plan.memory.per_image > 4 * 32 * 32 * 48 * 2  # the first map in bf16 alone
    assert plan.probe.peak is not None and plan.probe.peak > resting_bytes(plan.parameters, recipe)


def test_a_start_that_is_missing_and_a_teacher_that_cannot_be_had_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPIMM_DATA", raising=False)

    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError("no weights of the teacher")

    monkeypatch.setattr("spimm.train.run.build_teacher", refuse)
    recipe = replace(
        apply_overrides(load_recipe("qkformer_cifar"), SMALL), teacher="test_resnet", init_from="runs/none"
    )
    notes = plan_run(recipe, images=2).notes
    assert any("no weights of the teacher; a teacher with random weights" in note for note in notes)
    assert any("init_from=runs/none is not there yet" in note for note in notes)


def test_a_step_in_pieces_is_measured_on_any_number_of_images_and_planned_piece_by_piece() -> None:
    recipe = apply_overrides(load_recipe("digits"), ["device=cpu", "accumulate=4", "batch_parts=8"])
    plan = plan_run(recipe, images=3).plan
    assert (plan.probe.images, plan.process_images, plan.memory) == (3, 8, None)


@pytest.mark.parametrize("setting", [{"images": 0}, {"processes": 0}])
def test_a_step_of_no_images_and_no_processes_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(setting))} must be at least 1, got 0"):
        plan_run(load_recipe("digits"), **setting)


def test_the_weights_that_a_run_starts_from_are_tried(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    recipe = replace(load_recipe("digits"), init_from=str(tmp_path / "w.safetensors"), device="cpu")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        plan_run(recipe, images=4)
