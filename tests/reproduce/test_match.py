from dataclasses import replace

import pytest

from spimm.reproduce import Row, Status, find_row, list_rows, prepare
from spimm.reproduce.match import check_alike, check_stands_for, reductions, status_of_run
from spimm.train import Recipe, load_recipe

MNIST, CIFAR = (find_row(list_rows(), name) for name in ("ttfs/mnist/cnn", "qkformer/cifar10/4-384-t4"))
FULL, SCALED = load_recipe("qkformer_cifar"), load_recipe("cifar10_jpeg")


def test_the_published_run_is_full_however_it_is_seeded_and_logged() -> None:
    for change in ({}, {"seed": 3, "log_every": 100}, {"epochs": 500}):
        assert status_of_run(CIFAR, replace(FULL, **change), 10_000) is Status.FULL


@pytest.mark.parametrize(
    ("recipe", "images"),
    [
        (FULL, 9_999),
        (replace(FULL, epochs=399), 10_000),
        (replace(FULL, fold=0), 10_000),
        (replace(FULL, model_options={**FULL.model_options, "neuron": "if"}), 10_000),
        (replace(FULL, model="qkformer_4_192_cifar"), 10_000),
        (SCALED, 10_000),
    ],
)
def test_a_run_with_less_of_anything_is_scaled_down(recipe: Recipe, images: int) -> None:
    assert status_of_run(CIFAR, recipe, images) is Status.SCALED


def test_what_was_reduced_is_named() -> None:
    named = list(reductions(CIFAR, SCALED))
    assert named[:3] == [
        "a JPEG copy of CIFAR-10 for CIFAR-10",
        "`qkformer_4_96_cifar` (0.425 M) for `qkformer_4_384_cifar` (6.71 M)",
        "6 of 410 epochs",
    ]
    assert named[-1].startswith("other: augment") and "mixup" in named[-1] and "seed" not in named[-1]
    assert list(reductions(CIFAR, FULL)) == []
    fewer = replace(FULL, model_options={"num_steps": 1, "tau": 3.0})
    assert list(reductions(CIFAR, fewer)) == ["num_steps 1 for 4", "tau 3.0 for default"]


def test_fewer_epochs_of_the_run_that_it_starts_from_are_named_too() -> None:
    row = find_row(list_rows(), "ttfs/cifar10/vgg11")
    named = list(reductions(row, load_recipe("ttfs_vgg11_cifar10_jpeg")))
    assert "2 of 300 epochs" in named
    assert "5 of 200 epochs before it, of the run it starts from" in named


def test_a_run_of_another_network_or_of_other_data_does_not_stand_for_a_row() -> None:
    check_stands_for(CIFAR, FULL)
    check_stands_for(CIFAR, replace(SCALED, epochs=1, seed=1))
    for other in (replace(SCALED, data="digits"), replace(SCALED, model="qkformer_4_192_cifar"), load_recipe("mnist")):
        with pytest.raises(
            ValueError, match="does not stand for qkformer/cifar10/4-384-t4; wanted qkformer_4_384_cifar"
        ):
            check_stands_for(CIFAR, other)
    with pytest.raises(ValueError, match="none, it has no recipe"):
        check_stands_for(find_row(list_rows(), "ttfs/chip/4-bit"), FULL)


def test_runs_of_one_record_differ_in_seed_or_fold() -> None:
    check_alike([SCALED, replace(SCALED, seed=1), replace(SCALED, fold=1)])
    with pytest.raises(ValueError, match=r"seeds and folds \[\(0, None\), \(0, None\)\]"):
        check_alike([SCALED, SCALED])
    with pytest.raises(ValueError, match="differ in epochs, lr; wanted seeds or folds alone"):
        check_alike([SCALED, replace(SCALED, seed=1, lr=0.1, epochs=2)])


def test_a_row_is_prepared_with_changes_that_leave_it_the_row() -> None:
    assert prepare(CIFAR, ["seed=4"]) == replace(FULL, seed=4)
    assert prepare(CIFAR, ["epochs=2"], scaled=True) == replace(SCALED, epochs=2)
    with pytest.raises(ValueError, match="does not stand for qkformer/cifar10/4-384-t4"):
        prepare(CIFAR, ["model=qkformer_4_192_cifar"])
    with pytest.raises(ValueError, match="ttfs/mnist/cnn has no recipe for small data; there is one without --scaled"):
        prepare(MNIST, scaled=True)
    row = next(row for row in list_rows() if row.id.startswith("metaspikeformer/coco/"))
    with pytest.raises(ValueError, match=r"has no recipe: .*Mask R-CNN"):
        prepare(row)


def test_a_row_without_a_published_recipe_can_only_be_scaled_down() -> None:
    row = Row("ttfs/mnist/x", "", "", {"top1": 1.0}, scaled=CIFAR.scaled)
    assert status_of_run(row, SCALED, 10_000) is Status.SCALED
    assert list(reductions(row, SCALED)) == ["a JPEG copy of CIFAR-10 for MNIST"]
