import os
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spimm.data import load_data, stratified_split
from spimm.data.static import CIFAR_STATISTICS, MNIST_STATISTICS

needs_real_data = pytest.mark.skipif("SPIMM_DATA" not in os.environ, reason="SPIMM_DATA names no folder of real data")


def test_digits_need_no_file_and_have_the_documented_split():
    data = load_data("digits")
    assert (len(data.train), len(data.test), data.num_classes) == (1437, 360, 10)
    assert (data.in_chans, data.image_size) == (1, (8, 8))
    assert int(data.train.images.max()) == 255
    assert int(data.train.images.min()) == 0


def test_the_digits_split_is_the_same_in_every_run():
    data = load_data("digits")
    assert torch.equal(data.test.images, load_data("digits").test.images)
    assert data.test.labels[:12].tolist() == [1, 4, 8, 6, 5, 9, 9, 1, 3, 2, 2, 2]


def test_the_digits_split_keeps_the_share_of_every_class_and_loses_no_image():
    from sklearn.datasets import load_digits

    data = load_data("digits")
    train, test = (torch.bincount(split.labels).numpy() for split in (data.train, data.test))
    total = np.bincount(load_digits().target)
    assert np.array_equal(train + test, total)
    assert np.abs(train - 0.8 * total).max() <= 1


def test_another_seed_or_fraction_gives_another_split():
    assert not torch.equal(load_data("digits", split_seed=1).test.images, load_data("digits").test.images)
    assert len(load_data("digits", train_fraction=0.5).train) == 898


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_train_fraction_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(ValueError, match="train_fraction must lie between 0 and 1"):
        load_data("digits", train_fraction=fraction)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.77])
def test_a_stratified_split_is_a_partition_with_fair_shares(fraction):
    labels = np.random.default_rng(0).integers(0, 7, 501)
    train, test = stratified_split(labels, train_fraction=fraction, seed=3)
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(501))
    assert len(train) == int(501 * fraction)
    shares = np.bincount(labels[train]) - fraction * np.bincount(labels)
    assert np.abs(shares).max() <= 1


def test_a_stratified_split_is_the_same_on_every_platform():
    _, held_out = stratified_split(np.arange(30) % 3, train_fraction=0.6, seed=0)
    assert held_out.tolist() == [0, 1, 2, 9, 13, 15, 19, 20, 21, 22, 23, 29]


def test_digits_are_resized_when_asked():
    data = load_data("digits", image_size=32)
    assert data.image_size == (32, 32)
    assert data.test.size == (32, 32)


def write_idx(path, values: np.ndarray) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.tobytes())


@pytest.mark.parametrize(("spec", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_mnist_files_as_torchvision_keeps_them_are_read(tmp_path, spec, folder):
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 5), ("t10k", 3)):
        write_idx(raw / f"{part}-images-idx3-ubyte", random.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8))
    data = load_data(spec, data_dir=tmp_path)
    assert (len(data.train), len(data.test), data.num_classes) == (5, 3, 10)
    assert (data.in_chans, data.image_size) == (1, (28, 28))
    images = np.frombuffer((raw / "t10k-images-idx3-ubyte").read_bytes(), np.uint8)[16:]
    assert np.array_equal(data.test.images.numpy().ravel(), images)


def test_a_plain_mnist_archive_serves_as_mnist(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=images, y_train=np.arange(4), x_test=images[:2], y_test=np.arange(2))
    data = load_data("mnist", data_dir=tmp_path)
    assert (len(data.train), len(data.test), data.num_classes) == (4, 2, 10)
    assert (data.mean, data.std) == MNIST_STATISTICS
    assert "mnist.npz" in data.note


@pytest.mark.parametrize(("spec", "class_name"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar_comes_from_torchvision_with_the_statistics_of_cifar10(tmp_path, monkeypatch, spec, class_name):
    import torchvision

    asked = []

    def stored(root, train, download):
        asked.append((root, train, download))
        images = np.full((4 if train else 2, 32, 32, 3), 9, np.uint8)
        return SimpleNamespace(data=images, targets=[0, 1, 1, 0][: len(images)], classes=["cat", "dog"])

    monkeypatch.setattr(torchvision.datasets, class_name, stored)
    data = load_data(spec, data_dir=tmp_path)
    assert asked == [(tmp_path, True, False), (tmp_path, False, False)]
    assert (data.mean, data.std) == CIFAR_STATISTICS
    assert data.class_names == ("cat", "dog")
    assert (data.in_chans, data.image_size, len(data.train), len(data.test)) == (3, (32, 32), 4, 2)


@pytest.mark.parametrize("spec", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_a_set_that_is_not_in_the_folder_is_reported_and_not_downloaded(tmp_path, spec):
    with pytest.raises(
        FileNotFoundError, match=rf"does not hold {spec}.*--data-dir .*SPIMM_DATA, or fetch it with --download"
    ):
        load_data(spec, data_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@needs_real_data
def test_real_mnist_has_its_known_size_and_statistics():
    from spimm.data.transforms import channel_statistics

    data = load_data("mnist")
    assert (len(data.train), len(data.test)) == (60000, 10000)
    (mean,), (std,) = channel_statistics(data.train.images)
    assert (round(mean, 4), round(std, 4)) == (data.mean[0], data.std[0])
