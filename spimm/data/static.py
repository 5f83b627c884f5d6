"""Standard image sets: scikit-learn's digits (needs no file) and torchvision's MNIST and CIFAR families."""

from pathlib import Path

import numpy as np

from spimm.data.dataset import ImageData, in_memory
from spimm.data.idx import FIRST_LABELS, find_idx, read_idx
from spimm.data.packed import load_npz
from spimm.data.split import ImageSplit

DIGITS = tuple("0123456789")
# (mean, std) on the 0..1 scale. CIFAR-100 takes CIFAR-10's, as QKFormer does (Zhou et al. 2024).
MNIST_STATISTICS = ((0.1307,), (0.3081,))
FASHION_STATISTICS = ((0.2860,), (0.3530,))
CIFAR_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
# name -> (torchvision class, statistics)
TORCHVISION_SETS = {
    "mnist": ("MNIST", MNIST_STATISTICS),
    "fashion-mnist": ("FashionMNIST", FASHION_STATISTICS),
    "cifar10": ("CIFAR10", CIFAR_STATISTICS),
    "cifar100": ("CIFAR100", CIFAR_STATISTICS),
}


def load_digits(
    *, image_size: int | None = None, train_fraction: float | None = None, seed: int | None = None
) -> ImageData:
    """The 1797 8x8 digits that come with scikit-learn, split by class: 1437 train / 360 test by default.

    The split depends on train_fraction (None: 0.8) and seed (None: 0) only. Ink 0..16 becomes 0..255.
    """
    ink, labels = bundled_digits()
    images = np.rint(ink * (255 / 16)).astype(np.uint8)
    fraction = 0.8 if train_fraction is None else train_fraction
    seed = 0 if seed is None else seed
    kept, held_out = stratified_split(labels, train_fraction=fraction, seed=seed)
    return in_memory(
        "digits",
        ImageSplit.from_arrays(images[kept], labels[kept]),
        ImageSplit.from_arrays(images[held_out], labels[held_out]),
        note=f"scikit-learn's 8x8 digits, stratified split, train fraction {fraction}, seed {seed}",
        class_names=DIGITS,
        image_size=image_size,
    )


def bundled_digits() -> tuple[np.ndarray, np.ndarray]:
    """Ink of scikit-learn's digits, float64 [N, 8, 8] of 0 to 16, and their labels, int64 [N]."""
    from sklearn.datasets import load_digits as load_bundled

    ink, labels = (np.asarray(array) for array in load_bundled(return_X_y=True))
    return ink.reshape(-1, 8, 8), labels


def stratified_split(labels: np.ndarray, *, train_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted (train, test) indices that keep the share of every class to within one image.

    floor(N * train_fraction) images train; classes with the largest remainders round up. The same on every platform
    and numpy version.
    """
    if not 0 < train_fraction < 1:
        raise ValueError(f"train_fraction must lie between 0 and 1, got {train_fraction}")
    classes, counts = np.unique(labels, return_counts=True)
    shares = counts * train_fraction
    quotas = np.floor(shares).astype(np.int64)
    missing = int(len(labels) * train_fraction) - int(quotas.sum())
    quotas[np.argsort(quotas - shares, kind="stable")[:missing]] += 1
    # RandomState, because its stream is frozen for good (NEP 19) and a split has to last.
    random = np.random.RandomState(seed)
    train = np.zeros(len(labels), dtype=bool)
    for label, quota in zip(classes, quotas, strict=True):
        train[random.permutation(np.flatnonzero(labels == label))[:quota]] = True
    return np.flatnonzero(train), np.flatnonzero(~train)


def torchvision_classes(name: str) -> tuple[str, ...] | None:
    """The class names of one of `TORCHVISION_SETS`; None where only the files hold them."""
    from torchvision import datasets

    names = DIGITS if name == "mnist" else getattr(getattr(datasets, TORCHVISION_SETS[name][0]), "classes", None)
    return None if names is None else tuple(names)


def load_torchvision(name: str, root: Path, *, image_size: int | None = None, download: bool = False) -> ImageData:
    """One of `TORCHVISION_SETS` from the folder `root`, its official split, in memory.

    `root`/mnist.npz (x_train, y_train, x_test, y_test) serves as MNIST if it is there, and so do the published files of
    MNIST and Fashion-MNIST, packed or not (`find_idx`). Raises FileNotFoundError if the set is not in `root`, unless
    `download` allows torchvision to fetch it.
    """
    class_name, statistics = TORCHVISION_SETS[name]
    if name == "mnist" and (root / "mnist.npz").is_file():
        path = root / "mnist.npz"
        return load_npz(path, name=name, image_size=image_size, class_names=DIGITS, statistics=statistics)
    folder = find_idx(name, class_name, root) if name in FIRST_LABELS else None
    if folder is not None:
        idx = read_idx(folder)
        splits = [ImageSplit.from_arrays(idx.images[part], idx.labels[part]) for part in idx.images]
        class_names, where = torchvision_classes(name), f"published files in {folder.name}/"
    else:
        splits, class_names = _from_torchvision(name, class_name, root, download)
        where = f"{class_name} as torchvision stores it"
    return in_memory(
        name,
        *splits,
        note=f"{where}, official split",
        class_names=class_names,
        statistics=statistics,
        image_size=image_size,
    )


def _from_torchvision(
    name: str, class_name: str, root: Path, download: bool
) -> tuple[list[ImageSplit], tuple[str, ...]]:
    from torchvision import datasets

    splits, class_names = [], DIGITS
    for train in (True, False):
        try:
            part = getattr(datasets, class_name)(root, train=train, download=download)
        except RuntimeError as error:
            if download:
                raise RuntimeError(f"{name} could not be fetched into {root}: {_first_line(error)}") from error
            hint = {"mnist": ", as mnist.npz or as the published .gz files", "fashion-mnist": " or as .gz files"}
            raise FileNotFoundError(
                f"{root} does not hold {name} as torchvision stores it{hint.get(name, '')}: give another --data-dir "
                "(data_dir= in Python) or SPIMM_DATA, or fetch it with --download (download=True)"
            ) from error
        splits.append(ImageSplit.from_arrays(np.asarray(part.data), np.asarray(part.targets)))
        class_names = DIGITS if name == "mnist" else tuple(part.classes)
    return splits, class_names


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
