import numpy as np
import pytest
import torch

from spimm.data import load_data, stratified_fold

LABELS = np.random.default_rng(0).choice(4, 203, p=(0.5, 0.3, 0.15, 0.05))


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_every_index_is_held_out_by_exactly_one_fold(folds):
    parts = [stratified_fold(LABELS, fold=fold, folds=folds) for fold in range(folds)]
    assert sorted(np.concatenate([test for _, test in parts])) == list(range(203))
    for train, test in parts:
        assert sorted([*train, *test]) == list(range(203))
        assert (np.diff(train) > 0).all()
        assert (np.diff(test) > 0).all()


def test_folds_and_their_classes_differ_by_at_most_one_image():
    held_out = [LABELS[stratified_fold(LABELS, fold=fold, folds=5)[1]] for fold in range(5)]
    assert {len(labels) for labels in held_out} == {40, 41}
    counts = np.array([np.bincount(labels, minlength=4) for labels in held_out])
    assert (np.ptp(counts, axis=0) <= 1).all()


def test_the_folds_never_change():
    labels = np.repeat([0, 1, 2], [4, 3, 5])
    held_out = [stratified_fold(labels, fold=fold, folds=3)[1].tolist() for fold in range(3)]
    assert held_out == [[0, 2, 5, 11], [3, 4, 7, 8], [1, 6, 9, 10]]


def test_a_fold_is_taken_from_all_images_of_both_parts(digits_folds):
    whole = load_data("digits")
    images = torch.cat([whole.train.images, whole.test.images])
    for data in digits_folds:
        assert len(data.train) + len(data.test) == len(images) == 1797
        assert (data.mean, data.std, data.class_names) == (whole.mean, whole.std, whole.class_names)
    pixels = torch.cat([data.test.images for data in digits_folds])
    assert torch.equal(pixels.flatten(1).double().sum(0), images.flatten(1).double().sum(0))
    assert "all images in 3 stratified folds, test = fold 2" in digits_folds[2].note


def test_labels_follow_their_images(digits_folds):
    whole = load_data("digits")
    images = torch.cat([whole.train.images, whole.test.images]).flatten(1).tolist()
    labels = torch.cat([whole.train.labels, whole.test.labels]).tolist()
    pairs = {(*image, label) for image, label in zip(images, labels, strict=True)}
    split = digits_folds[1].train
    seen = {
        (*image, label) for image, label in zip(split.images.flatten(1).tolist(), split.labels.tolist(), strict=True)
    }
    assert seen <= pairs


def test_image_files_are_taken_into_folds_too(image_folder):
    root = image_folder(count=4)
    parts = [load_data(f"folder:{root}", image_size=8, fold=fold, folds=4) for fold in range(4)]
    assert sorted(path for data in parts for path in data.test.images.paths) == sorted(map(str, root.rglob("*.png")))
    assert all(data.test.labels.bincount().tolist() == [2, 2] for data in parts)


@pytest.mark.parametrize(
    ("fold", "folds", "message"),
    [
        (5, 5, r"fold must lie in \[0, 5\), got 5"),
        (-1, 5, r"fold must lie in \[0, 5\), got -1"),
        (0, 1, r"folds must lie in \[2, 203\] for 203 images, got 1"),
        (0, 204, r"folds must lie in \[2, 203\] for 203 images, got 204"),
    ],
)
def test_folds_that_cannot_be_are_refused(fold, folds, message):
    with pytest.raises(ValueError, match=message):
        stratified_fold(LABELS, fold=fold, folds=folds)


@pytest.fixture(scope="module")
def digits_folds():
    return [load_data("digits", fold=fold, folds=3) for fold in range(3)]
