from dataclasses import replace

import pytest

from spimm.train import Recipe, describe_recipe, list_recipes, load_recipe
from spimm.train.cost import SPEEDS, estimate
from spimm.train.plan import (
    KNOWN,
    DataSize,
    Memory,
    Plan,
    Probe,
    evaluations,
    hours,
    images_seen,
    memory_line,
    resting_bytes,
    steps_per_epoch,
)

RECIPE = Recipe(model="m", data="d", epochs=8, cooldown_epochs=2, batch_size=60, eval_every=4)
SIZE = DataSize(train=1000, test=500, classes=10, in_chans=3, size=(8, 8))


def probe(images: int, peak: int | None = None) -> Probe:
    return Probe(images, seconds=images / 5, peak=peak, eval_seconds=images / 20)


def test_an_epoch_has_whole_batches_and_a_run_all_epochs_of_them() -> None:
    assert steps_per_epoch(1000, 60) == 16
    assert images_seen(RECIPE, 1000) == 10 * 16 * 60
    with pytest.raises(ValueError, match="an epoch must have a whole batch, got 59 images and batches of 60"):
        steps_per_epoch(59, 60)


def test_evaluations_are_those_of_training_twice_with_averaged_weights() -> None:
    assert evaluations(RECIPE) == 3  # after epochs 4, 8 and 10
    assert evaluations(replace(RECIPE, eval_every=5)) == 2
    assert evaluations(replace(RECIPE, ema_decay=0.9)) == 6


def test_hours_are_images_over_the_speed_of_all_processes() -> None:
    assert hours(7200, 2.0) == 1.0
    assert hours(7200, 2.0, processes=4, efficiency=0.5) == 0.5
    for settings in ({"images_per_second": 0.0}, {"processes": 0}, {"efficiency": 1.2}, {"images": -1}):
        with pytest.raises(ValueError, match="wanted positive numbers and an efficiency of at most 1, got"):
            hours(**{"images": 1, "images_per_second": 1.0, **settings})


def test_memory_is_a_line_through_two_steps_and_tells_the_batch_that_fits() -> None:
    line = memory_line(probe(4, 500), probe(8, 900))
    assert line == Memory(fixed=100.0, per_image=100.0)
    assert line is not None and line.at(64) == 6500
    assert (line.most_images(6599), line.most_images(6600), line.most_images(50)) == (64, 65, 0)
    assert memory_line(probe(4), probe(8, 900)) is None
    with pytest.raises(ValueError, match="the second step must have more images than the first, got 8, 8"):
        memory_line(probe(8, 500), probe(8, 900))


def test_what_rests_between_steps_depends_on_the_optimiser_and_the_average() -> None:
    sizes = {
        ("adamw", 0.0): 12,
        ("lamb", 0.0): 12,
        ("sgd", 0.0): 8,
        ("adamw", 0.9): 16,
    }
    for (optimizer, ema), size in sizes.items():
        assert resting_bytes(10, replace(RECIPE, optimizer=optimizer, ema_decay=ema)) == 10 * size


def test_a_plan_adds_up() -> None:
    plan = Plan(RECIPE, SIZE, parameters=10, probe=probe(8, 900), memory=Memory(100.0, 100.0))
    assert (plan.steps_per_epoch, plan.steps, plan.images) == (16, 160, 9600)
    assert plan.images_per_second == pytest.approx(5.0)
    assert plan.train_hours == pytest.approx(9600 / 5 / 3600)
    assert plan.eval_hours == pytest.approx(3 * 500 / 20 / 3600)
    assert plan.hours == plan.train_hours + plan.eval_hours
    assert (plan.process_images, plan.bytes, plan.loading_rate) == (60, 6100, pytest.approx(5.0))


def test_processes_share_the_batch_and_the_hours_and_load_the_more() -> None:
    alone = Plan(RECIPE, SIZE, 10, probe(8, 900), Memory(100.0, 100.0))
    shared = replace(alone, processes=4, efficiency=0.8)
    assert shared.process_images == 15
    assert shared.bytes == 1600
    assert shared.steps == alone.steps
    assert shared.hours == pytest.approx(alone.hours / 3.2)
    assert shared.loading_rate == pytest.approx(16.0)
    assert replace(shared, recipe=replace(RECIPE, accumulate=3)).process_images == 5
    assert replace(alone, memory=None).bytes is None


def test_the_estimate_of_a_recipe_follows_from_its_images_and_its_measured_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = replace(load_recipe("digits"), name="one")
    assert estimate(recipe) == "not run; 15 epochs, 0.0 million images, speed not measured"
    assert images_seen(recipe, KNOWN["digits"].train) == 21_120
    monkeypatch.setitem(SPEEDS, "one", 0.01)  # 586.7 hours
    assert "15 epochs, 0.0 million images, by the plan about 590 hours on " in estimate(recipe)


def test_speeds_are_those_of_recipes_that_have_not_been_run() -> None:
    assert set(SPEEDS) <= set(list_recipes())
    assert all(speed > 0 and "not run; " in describe_recipe(name) for name, speed in SPEEDS.items())
