from dataclasses import replace
from typing import Any

import pytest

from spimm.reproduce import Row, Status, find_row, list_rows, prepare
from spimm.reproduce.match import (
    check_alike,
    check_stands_for,
    on_other_data,
    reductions,
    status_of_count,
    status_of_run,
)
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
        (replace(FULL, model="qkformer_4_192_cifar"), 10_000),
        (SCALED, 10_000),
    ],
)
def test_a_run_with_less_of_anything_is_scaled_down(recipe: Recipe, images: int) -> None:
    assert status_of_run(CIFAR, recipe, images) is Status.SCALED


@pytest.mark.parametrize(
    "changes",
    [{"model_options": {**FULL.model_options, "neuron": "if"}}, {"lr": 0.1}, {"epochs": 399, "optimizer": "sgd"}],
    ids=str,
)
def test_another_rule_or_training_on_the_same_data_is_not_the_papers(changes: dict[str, Any]) -> None:
    assert status_of_run(CIFAR, replace(FULL, **changes), 10_000) is Status.OWN


def test_our_training_of_spike_times_on_mnist_is_not_that_of_the_paper() -> None:
    ours = load_recipe("ttfs_mnist")
    assert status_of_run(MNIST, ours, 10_000) is Status.OWN
    named = list(reductions(MNIST, ours))
    assert "40 of 150 epochs" in named and "closed default for True" in named and "readout default for time" in named
    assert status_of_run(MNIST, load_recipe("ttfs_mnist_paper"), 10_000) is Status.FULL


@pytest.mark.parametrize(
    ("row", "recipe", "other"),
    [
        ("qkformer/cifar10dvs/2-256-t16", "nmnist_qkformer", True),
        ("metaspikeformer/hardvs/18m-t8", "nmnist", True),
        ("metaspikeformer/imagenet/15m-t1", "metaspikeformer_cifar10_jpeg", True),
        ("spikeatconv/cifar100/mbpl4-t2", "spk_tables", True),
        ("qkformer/cifar10/4-384-t4", "cifar10_jpeg", False),
        ("ttfs/mnist/cnn", "ttfs_mnist", False),
    ],
)
def test_a_run_on_other_data_is_told_from_one_on_the_rows_images(row: str, recipe: str, other: bool) -> None:
    assert on_other_data(find_row(list_rows(), row), load_recipe(recipe)) is other


def test_a_count_is_full_only_where_the_print_is_met_to_its_last_digit() -> None:
    rows = {row.id: row for row in list_rows()}
    for name, level in {
        "metaspikeformer/imagenet/15m-t1": Status.FULL,  # 15.112 for 15.1
        "metaspikeformer/imagenet/55m-t1": Status.FULL,  # 55.350 for 55.4
        "qkformer/cifar10/4-384-t4": Status.OFF,  # 6.706 for 6.74
        "spikeatconv/imagenet/tiny-t1": Status.OFF,  # 15.46 for 14.6
    }.items():
        assert status_of_count(rows[name], "params") is level, name


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
    with pytest.raises(ValueError, match="10-384-t4 has no recipe for small data"):
        prepare(find_row(list_rows(), "qkformer/imagenet/10-384-t4"), scaled=True)
    row = next(row for row in list_rows() if row.id.startswith("metaspikeformer/coco/"))
    with pytest.raises(ValueError, match=r"has no recipe: .*Mask R-CNN"):
        prepare(row)


def test_a_row_without_a_published_recipe_can_only_be_scaled_down() -> None:
    row = Row("ttfs/mnist/x", "", "", {"top1": 1.0}, scaled=CIFAR.scaled)
    assert status_of_run(row, SCALED, 10_000) is Status.SCALED
    assert list(reductions(row, SCALED)) == ["a JPEG copy of CIFAR-10 for MNIST"]
